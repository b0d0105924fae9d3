"""Whether the disk has room for what a bundle will write: better known before the training than after it."""

import shutil
from pathlib import Path

from fdl import costs, layout
from fdl.errors import InputError
from fdl.live_lines import Say
from fdl.params import Bundle, Cell, Params

_PLENTY = 64 * 2**30  # more than any bundle of the presets needs: counting takes half a second, for each bundle


def check_room(params: Params, bundle: Bundle, cells: list[Cell], *, fused: bool, say: Say) -> None:
    """Warn if the checkpoints of a bundle may not fit.

    Args:
        params, bundle: the settings, and which cells of theirs.
        cells: those of the bundle that have no record yet.
        fused: whether they are trained as one program, not one after the other.
        say: takes the warning.

    Raises:
        InputError: the records will not fit.
    """
    free = {folder: _free(folder) for folder in (layout.RESULTS, layout.SCRATCH)}
    if not cells or min(free.values()) > _PLENTY:
        return
    needed = costs.space(params, cells, fused=fused)
    if needed.records > free[layout.RESULTS]:
        raise InputError(
            f"{bundle.key}: its records will take {_mib(needed.records)} below {layout.RESULTS}/, where "
            f"{_mib(free[layout.RESULTS])} are free; make room and run the same command again"
        )
    if needed.scratch > free[layout.SCRATCH]:
        say(
            f"{bundle.key}: its checkpoints may take {_mib(needed.scratch)} below {layout.SCRATCH}/, where "
            f"{_mib(free[layout.SCRATCH])} are free; what is interrupted then starts again"
        )


def _free(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
