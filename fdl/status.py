"""What became of every cell of a grid, from the files alone: nothing is trained, loaded or changed."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fdl import layout, records
from fdl.currency import compare, has_todays_scores, require
from fdl.errors import InputError
from fdl.params import Bundle, Cell, Params
from fdl.training.digests import PreparedImages
from fdl.unfinished import Unfinished, unfinished_cells

SCHEMA_VERSION = 1
Status = Literal["done", "failed", "running", "missing", "stale", "damaged"]
STATUSES: tuple[Status, ...] = ("done", "failed", "running", "missing", "stale", "damaged")
FINISHED = ("done", "failed")


@dataclass(frozen=True)
class CellStatus:
    """A cell of the grid, and what became of it.

    failed: it diverged, which is a result. stale: its record is of other settings or images. damaged: a
    file of it is missing or was changed. running: only while the process that trains it lives.
    """

    cell: Cell
    status: Status
    epoch: int | None = None  # finished epochs of one that is running or was stopped; of a failed one the 1-based last
    epochs: int | None = None  # how many there will be
    changed: Sequence[str] = ()  # what makes it stale, a line each
    reason: str | None = None  # why it failed, or what is damaged

    @property
    def note(self) -> str:
        """In one line what there is to say besides the status."""
        if self.status in ("running", "missing") and self.epochs is not None:
            return f"{'' if self.status == 'running' else 'stopped after '}epoch {self.epoch} of {self.epochs}"
        if self.status == "failed":
            return f"epoch {self.epoch}: {self.reason}"
        return "; ".join(self.changed) or self.reason or ""


def status(params: Params) -> list[CellStatus]:
    """The status of every cell of the grid, in its order."""
    images, begun = PreparedImages(params), unfinished_cells(params)
    states = [_status(params, cell, images, begun.get(cell)) for cell in params.cells()]
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        return list(pool.map(lambda state: _verified(params, state), states))


def _status(params: Params, cell: Cell, images: PreparedImages, begun: Unfinished | None) -> CellStatus:
    at = (len(begun.history), begun.epochs) if begun else (None, None)
    if begun and begun.running:
        return CellStatus(cell, "running", *at)
    try:
        run = records.read_run(layout.record_folder(params, cell))
        if run is None:
            return CellStatus(cell, "missing", *at)
        require(run)
    except InputError as error:
        return CellStatus(cell, "damaged", reason=str(error))
    try:
        changed = compare(params, cell, run, images).changed
    except InputError as error:  # of the images: the bundle could not be trained
        changed = [str(error)]
    if not has_todays_scores(run):
        changed.append("scores: of another version of this code; `python -m fdl combine` makes them new")
    if changed:
        return CellStatus(cell, "stale", changed=tuple(changed))
    if run["status"] == "failed":
        failure = run["failure"]
        reason = " ".join(str(failure["reason"]).split())
        return CellStatus(cell, "failed", epoch=failure["epoch"] + 1, epochs=run["settings"]["epochs"], reason=reason)
    return CellStatus(cell, "done")


def _verified(params: Params, state: CellStatus) -> CellStatus:
    """The same, or damaged: the hashes of all its files are compared."""
    if state.status not in FINISHED:
        return state
    folder = layout.record_folder(params, state.cell)
    try:
        run = records.read_run(folder)
        if run is not None:
            records.verify(folder, run)
    except InputError as error:
        return CellStatus(state.cell, "damaged", reason=str(error))
    return state


def counts(states: Sequence[CellStatus]) -> dict[str, int]:
    """Numbers of cells by status; all statuses are there."""
    counted = Counter(state.status for state in states)
    return {status: counted[status] for status in STATUSES}


def by_bundle(states: Sequence[CellStatus]) -> dict[Bundle, list[CellStatus]]:
    """The statuses of every bundle's cells."""
    bundles: dict[Bundle, list[CellStatus]] = {}
    for state in states:
        bundles.setdefault(state.cell.bundle, []).append(state)
    return bundles


def as_json(params: Params, states: Sequence[CellStatus]) -> dict[str, Any]:
    """What `fdl status --json` prints; docs/using-results.md has its schema."""
    cells = [asdict(state) | {"cell": state.cell.key, "changed": list(state.changed)} for state in states]
    return {"schema_version": SCHEMA_VERSION, "preset": params.preset, "counts": counts(states), "cells": cells}
