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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Literal

from fdl import layout, records
from fdl.currency import has_todays_scores
from fdl.errors import InputError
from fdl.params import Cell, Params

if TYPE_CHECKING:
    from pandas import DataFrame

CELL_COLUMNS = ("dataset", "backbone", "shots", "method", "seed")
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
# Between what a metric lies; the others are only finite. A sum of float32 probabilities may be off in its last places.
_SHARES = ("accuracy", "accuracy_balanced", "f1_macro", "f1_weighted", "ece", "disagreement", "oracle_accuracy")
_MAPS = ("cam_left_out", "cam_empty", "cam_signed_left_out")
_RANGES = dict.fromkeys((*_SHARES, *_MAPS), (0.0, 1.0)) | {
    "brier": (0.0, 2.0),
    "nll": (0.0, inf),
    "q_statistic": (-1.0, 1.0),
    "error_correlation": (-1.0, 1.0),
    "cam_signed_correlation": (-1.0, 1.0),
}
_ROUNDING = 1e-6

# stale: the record is of other settings; damaged: a file of it is missing or was changed.
Status = Literal["done", "failed", "missing", "stale", "damaged"]
USABLE = ("done", "failed")


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
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        found = list(pool.map(lambda cell: _read(params, cell), params.cells()))
    states = [state for state, _ in found]
    unusable = [state for state in states if state.status not in USABLE]
    if unusable and (not partial or len(unusable) == len(states)):
        raise InputError(_refusal(params, unusable, len(states)))
    recorded = {state.cell: run for state, run in found if run is not None}
    _check_images(params, recorded)
    collected = Collected(states, _datasets(params, recorded))

    folder = layout.report_folder(params)
    runs = _csv(RUN_COLUMNS, (row for cell, run in recorded.items() for row in _run_rows(cell, run)))
    records.write_atomically(folder / "runs.csv", runs)
    records.write_atomically(folder / "costs.csv", _csv(COST_COLUMNS, map(_cost_row, recorded.items())))
    content = {
        "schema_version": SCHEMA_VERSION,
        "preset": params.preset,
        "cells": [asdict(state) | {"cell": state.cell.key} for state in states],
        "datasets": {name: asdict(facts) for name, facts in collected.datasets.items()},
        "files": {"runs.csv": records.file_hash(folder / "runs.csv")},
    }
    records.write_atomically(folder / "cells.json", records.to_json(content))
    return collected


def read_collected(params: Params) -> Collected:
    """What `collect` found, from `cells.json`.

    Raises:
        InputError: the file is missing, or it or `runs.csv` is damaged or of other settings.
    """
    path = layout.report_folder(params) / "cells.json"
    again = f"run `python -m fdl collect --preset {params.preset}`"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {again}") from None
    except ValueError:
        raise InputError(f"{path}: damaged; {again}") from None
    cells = params.cells()
    expected = [(cell.key, params.settings_digest(cell)) for cell in cells]
    if (
        content.get("schema_version") != SCHEMA_VERSION
        or [(entry["cell"], entry["settings"]) for entry in content["cells"]] != expected
    ):
        raise InputError(f"{path}: collected with other settings; {again}")
    runs = path.with_name("runs.csv")
    if not runs.is_file() or records.file_hash(runs) != content["files"]["runs.csv"]:
        raise InputError(f"{runs}: missing or changed since it was collected; {again}")
    return Collected(
        [CellState(**entry | {"cell": cell}) for entry, cell in zip(content["cells"], cells, strict=True)],
        {
            name: DatasetFacts(**facts | {key: tuple(facts[key]) for key in ("notes", "classes")})
            for name, facts in content["datasets"].items()
        },
    )


def read_runs(params: Params) -> "DataFrame":
    """`runs.csv` as a frame with the columns `RUN_COLUMNS`."""
    import pandas as pd

    text = dict.fromkeys(RUN_COLUMNS, "str") | {"shots": "int64", "seed": "int64", "value": "float64"}
    path = layout.report_folder(params) / "runs.csv"
    return pd.read_csv(path, dtype=text, keep_default_na=False)


def headline_values(params: Params, runs: "DataFrame", *, combiner: str, metric: str) -> dict[Cell, float]:
    """Every cell's value on test, at the first selection rule of its dataset.

    Raises:
        InputError: there are results, but none of this combiner and metric.
    """
    chosen = runs[(runs["split"] == "test") & (runs["combiner"] == combiner) & (runs["metric"] == metric)]
    if chosen.empty and not runs.empty:
        known = ", ".join(dict.fromkeys(runs["combiner"])), ", ".join(dict.fromkeys(runs["metric"]))
        raise InputError(f"runs.csv: no {metric!r} of combiner {combiner!r}; it holds {known[1]} of {known[0]}")
    return of_headline_rule(params, chosen)


def of_headline_rule(params: Params, rows: "DataFrame") -> dict[Cell, float]:
    """The values of rows of one split, combiner and metric, at the first selection rule of each dataset."""
    rules = {dataset: params.selections_of(dataset)[0] for dataset in dict.fromkeys(rows["dataset"])}
    columns = [rows[name].tolist() for name in (*CELL_COLUMNS, "selection", "value")]
    return {Cell(*cell): value for *cell, rule, value in zip(*columns, strict=True) if rule == rules[cell[0]]}


def _read(params: Params, cell: Cell) -> tuple[CellState, dict[str, Any] | None]:
    """A cell's state, and its `run.json` with its metrics where the record can be used."""
    folder, settings = layout.record_folder(params, cell), params.settings_digest(cell)
    try:
        run = records.read_run(folder)
        if run is None:
            return CellState(cell, "missing", settings), None
        if run["digests"]["settings"] != settings:
            return CellState(cell, "stale", settings), None
        if not has_todays_scores(run):
            return CellState(cell, "stale", settings, reason="scored by an older version: `fdl combine`"), None
        records.verify(folder, run)
    except InputError as error:
        return CellState(cell, "damaged", settings, reason=_one_line(error)), None
    training = run["digests"]["training"]
    if run["status"] == "failed":
        failure = run["failure"]
        reason = _one_line(failure["reason"])
        state = CellState(cell, "failed", settings, training, epoch=failure["epoch"], reason=reason)
        return state, run | {"metrics": []}
    metrics = json.loads((folder / "metrics.json").read_bytes())
    if problem := _impossible(metrics):
        reason = f"{folder / 'metrics.json'}: {problem}; delete the record and run the bundle again"
        return CellState(cell, "damaged", settings, reason=reason), None
    return CellState(cell, "done", settings, training), run | {"metrics": metrics}


def _impossible(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What in the values of a record cannot be; empty if nothing: a wrong number is worse than a missing one."""
    seen = set()
    for row in metrics:
        key, value = (row["selection"], row["split"], row["combiner"], row["metric"]), float(row["value"])
        low, high = _RANGES.get(row["metric"], (-inf, inf))
        if not isfinite(value) or not low - _ROUNDING <= value <= high + _ROUNDING:
            return f"{' '.join(key)} is {value}"
        if key in seen:
            return f"{' '.join(key)} stands there twice"
        seen.add(key)
    return ""


def _refusal(params: Params, unusable: list[CellState], total: int) -> str:
    """One line: how many, which, what to do."""
    parts = []
    for status in ("missing", "stale", "damaged"):
        names = [state.cell.key for state in unusable if state.status == status]
        if names:
            more = ", …" if len(names) > _NAMED else ""
            parts.append(f"{len(names)} {status} ({', '.join(names[:_NAMED])}{more})")
    scored = [state for state in unusable if state.status == "stale" and state.reason]
    again = f"`python -m fdl combine --preset {params.preset}` scores {len(scored)} of them again, " if scored else ""
    without = ", `collect --partial` leaves them out" if len(unusable) < total else ""
    return (
        f"{layout.results_folder(params)}: {len(unusable)} of {total} records cannot be used: {', '.join(parts)}; "
        f"{again}`python -m fdl run --preset {params.preset}` trains just these{without}"
    )


def _check_images(params: Params, recorded: Mapping[Cell, Mapping[str, Any]]) -> None:
    """Refuse to compare cells of one dataset and pool, or of one draw, that were trained on different images."""
    first: dict[tuple[object, ...], tuple[str, str]] = {}
    for cell, run in recorded.items():
        images = cell.dataset, params.pool_of(cell.dataset, cell.backbone)
        groups = [(images, run["data"]["hash"]), ((*images, cell.shots, cell.seed), run["split"]["hash"])]
        for group, hash_ in groups:
            other, expected = first.setdefault(group, (cell.key, hash_))
            if hash_ != expected:
                raise InputError(
                    f"{cell.dataset}: {other} and {cell.key} were trained on different images; "
                    "`python -m fdl run` trains the older one again"
                )


def _datasets(params: Params, recorded: Mapping[Cell, Mapping[str, Any]]) -> dict[str, DatasetFacts]:
    """Facts by dataset, in the grid's order."""
    facts = {}
    for dataset in dict.fromkeys(cell.dataset for cell in params.cells()):
        data = [run["data"] for cell, run in recorded.items() if cell.dataset == dataset]
        if not data:
            source = params.source_of(dataset)
            facts[dataset] = DatasetFacts(source == "synthetic", source)
            continue
        facts[dataset] = DatasetFacts(
            synthetic=any(block["synthetic"] for block in data),
            source=data[0]["source"],
            notes=tuple(dict.fromkeys(_one_line(note) for block in data for note in block["notes"])),
            classes=tuple(data[0]["classes"]),
            test=data[0]["test"],
            hash=data[0]["hash"],
        )
    return facts


def _run_rows(cell: Cell, run: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """The cell's rows of `runs.csv`, sorted, so that the order in its record does not matter."""
    return sorted(
        (*_names(cell), row["selection"], row["split"], row["combiner"], row["metric"], repr(float(row["value"])))
        for row in run["metrics"]
    )


def _cost_row(item: tuple[Cell, Mapping[str, Any]]) -> tuple[object, ...]:
    cell, run = item
    timings, provenance = run["timings"], run["provenance"]
    return (
        *_names(cell),
        run["status"],
        run.get("parameters"),  # of a failed cell: not known
        *(round(timings[name], 3) for name in ("seconds", "train_seconds", "evaluate_seconds", "peak_memory_mb")),
        provenance["device"],
        provenance["precision"],
    )


def _one_line(text: object) -> str:
    """Tables are made of lines: a line break would break theirs."""
    return " ".join(str(text).split())


def _names(cell: Cell) -> tuple[object, ...]:
    return tuple(getattr(cell, name) for name in CELL_COLUMNS)


def _csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
