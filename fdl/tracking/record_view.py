"""The names, numbers and tags that a run in MLflow shows of a record, which is the folder with a cell's results.

A cell is one trained ensemble. Except for `dataset_input`, nothing here imports MLflow, which is slow.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Cell, Params, digest
from fdl.core.titles import dataset_title
from fdl.evaluation.voting import COMBINERS
from fdl.results import records
from fdl.results.state import CellStatus

CURVE_POINTS = 25  # largest number of points per curve; with 50 a pass takes a third longer; `curves.csv` holds all
DISPLAY_VERSION = 3  # raise it when a run shows a record in a new way, so that the next pass replaces existing runs
CELL_TAG, BUNDLE_TAG, DIGEST_TAG = "fdl.cell", "fdl.bundle", "fdl.digest"
PARENT_TAG, DESCRIPTION_TAG = "mlflow.parentRunId", "mlflow.note.content"
SOFT = "test.soft.accuracy"  # the headline number
DECIMALS = 4  # of the numbers shown, that is, 0.01 points of accuracy; records and runs.csv have full precision
# Values for the parameters of loss terms that a method does not have. In its charts, MLflow would place a run that
# lacks a parameter above all others.
NO_TERMS = {"cosine_weight": 0, "gaussian_weight": 0, "strength": 0}
SYNTHETIC = "Synthetic images: the numbers mean nothing."


@dataclass(frozen=True)
class Record:
    """The record of a cell, with a digest of everything that its run shows."""

    cell: Cell
    folder: Path
    run: dict[str, Any]  # content of `run.json`
    digest: str  # of `run`, which includes the hashes of the record's other files, and of the way it is shown
    dataset: str  # printed name
    end: int  # time at which the record was put in place, in ms since the Unix epoch

    @property
    def start(self) -> int:
        """Time at which its training began, in ms since the Unix epoch."""
        return self.end - int(self.run["timings"]["seconds"] * 1000)


def record_of(params: Params, state: CellStatus) -> Record | None:
    """The record of a cell if it is current, else None; MLflow shows only current records.

    Raises:
        InputError: the record is damaged.
    """
    if state.status == "damaged":
        raise InputError(state.reason)
    if not state.finished or state.run is None:
        return None
    folder, run = layout.record_folder(params, state.cell), dict(state.run)
    end = int((folder / "run.json").stat().st_mtime * 1000)
    title = dataset_title(params.protocol(state.cell.dataset).title, synthetic=run["data"]["synthetic"])
    return Record(state.cell, folder, run, digest([DISPLAY_VERSION, title, run]), title, end)


def data_tags(record: Record) -> dict[str, Any]:
    """Tags on the source of the images, including the description at the top of the run's page with notes on them."""
    data = record.run["data"]
    notes = [record.dataset, *([f"**{SYNTHETIC}**"] if data["synthetic"] else []), *data["notes"]]
    return {"source": data["source"], "synthetic": data["synthetic"], DESCRIPTION_TAG: "\n\n".join(notes)}


def cell_tags(record: Record, parent: str) -> dict[str, Any]:
    """Tags of a cell's run; the tag `failure` exists only if its training diverged."""
    run, provenance = record.run, record.run["provenance"]
    tags = {CELL_TAG: record.cell.key, DIGEST_TAG: record.digest, PARENT_TAG: parent, **run["cell"]}
    tags |= {"device": provenance["device"], "status": run["status"], **data_tags(record)}
    if git := provenance["git"]:
        tags |= {"mlflow.source.git.commit": git["commit"], "git": git["commit"], "git_dirty": git["dirty"]}
    if failure := run["failure"]:
        tags["failure"] = f"epoch {failure['epoch']}: {failure['reason']}"
        tags[DESCRIPTION_TAG] = f"**Diverged in {tags['failure']}.**\n\n{tags[DESCRIPTION_TAG]}"
    return tags


def settings(record: Record) -> dict[str, Any]:
    """Parameters of a cell's run: the cell and its settings, with the precision used instead of the one asked for."""
    run = record.run
    shown = {name: value for name, value in run["settings"].items() if name not in ("cell", "source", "method_digest")}
    method = shown.pop("method_params")
    images = {f"{split}_images": run["data"][split] for split in ("train", "validation", "test")}
    size = {"parameters_per_member": run["parameters"]} if "parameters" in run else {}
    return {**run["cell"], **NO_TERMS, **method, **shown, "precision": run["provenance"]["precision"], **images, **size}


def checked(record: Record, name: str) -> Path:
    """The path of a file of the record, after checking its hash.

    Raises:
        InputError: the file is damaged or missing.
    """
    records.verify(record.folder, record.run, name)
    return record.folder / name


def headline(record: Record) -> str:
    """The selection rule (which picks the epoch) whose numbers the tables show: the first one."""
    return str(record.run["settings"]["selections"][0])


def _rows(record: Record) -> list[dict[str, Any]]:
    if record.run["status"] == "failed":
        return []
    rows: list[dict[str, Any]] = json.loads(checked(record, "metrics.json").read_bytes())
    return rows


def final(record: Record) -> dict[str, float]:
    """Final numbers of a cell by name, such as `test.soft.accuracy`, `<split>.<combiner>.<metric>`.

    Numbers of another selection rule than the first have its name in front: `own/test.soft.accuracy`. A run's page
    shows them in the given order, so test images come first and members last. MLflow's comparison of runs sorts by name
    and draws the first metric. Therefore the soft vote's test accuracy is also stored as `accuracy`.
    """
    values: dict[str, float] = {}
    for row in sorted(_rows(record), key=lambda row: (row["split"] != "test", "member" in row["combiner"])):
        prefix = "" if row["selection"] == headline(record) else f"{row['selection']}/"
        values[f"{prefix}{row['split']}.{row['combiner']}.{row['metric']}"] = round(row["value"], DECIMALS)
    return ({"accuracy": values[SOFT]} if SOFT in values else {}) | values


def means(finished: list[Record]) -> dict[str, float]:
    """Means on test images over each method's finished seeds, such as `soft.accuracy.fdl`.

    `seeds.fdl` is the number of these seeds. `accuracy.fdl` repeats `soft.accuracy.fdl` for the same reason as in
    `final`.
    """
    values: dict[str, list[float]] = {}
    seeds: dict[str, float] = {}
    for record in finished:
        method = record.cell.method
        seeds[f"seeds.{method}"] = seeds.get(f"seeds.{method}", 0) + (record.run["status"] == "done")
        for row in _rows(record):
            if row["selection"] == headline(record) and row["split"] == "test" and "member" not in row["combiner"]:
                values.setdefault(f"{row['combiner']}.{row['metric']}.{method}", []).append(row["value"])
    all_means = {name: round(fmean(of_seeds), DECIMALS) for name, of_seeds in values.items()}
    soft = {name.removeprefix("soft."): mean for name, mean in all_means.items() if name.startswith("soft.accuracy.")}
    return soft | seeds | all_means


def costs(record: Record) -> dict[str, float]:
    """Times and memory, such as `resources/seconds`; their prefix makes a group of charts that follows the curves."""
    return {f"resources/{name}": round(float(value), 1) for name, value in record.run["timings"].items()}


def curves(record: Record) -> dict[str, list[tuple[int, float]]]:
    """Points (epoch, value) by name of the curve, such as `curve/loss` or `curve/train_accuracy.member0`.

    Values that are not finite, because they were not evaluated or diverged, give no point.

    Raises:
        InputError: the history is damaged or missing.
    """
    from pyarrow import parquet

    columns = parquet.read_table(checked(record, "history.parquet")).to_pydict()
    epochs = columns.pop("epoch")
    by_name = {}
    for column, values in columns.items():
        points = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if math.isfinite(value)]
        by_name[curve_name(column)] = thin(points)
    return by_name


def curve_name(column: str) -> str:
    """The name of the curve in MLflow that shows this column of the history."""
    name, _, member = column.rpartition("_")
    return f"curve/{name}.member{member}" if member.isdigit() else f"curve/{column}"


def thin(points: list[tuple[int, float]], limit: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """At most `limit` (≥ 2) of the points, evenly spaced and including the first and the last."""
    if len(points) <= limit:
        return points
    return [points[round(index * (len(points) - 1) / (limit - 1))] for index in range(limit)]


def dataset_input(record: Record, dataset: str) -> Any:
    """MLflow's `DatasetInput` for the drawn images that the cell was trained on; its digest is the split's hash.

    Args:
        record: the record of the cell.
        dataset: name of the dataset as `layout.dataset_name` returns it.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    split, data = record.run["split"], record.run["data"]
    draw = Dataset(
        name=f"{dataset} {record.cell.shots}shot draw{split['draw']}",
        digest=split["hash"][:36],  # MLflow's limit
        source_type="local",
        source=json.dumps({"source": data["source"], "hash": data["hash"], "rule": split["rule"]}),
        profile=json.dumps({part: data[part] for part in ("train", "validation", "test")}),
    )
    return DatasetInput(draw, [InputTag("mlflow.data.context", "training")])


def experiment_tags(params: Params, made: int) -> dict[str, str]:
    """Tags of the experiment: its description, and two entries of the menu "Views" above MLflow's table of runs.

    Without a view the table shows no results. MLflow 3.15 and later store a saved view as a tag of the experiment;
    earlier versions ignore it.

    Args:
        params: the settings; the columns depend on their methods.
        made: time at which the experiment was created, in ms since the Unix epoch.
    """
    identity = [f"params.`{name}`" for name in ("dataset", "backbone", "shots", "method", "seed")]
    shown = sorted((name for name, about in COMBINERS.items() if about.shown and not about.trained), key="soft".__ne__)
    final = [f"metrics.`test.{combiner}.accuracy`" for combiner in shown]
    methods = dict.fromkeys(cell.method for cell in params.cells())
    means = [f"metrics.`{combiner}.accuracy.{m}`" for combiner in shown for m in methods]
    views = {  # both are sorted by their first column, the soft vote's accuracy
        "Bundles": (BUNDLE_TAG, [*means, "tags.`status`"]),
        # The name of a run identifies its cell. The parts of the name, for sorting and grouping, are the last columns.
        "Cells": (CELL_TAG, [*final, "metrics.`resources/seconds`", "tags.`failure`", *identity]),
    }
    hint = "Choose a table in the menu Views: Bundles (means over seeds) or Cells."
    synthetic = any(params.source_of(cell.dataset) == "synthetic" for cell in params.cells())
    tags = {DESCRIPTION_TAG: f"{SYNTHETIC} {hint}" if synthetic else hint}
    for name, (tag, columns) in views.items():
        widths = {"attributes.`Run Name`": 260} | {column: 40 + 7 * len(column.split("`")[1]) for column in columns}
        state = {
            "searchFilter": f"tags.`{tag}` LIKE '%'",
            "orderByKey": columns[0],
            "orderByAsc": False,
            "selectedColumns": columns,
            "columnOrder": list(widths),
            "columnWidths": widths,
        }
        view = {"name": name, "createdAt": made, "updatedAt": made, "state": json.dumps(state)}
        tags[f"mlflow.sharedViewState.fdl-{name.lower()}"] = json.dumps(view)
    return tags
