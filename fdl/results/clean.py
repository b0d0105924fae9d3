"""What a preset left behind and nothing needs: found first, then removed.

Below `data/` only files of writers that were killed.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fdl.core import files, layout
from fdl.core.errors import InputError, first_few
from fdl.core.settings import Params
from fdl.results import records
from fdl.results.digests import PreparedImages
from fdl.results.locks import at_work, bundle_lock
from fdl.results.state import Judge
from fdl.results.unfinished import unfinished

_BUNDLE, _RECORD = "*/*/*shot", "*/seed*"


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can go."""

    path: Path
    why: str
    size: int  # bytes
    bundle: str | None = None  # whose lock is held while it is removed


def find(params: Params, *, stale: bool = False) -> list[Leftover]:
    """What can go: half-written records, checkpoints that no cell asks for, resolved settings of other runs.

    Args:
        params: the settings; only what carries the name of their preset is looked at.
        stale: also records that are not in the grid, or of other settings, heads or images than today's.
    """
    leftovers = [*_partial(params), *_scratch(params), *_resolved_settings(params)]
    return [*leftovers, *_stale_records(params)] if stale else leftovers


def remove(params: Params, leftovers: Iterable[Leftover]) -> None:
    """Remove what `find` found, and folders of the preset that are then empty.

    Raises:
        InputError: something is being trained, or Snakemake is at work.
    """
    leftovers = list(leftovers)
    check_idle(params)
    with ExitStack() as held:
        for bundle in sorted({leftover.bundle for leftover in leftovers if leftover.bundle}):
            held.enter_context(bundle_lock(params.preset, bundle))
        for leftover in leftovers:
            if leftover.path.is_dir() and not leftover.path.is_symlink():
                shutil.rmtree(leftover.path)
            else:
                leftover.path.unlink(missing_ok=True)
        results = layout.results_folder(params)
        for folder in sorted((path for path in results.rglob("*") if path.is_dir()), reverse=True):  # deepest first
            if not any(folder.iterdir()):
                folder.rmdir()


def check_idle(params: Params) -> None:
    """Refuse while a bundle of the preset is being trained, or Snakemake has the working directory.

    Raises:
        InputError: one of the two.
    """
    for line in at_work(params.preset):
        raise InputError(f"{line}; clean when it is done")
    # Its jobs read the resolved settings, and between two jobs no bundle is held.
    if any(Path(".snakemake/locks").glob("*")):
        raise InputError(
            "Snakemake is at work here; clean when it is done (after a kill: `snakemake --unlock`, then again)"
        )


def _partial(params: Params) -> Iterator[Leftover]:
    results = layout.results_folder(params)
    for folder in sorted(results.glob(f"{_BUNDLE}/*/.seed*.partial")):
        if not records.is_whole(folder):  # a whole one is put in place by the next run
            yield _leftover(params, folder, "half-written record")
    for top in (results, layout.report_folder(params), layout.SPLITS):
        for folder in sorted(path for path in (top, *top.rglob("*")) if path.is_dir()):
            for path in files.abandoned_files(folder):
                yield Leftover(path, "file of a writer that was killed", files.size_on_disk(path))


def _scratch(params: Params) -> Iterator[Leftover]:
    """Checkpoints of trainings with this preset that no cell of today's settings needs."""
    asked = {cell: params.settings_digest(cell) for cell in params.cells()}
    images = PreparedImages(params)
    for begun in unfinished(params.preset):
        cell = begun.cell
        if cell not in asked:
            why = "checkpoint of a cell that is not in the grid"
        elif asked[cell] != begun.settings:
            why = "checkpoint of other settings"
        elif images.are_there(cell) and images.training_digest(cell) != begun.folder.name:
            why = "checkpoint of other images"
        else:
            continue
        yield Leftover(begun.folder, why, files.size_on_disk(begun.folder), cell.bundle.key)


def _resolved_settings(params: Params) -> Iterator[Leftover]:
    today = f"{params.hash()}.yaml"
    for path in sorted((layout.results_folder(params) / "params").glob("*.yaml")):
        if path.name != today:
            yield Leftover(path, "resolved settings that are not today's", files.size_on_disk(path))


def _stale_records(params: Params) -> Iterator[Leftover]:
    results, cells = layout.results_folder(params), {cell.key: cell for cell in params.cells()}
    judge = Judge(params, running=False)
    for folder in sorted(path for path in results.glob(f"{_BUNDLE}/{_RECORD}") if path.is_dir()):
        key = folder.relative_to(results).as_posix()
        if key not in cells:
            yield _leftover(params, folder, "record of a cell that is not in the grid")
            continue
        # A damaged record is trained again by `run`, one whose scores are old is scored again by `combine`.
        state = judge.state(cells[key])
        if state.run is not None and not (state.trained and state.has_heads):
            yield _leftover(params, folder, f"stale record ({first_few(state.changed, 1)})")
    bundles = {bundle.key for bundle in params.bundles()}
    for path in sorted(results.glob(f"{_BUNDLE}/bundle.json")):
        if path.parent.relative_to(results).as_posix() not in bundles:
            yield _leftover(params, path, "receipt of a bundle that is not in the grid")


def _leftover(params: Params, path: Path, why: str) -> Leftover:
    """One that lies in a bundle's folder."""
    bundle = "/".join(path.relative_to(layout.results_folder(params)).parts[:3])
    return Leftover(path, why, files.size_on_disk(path), bundle)


def as_text(leftovers: Iterable[Leftover]) -> list[str]:
    """A line for each."""
    return [f"{leftover.path}: {leftover.why}, {leftover.size / 2**20:.1f} MB" for leftover in leftovers]
