"""Whether the disk has room for what a bundle will write: better known before the training than after it."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fdl.core import layout
from fdl.core.console import Say
from fdl.core.files import size_on_disk
from fdl.core.settings import Bundle, Cell, Params
from fdl.training import costs

_PLENTY = 64 * 2**30  # more than any bundle of the presets needs: counting takes half a second, for each bundle


def is_plenty() -> bool:
    """Whether there is room for any bundle."""
    return min(shutil.disk_usage(_existing(folder)).free for folder in (layout.RESULTS, layout.SCRATCH)) > _PLENTY


def warn_of_little_room(
    params: Params, bundle: Bundle, cells: Mapping[Cell, str], *, program: int, all_wait: bool, say: Say
) -> None:
    """Say so if the checkpoints and records of a bundle may not fit; it is tried all the same.

    Args:
        params, bundle: the settings, and which cells of theirs.
        cells: those that will be trained, and the digests of their trainings.
        program, all_wait: see `costs.space`.
        say: takes the warning.
    """
    if not cells:
        return
    folders = {folder: _existing(folder) for folder in (layout.RESULTS, layout.SCRATCH)}
    needed = costs.space(params, list(cells), program=program, all_wait=all_wait)
    begun = [layout.SCRATCH / digest for digest in cells.values()]
    there = sum(size_on_disk(folder) for folder in begun if folder.is_dir())  # of an attempt that was interrupted
    amounts = {layout.RESULTS: needed.records, layout.SCRATCH: max(0, needed.scratch - there)}
    disks: Counter[int] = Counter()
    for name, folder in folders.items():
        disks[folder.stat().st_dev] += amounts[name]
    for name, folder in folders.items():
        free, wanted = shutil.disk_usage(folder).free, disks.pop(folder.stat().st_dev, 0)
        if wanted > free:
            say(
                f"{bundle.key}: little room on the disk of {name}/: {_mib(free)} are free, needed are about "
                f"{_mib(amounts[layout.SCRATCH])} in {layout.SCRATCH}/ while it trains and "
                f"{_mib(amounts[layout.RESULTS])} in {layout.RESULTS}/ for good"
            )


def _existing(folder: Path) -> Path:
    """The folder, or the one in which it will be made."""
    folder = folder.absolute()
    return folder if folder.exists() else _existing(folder.parent)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
