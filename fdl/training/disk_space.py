"""Warns before the training if the disk may not have room for what a bundle will write."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fdl.core import layout
from fdl.core.console import Say
from fdl.core.files import size_on_disk
from fdl.core.settings import Bundle, Cell, Params
from fdl.training import costs

# Bytes, more than any bundle of the presets needs. With so much free space the half second of counting is saved.
_PLENTY = 64 * 2**30


def is_plenty() -> bool:
    """Whether there is certainly room for any bundle of the presets."""
    return min(shutil.disk_usage(_existing(folder)).free for folder in (layout.RESULTS, layout.SCRATCH)) > _PLENTY


def warn_of_little_room(
    params: Params, bundle: Bundle, cells: Mapping[Cell, str], *, program: int, all_wait: bool, say: Say
) -> None:
    """Warn if the checkpoints and records of a bundle may not fit; the bundle runs all the same.

    Args:
        params, bundle: the settings, and the bundle of their grid.
        cells: those that will be trained, each with the digest of its training.
        program, all_wait: see `costs.space`.
        say: takes the warning.
    """
    if not cells:
        return
    folders = {folder: _existing(folder) for folder in (layout.RESULTS, layout.SCRATCH)}
    needed = costs.space(params, list(cells), program=program, all_wait=all_wait)
    begun_folders = [layout.SCRATCH / digest for digest in cells.values()]
    # Bytes that an interrupted attempt has left.
    existing = sum(size_on_disk(folder) for folder in begun_folders if folder.is_dir())
    amounts = {layout.RESULTS: needed.records, layout.SCRATCH: max(0, needed.scratch - existing)}
    disks: Counter[int] = Counter()
    for name, folder in folders.items():
        disks[folder.stat().st_dev] += amounts[name]
    for name, folder in folders.items():
        free, required = shutil.disk_usage(folder).free, disks.pop(folder.stat().st_dev, 0)
        if required > free:
            say(
                f"{bundle.key}: little room on the disk of {name}/: {_mib(free)} are free, needed are about "
                f"{_mib(amounts[layout.SCRATCH])} in {layout.SCRATCH}/ while it trains and "
                f"{_mib(amounts[layout.RESULTS])} in {layout.RESULTS}/ for good"
            )


def _existing(folder: Path) -> Path:
    """The folder, or the closest parent that exists."""
    folder = folder.absolute()
    return folder if folder.exists() else _existing(folder.parent)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
