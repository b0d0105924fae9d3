"""Gathers the records of a grid into three files below `reports/<preset>/`.

- `runs.csv`: results only, tidy; byte-identical for equal results,
- `costs.csv`: parameters, times, memory and device, which differ between equal runs,
- `cells.json`: every cell of the grid and its status, and what is known of the datasets.

Everything later (tables, figures, pages) reads these files, and refuses them when they are not of
the settings it is called with.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import starmap
from typing import TYPE_CHECKING, Any, Literal

from fdl.core import files, layout
from fdl.core.errors import InputError, first_few, one_line
from fdl.core.settings import Cell, Params
from fdl.core.titles import dataset_title
from fdl.results.measures import read_metrics
from fdl.results.state import FINISHED, CellStatus, Judge

if TYPE_CHECKING:
    from pandas import DataFrame

CELL_COLUMNS = tuple(field.name for field in fields(Cell))  # dataset, backbone, shots, method, seed
RUN_COLUMNS = (*CELL_COLUMNS, "selection", "split", "combiner", "metric", "value")
COST_COLUMNS = (
    *CELL_COLUMNS,
    "status",
    "parameters",
    "seconds",
    "train_seconds",
    "evaluate_seconds",
    "peak_memory_mb",
    "device",
    "precision",
)
SCHEMA_VERSION = 1

_NAMED = 3  # cells that an error names
# stale: the record is of other settings; damaged: a file of it is missing or was changed.
Status = Literal["done", "failed", "missing", "stale", "damaged"]
USABLE = FINISHED


@dataclass(frozen=True)
class CellState:
    """A cell of the grid, and what became of it."""

    cell: Cell
    status: Status
    settings: str  # digest of the settings asked for
    training: str | None = None  # digest of the training recorded: settings, draw and pixels
    epoch: int | None = None  # 0-based epoch in which a failed cell diverged
    reason: str | None = None  # why it failed, what is damaged, or why it is stale although of these settings


@dataclass(frozen=True)
class DatasetFacts:
    """What the records say of a dataset; of one without any record only whether it is synthetic."""

    title: str  # as it is printed
    synthetic: bool
    source: str
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    test: int | None = None  # images
    hash: str | None = None

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing all classes equally often, in [0, 1]."""
        return 1 / len(self.classes) if self.classes else None


@dataclass(frozen=True)
class Collected:
    """The grid as it was found."""

    cells: list[CellState]
    datasets: dict[str, DatasetFacts]

    @property
    def synthetic(self) -> bool:
        """Whether any of the images are synthetic."""
        return any(facts.synthetic for facts in self.datasets.values())

    def of(self, *statuses: Status) -> list[CellState]:
        """The cells with one of these statuses, in the grid's order."""
        return [state for state in self.cells if state.status in statuses]

    @property
    def left_out(self) -> list[CellState]:
        """The cells without a record that could be used."""
        return self.of("missing", "stale", "damaged")


def collect(params: Params, *, partial: bool = False) -> Collected:
    """Read every record of the grid and write `runs.csv`, `costs.csv` and `cells.json`.

    Failed cells have no rows in `runs.csv`: no value, no row.

    Args:
        params: whose grid, and whose results folder.
        partial: leave missing, stale and damaged records out instead of refusing them.

    Raises:
        InputError: records are missing, stale or damaged; none can be used at all; or two that are to
            be compared were trained on different images.
    """
    judged = Judge(params).states()
    read = [_read(params, state) for state in judged]
    states = [state for state, _ in read]
    unusable = [state for state in judged if not state.finished]
    if unusable and (not partial or len(unusable) == len(states)):
        raise InputError(_refusal(params, unusable, len(states)))
    recorded = {state.cell: run for state, run in read if run is not None}
    _check_images(params, recorded)
    collected = Collected(states, _datasets(params, recorded))

    folder = layout.report_folder(params)
    runs = _csv(RUN_COLUMNS, (row for cell, run in recorded.items() for row in _run_rows(cell, run)))
    files.write_atomically(folder / "runs.csv", runs)
    files.write_atomically(folder / "costs.csv", _csv(COST_COLUMNS, starmap(_cost_row, recorded.items())))
    content = {
        "schema_version": SCHEMA_VERSION,
        "preset": params.preset,
        "cells": [asdict(state) | {"cell": state.cell.key} for state in states],
        "datasets": {name: asdict(facts) for name, facts in collected.datasets.items()},
        "files": {"runs.csv": files.file_hash(folder / "runs.csv")},
    }
    files.write_atomically(folder / "cells.json", files.to_json(content))
    return collected


def read_collected(params: Params) -> Collected:
    """What `collect` found, from `cells.json`.

    Raises:
        InputError: the file is missing, or it or `runs.csv` is damaged or of other settings.
    """
    path = layout.report_folder(params) / "cells.json"
    again = f"run `python -m fdl collect --preset {params.preset}`"
    if not layout.results_folder(params).is_dir():  # a fresh clone: collect would find nothing
        again = _published(params) or again
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {again}") from None
    except ValueError:
        raise InputError(f"{path}: damaged; {again}") from None
    cells = params.cells()
    asked = [(cell.key, params.settings_digest(cell)) for cell in cells]
    if (
        content.get("schema_version") != SCHEMA_VERSION
        or [(entry["cell"], entry["settings"]) for entry in content["cells"]] != asked
    ):
        raise InputError(f"{path}: collected with other settings; {again}")
    _check_records(params, content["cells"], cells, again)
    runs = path.with_name("runs.csv")
    if not runs.is_file() or files.file_hash(runs) != content["files"]["runs.csv"]:
        raise InputError(f"{runs}: missing or changed since it was collected; {again}")
    return Collected(
        [CellState(**entry | {"cell": cell}) for entry, cell in zip(content["cells"], cells, strict=True)],
        {
            name: _stored_facts(params, name, content["datasets"][name])
            for name in dict.fromkeys(cell.dataset for cell in cells)  # the file is not in the grid's order
        },
    )


def _stored_facts(params: Params, dataset: str, facts: Mapping[str, Any]) -> DatasetFacts:
    """The facts of a dataset as `cells.json` holds them, under today's title: no digest depends on it."""
    title = _title(params, dataset, synthetic=facts["synthetic"])
    return DatasetFacts(**{**facts, "title": title, "notes": tuple(facts["notes"]), "classes": tuple(facts["classes"])})


def _check_records(params: Params, entries: Sequence[Mapping[str, Any]], cells: Sequence[Cell], again: str) -> None:
    """Refuse numbers whose records are not current any more: no table shows what `status` calls stale.

    Records that are not here at all, as in a clone that holds only the report, cannot speak against it.
    """
    judge = Judge(params, contents=False, running=False)
    for cell, entry in zip(cells, entries, strict=True):
        if entry["status"] not in USABLE:
            continue
        state = judge.state(cell)
        other = state.run is not None and state.run["digests"]["training"] != entry["training"]
        if state.status in ("stale", "damaged") or other:
            why = f"{state.status}: {state.note}" if not state.finished else "not the record that was collected"
            raise InputError(f"{layout.record_folder(params, cell)}: {why}; {again}")


def read_runs(params: Params) -> "DataFrame":
    """`runs.csv` as a frame with the columns `RUN_COLUMNS`."""
    import pandas as pd

    text = dict.fromkeys(RUN_COLUMNS, "str") | {"shots": "int64", "seed": "int64", "value": "float64"}
    path = layout.report_folder(params) / "runs.csv"
    return pd.read_csv(path, dtype=text, keep_default_na=False)


def of_headline_rule(params: Params, rows: "DataFrame") -> dict[Cell, float]:
    """The values of rows of one split, combiner and metric, at the first selection rule of each dataset."""
    rules = {dataset: params.selections_of(dataset)[0] for dataset in dict.fromkeys(rows["dataset"])}
    columns = [rows[name].tolist() for name in (*CELL_COLUMNS, "selection", "value")]
    return {Cell(*cell): value for *cell, rule, value in zip(*columns, strict=True) if rule == rules[cell[0]]}


def _read(params: Params, state: CellStatus) -> tuple[CellState, dict[str, Any] | None]:
    """What is kept of a cell's state, and its `run.json` with its metrics where the record can be used."""
    cell, settings = state.cell, params.settings_digest(state.cell)
    if not state.finished or state.run is None:
        status: Status = "missing" if state.status == "running" else state.status
        return CellState(cell, status, settings, reason=state.note or None), None
    training = state.run["digests"]["training"]
    if state.status == "failed":
        epoch = state.run["failure"]["epoch"]
        failed = CellState(cell, "failed", settings, training, epoch=epoch, reason=state.reason)
        return failed, {**state.run, "metrics": []}
    metrics = read_metrics(layout.record_folder(params, cell) / "metrics.json")
    return CellState(cell, "done", settings, training), {**state.run, "metrics": metrics}


def _refusal(params: Params, unusable: Sequence[CellStatus], total: int) -> str:
    """One line: how many, which, why, what to do."""
    parts = []
    for status in ("missing", "running", "stale", "damaged"):
        states = [state for state in unusable if state.status == status]
        if states:
            names = first_few([state.cell.key for state in states], _NAMED)
            why = f": {states[0].note}" if status in ("stale", "damaged") else ""
            parts.append(f"{len(states)} {status} ({names}){why}")
    scored = [state for state in unusable if state.trained and state.has_heads and state.scores_due]
    again = f"`python -m fdl combine --preset {params.preset}` scores {len(scored)} of them again, " if scored else ""
    without = ", `collect --partial` leaves them out" if len(unusable) < total else ""
    if parts[0].startswith(f"{total} missing") and (published := _published(params)):
        return f"{layout.results_folder(params)}: no records yet; {published}"
    return (
        f"{layout.results_folder(params)}: {len(unusable):,} of {total:,} records cannot be used: {', '.join(parts)}; "
        f"{again}`python -m fdl run --preset {params.preset}` trains just these{without}"
    )


def _published(params: Params) -> str:
    """What to do where the preset's records lie packed beside its report; empty where they do not."""
    folder = layout.report_folder(params)
    archive = next((path for path in (folder / "records.tar.gz", folder / "records") if path.exists()), None)
    if archive is None:
        return ""
    preset = f"--preset {params.preset}"
    return (
        f"`python -m fdl import {archive} {preset}` brings in the published records in seconds; then run "
        f"`python -m fdl collect {preset}` and `python -m fdl report {preset}` "
        f"(`python -m fdl run {preset}` would train them again)"
    )


def _check_images(params: Params, recorded: Mapping[Cell, Mapping[str, Any]]) -> None:
    """Refuse to compare cells of one dataset and pool, or of one draw, that were trained on different images."""
    first: dict[tuple[object, ...], tuple[str, str]] = {}
    for cell, run in recorded.items():
        images = cell.dataset, params.pool_of(cell.dataset, cell.backbone)
        groups = [(images, run["data"]["hash"]), ((*images, cell.shots, cell.seed), run["split"]["hash"])]
        for group, hash_ in groups:
            first_cell, first_hash = first.setdefault(group, (cell.key, hash_))
            if hash_ != first_hash:
                raise InputError(
                    f"{cell.dataset}: {first_cell} and {cell.key} were trained on different images; "
                    "`python -m fdl run` trains the older one again"
                )


def _datasets(params: Params, recorded: Mapping[Cell, Mapping[str, Any]]) -> dict[str, DatasetFacts]:
    """Facts by dataset, in the grid's order."""
    facts = {}
    for dataset in dict.fromkeys(cell.dataset for cell in params.cells()):
        blocks = [run["data"] for cell, run in recorded.items() if cell.dataset == dataset]
        first = next(iter(blocks), None)  # of the same images as the others: `_check_images`
        if first is None:
            source = params.source_of(dataset)
            synthetic = source == "synthetic"
            facts[dataset] = DatasetFacts(_title(params, dataset, synthetic=synthetic), synthetic, source)
            continue
        synthetic = any(block["synthetic"] for block in blocks)
        facts[dataset] = DatasetFacts(
            title=_title(params, dataset, synthetic=synthetic),
            synthetic=synthetic,
            source=first["source"],
            notes=tuple(dict.fromkeys(one_line(note) for block in blocks for note in block["notes"])),
            classes=tuple(first["classes"]),
            test=first["test"],
            hash=first["hash"],
        )
    return facts


def _title(params: Params, dataset: str, *, synthetic: bool) -> str:
    return dataset_title(params.protocol(dataset).title, synthetic=synthetic)


def _run_rows(cell: Cell, run: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """The cell's rows of `runs.csv`, sorted, so that the order in its record does not matter."""
    key = astuple(cell)
    return sorted(
        (*key, row["selection"], row["split"], row["combiner"], row["metric"], repr(float(row["value"])))
        for row in run["metrics"]
    )


def _cost_row(cell: Cell, run: Mapping[str, Any]) -> tuple[object, ...]:
    timings, provenance = run["timings"], run["provenance"]
    return (
        *astuple(cell),
        run["status"],
        run.get("parameters"),  # of a failed cell: not known
        *(round(timings[name], 3) for name in ("seconds", "train_seconds", "evaluate_seconds", "peak_memory_mb")),
        provenance["device"],
        provenance["precision"],
    )


def _csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
