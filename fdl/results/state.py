"""The one judge of records: whether a cell has a record, and whether it is what today's settings ask for.

Everything that reads records asks it: `run`, `status`, `collect`, `report`, `track`, `export`, `import`, `combine`,
`plan`, `clean` and the workflow. Nobody else compares digests, so no table shows what `status` calls stale.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fdl.core import layout
from fdl.core.errors import InputError, one_line
from fdl.core.head_settings import head_settings
from fdl.core.provenance import SCORES_VALID_SINCE, SCORES_VERSION
from fdl.core.settings import Cell, Params
from fdl.results import records
from fdl.results.digests import PreparedImages
from fdl.results.measures import problem_in
from fdl.results.unfinished import Unfinished, unfinished_cells

Status = Literal["done", "failed", "running", "missing", "stale", "damaged"]
STATUSES: tuple[Status, ...] = ("done", "failed", "running", "missing", "stale", "damaged")
FINISHED = ("done", "failed")
# What a finished cell has besides run.json; one that diverged has only the first.
NEEDED = ("history.parquet", "metrics.json", "correct.npz", "cam.npz")

_INTERRUPTED = "a kill interrupted the exchange of its record: the next run puts it in place and trains nothing"
_VALUE = 40  # characters of a value that a message shows


@dataclass(frozen=True)
class CellStatus:
    """A cell of the grid, and what became of it.

    failed: it diverged, which is a result. stale: its record is of other settings, images, heads or scores.
    damaged: a file of it is missing or was changed. running: only while the process that trains it lives.
    """

    cell: Cell
    status: Status
    epoch: int | None = None  # finished epochs of one that is running or was stopped; of a failed one the 1-based last
    epochs: int | None = None  # how many there will be
    changed: Sequence[str] = ()  # what makes it stale, a line each
    reason: str | None = None  # why it failed, or what is damaged
    run: Mapping[str, Any] | None = field(default=None, repr=False)  # its run.json, where that can be read
    trained: bool = False  # its nets are today's: settings and images; its heads or scores may be others
    has_heads: bool = False  # its heads are today's
    scores_due: bool = False  # its scores are of older code, and its predictions are there to be scored again
    checked: bool = False  # its images could be compared: they are prepared and drawn here

    @property
    def finished(self) -> bool:
        """Whether it has a current record."""
        return self.status in FINISHED

    @property
    def note(self) -> str:
        """In one line what there is to say besides the status."""
        if self.status in ("running", "missing") and self.epochs is not None and not self.reason:
            return f"{'' if self.status == 'running' else 'stopped after '}epoch {self.epoch} of {self.epochs}"
        if self.status == "failed":
            return f"epoch {self.epoch}: {self.reason}"
        return "; ".join(self.changed) or self.reason or ""


class Judge:
    """Judges the cells of a grid.

    Args:
        params: what is asked for today.
        contents: compare every file of a record with its hash, and check that its values are possible. Without
            it, as when Snakemake parses the workflow: presence and sizes, and hashes only of files that are
            newer than the `run.json` that vouches for them.
        running: say which cells are being trained now.
    """

    def __init__(self, params: Params, *, contents: bool = True, running: bool = True) -> None:
        self.params, self.contents, self.running = params, contents, running
        self.images = PreparedImages(params, verified=contents)

    def state(self, cell: Cell) -> CellStatus:
        """What became of a cell of the grid."""
        begun = self._begun.get(cell)
        epoch, epochs = (len(begun.history), begun.epochs) if begun else (None, None)
        if begun and begun.running:
            return CellStatus(cell, "running", epoch, epochs)
        folder = layout.record_folder(self.params, cell)
        state = self.state_of(cell, folder)
        if state.status != "missing":
            return state
        beside = records.partial_folder(folder), records.replaced_folder(folder)
        interrupted = any(records.is_whole(path) for path in beside)
        return CellStatus(cell, "missing", epoch, epochs, reason=_INTERRUPTED if interrupted else None)

    def states(self, cells: Sequence[Cell] | None = None) -> list[CellStatus]:
        """The states of these cells, or of all of the grid, in their order."""
        with ThreadPoolExecutor() as pool:  # hashing releases the GIL
            return list(pool.map(self.state, self.params.cells() if cells is None else cells))

    def state_of(self, cell: Cell, folder: Path) -> CellStatus:
        """What a record is for a cell, wherever it lies: `fdl import` asks this of records from elsewhere."""
        try:
            run = records.read_run(folder)
            if run is None:
                return CellStatus(cell, "missing")
            require(run, cell, folder)
            self._check_files(folder, run)
        except InputError as error:
            return CellStatus(cell, "damaged", reason=one_line(error))
        settings = changed_settings(self.params, cell, run)
        try:
            checked, images = self._changed_images(cell, run, settings)
        except InputError as error:  # the images cannot be read: nothing vouches for the record
            checked, images = False, [one_line(error)]
        failed = run["status"] == "failed"
        heads = head_settings(self.params, cell)
        has_heads = failed or run["digests"].get("heads") == (heads and heads.digest)
        scored = SCORES_VERSION if failed else run["digests"].get("scores", 0)
        scores_due = scored < SCORES_VERSION and has_predictions(run)
        changed = [*settings, *images]
        if not has_heads:
            changed.append("heads: the settings ask for other ones")
        if scores_due:
            changed.append("scores: of an older version of the code; `python -m fdl combine` updates them")
        elif scored < SCORES_VALID_SINCE:
            changed.append("scores: of an older version of the code, without the predictions to score again")
        failure = run["failure"] if failed else {}
        return CellStatus(
            cell,
            "stale" if changed else run["status"],
            epoch=failure["epoch"] + 1 if failed else None,
            epochs=run["settings"]["epochs"] if failed else None,
            changed=tuple(changed),
            reason=one_line(failure["reason"]) if failed else None,
            run=run,
            trained=not settings and not images,
            has_heads=has_heads,
            scores_due=scores_due,
            checked=checked,
        )

    @cached_property
    def _begun(self) -> dict[Cell, Unfinished]:
        return unfinished_cells(self.params) if self.running else {}

    def _check_files(self, folder: Path, run: Mapping[str, Any]) -> None:
        if self.contents:
            records.verify(folder, run)
            if run["status"] == "done" and (problem := problem_in(folder / "metrics.json")):
                raise InputError(f"{folder / 'metrics.json'}: {problem}; delete {folder} and run the bundle again")
        else:
            records.glance(folder, run)

    def _changed_images(self, cell: Cell, run: Mapping[str, Any], settings: list[str]) -> tuple[bool, list[str]]:
        """Whether the images are here to be compared with, and what differs, a line each."""
        if not self.images.are_there(cell):
            return False, []
        split_hash, prepared_hash = self.images.hashes(cell)
        if run["data"]["hash"] != prepared_hash:
            return True, ["images: trained on others than those prepared here"]
        if run["split"]["hash"] != split_hash:
            return True, ["draw: trained on another than the one drawn here"]
        if not settings and run["digests"]["training"] != self.images.training_digest(cell):
            return True, ["training: its digest matches neither its settings nor its images"]
        return True, []


def changed_settings(params: Params, cell: Cell, run: Mapping[str, Any]) -> list[str]:
    """The settings of a record's training that are not today's, a line each: "epochs: 100 → 200"."""
    if run["digests"]["settings"] == params.settings_digest(cell):
        return []
    then, now = _flat(run["settings"]), _flat(params.training_settings(cell))
    return [
        f"{key}: {_brief(then.get(key))} → {_brief(now.get(key))}"
        for key in dict.fromkeys([*now, *then])
        if then.get(key) != now.get(key)
    ] or ["settings: they do not match their digest"]


def has_predictions(run: Mapping[str, Any]) -> bool:
    """Whether a finished cell can be scored again: one that was exported has left its predictions behind."""
    return "predictions.npz" in run["files"]


def require(run: Any, cell: Cell | None = None, folder: Path | None = None) -> Mapping[str, Any]:
    """Check that a `run.json` has all that is read of it, in the right types, and is that of the cell.

    Raises:
        InputError: something is missing or of another kind; one line that says what.
    """
    where = folder / "run.json" if folder else "run.json"
    try:
        _require(run)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        detail = f": {one_line(error)}" if isinstance(error, ValueError) else ""
        raise InputError(f"{where}: not the run.json of a record{detail}") from None
    if cell and run["key"] != cell.key:
        raise InputError(f"{where}: of the cell {_brief(run['key'])}, not of the one that its folder names")
    checked: Mapping[str, Any] = run
    return checked


def _require(run: Any) -> None:
    if run["status"] not in FINISHED or not isinstance(run["key"], str):
        raise ValueError("its status or key")
    blocks = {
        "digests": ("settings", "training"),
        "data": ("hash", "source"),
        "split": ("hash", "rule"),
        "settings": ("method_digest",),
        "provenance": ("device", "precision"),
    }
    for block, keys in blocks.items():
        for key in keys:
            if not isinstance(run[block][key], str):
                raise ValueError(f"{block}.{key}")
    if not isinstance(run["digests"].get("scores", 0), int):
        raise ValueError("digests.scores")
    if not isinstance(run["settings"]["epochs"], int) or not run["settings"]["selections"]:
        raise ValueError("settings.epochs or settings.selections")
    for name in ("seconds", "train_seconds", "evaluate_seconds", "peak_memory_mb"):
        value = run["timings"][name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"timings.{name}")
    for name in ("classes", "notes"):
        if not isinstance(run["data"][name], list) or not all(isinstance(text, str) for text in run["data"][name]):
            raise ValueError(f"data.{name}")
    if not isinstance(run["data"]["synthetic"], bool) or not isinstance(run["data"]["test"], int):
        raise ValueError("data.synthetic or data.test")
    if run["status"] == "failed":
        if not isinstance(run["failure"]["epoch"], int) or not isinstance(run["failure"]["reason"], str):
            raise ValueError("failure")
    elif run["failure"] is not None:
        raise ValueError("failure")
    files = run["files"]
    if not isinstance(files, dict) or not all(isinstance(hash_, str) for hash_ in files.values()):
        raise ValueError("files")
    if any(Path(name).name != name or name in ("", ".", "..", "run.json") for name in files):
        raise ValueError("names files outside the record")
    lacking = [name for name in (NEEDED if run["status"] == "done" else NEEDED[:1]) if name not in files]
    if lacking:
        raise ValueError(f"without {', '.join(lacking)}")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values of values by dotted keys: `method_params.cosine_weight`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = value if isinstance(value, Mapping) else {}
        flat |= {f"{key}.{name}": each for name, each in inner.items()} or {key: value}
    return flat


def _brief(value: Any) -> str:
    text = "none" if value is None else one_line(value)
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 1]}…"
