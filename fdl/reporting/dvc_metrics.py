"""Small files that DVC shows and compares between commits and experiments; `dvc.yaml` names them.

- `metrics.json` (`dvc metrics show`, `diff`): `accuracy.<dataset>.<method>.<combiner>` is the mean test accuracy in
  [0, 1] over the dataset's finished cells (trained ensembles), where the combiner is the way to form one prediction
  from the members' outputs; `cells` counts the cells that are finished, have failed, or are left out;
- `plots/accuracy.csv`, `plots/training.csv` (`dvc plots show`, `diff`): the numbers that the templates in `.dvc/plots`
  draw.
"""

from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from fdl.core import files, layout
from fdl.core.settings import Cell
from fdl.reporting.results import Results, spread
from fdl.reporting.targets import DVC

_POINTS = 100  # largest number of points of a training curve
_DIGITS = 6  # decimals of values; rounding makes the files independent of the order in which sums are computed


def write_dvc_metrics(results: Results) -> list[Path]:
    """Write the files `targets.DVC` into the report's folder; return their paths.

    Raises:
        InputError: the history of a record is damaged.
    """
    folder = layout.report_folder(results.params)
    contents = files.to_json(_headline(results)), _accuracy(results), _training(results)
    paths = [folder / name for name in DVC]
    for path, content in zip(paths, contents, strict=True):
        files.write_atomically(path, content)
    return paths


def _headline(results: Results) -> dict[str, object]:
    accuracy: dict[str, dict[str, dict[str, float]]] = {}
    for combiner in results.combiners:
        groups: dict[tuple[str, str], list[float]] = {}
        for cell, value in results.values(combiner, "accuracy").items():
            groups.setdefault((_name(results, cell.dataset), cell.method), []).append(value)
        for (dataset, method), values in groups.items():
            accuracy.setdefault(dataset, {}).setdefault(method, {})[combiner] = round(fmean(values), _DIGITS)
    collected = results.collected
    counts = {"done": len(collected.of("done")), "failed": len(collected.of("failed"))}
    return {"accuracy": accuracy, "cells": counts | {"left_out": len(collected.left_out)}}


def _accuracy(results: Results) -> bytes:
    """CSV with the soft vote's accuracy, mean and standard deviation over seeds.

    It has a row per dataset, backbone, number of shots and method.
    """
    seeds: dict[tuple[str, str, int, str], list[float]] = {}
    for cell, value in results.accuracy.items():
        group = _name(results, cell.dataset), cell.backbone, cell.shots, cell.method
        seeds.setdefault(group, []).append(value)
    spreads = {group: spread(values) for group, values in seeds.items()}
    rows: list[tuple[object, ...]]
    rows = [(*group, accuracy.n, accuracy.mean, accuracy.std) for group, accuracy in spreads.items()]
    return _csv(["dataset", "backbone", "shots", "method", "seeds", "accuracy", "std"], rows)


def _training(results: Results) -> bytes:
    """CSV with the cross-entropy on the training images by epoch, mean over members and seeds.

    It covers the cells that the report's figure of the training shows.
    """
    rows: list[tuple[object, ...]] = []
    for dataset, backbone in results.nets:
        for method, cells in results.compared(dataset, backbone).items():
            curves = [_cross_entropy(results, cell) for cell in cells]
            epochs = min(map(len, curves))
            mean = np.mean([curve[:epochs] for curve in curves], axis=0)
            shown = np.unique(np.linspace(0, epochs - 1, min(epochs, _POINTS)).round().astype(int)).tolist()
            rows += [
                (_name(results, dataset), backbone, cells[0].shots, method, epoch + 1, mean[epoch]) for epoch in shown
            ]
    return _csv(["dataset", "backbone", "shots", "method", "epoch", "cross_entropy"], rows)


def _name(results: Results, dataset: str) -> str:
    """The dataset's name with `-synthetic` if its images are synthetic, so that nobody takes the numbers for real."""
    return f"{dataset}-synthetic" if results.collected.datasets[dataset].synthetic else dataset


def _cross_entropy(results: Results, cell: Cell) -> NDArray[np.float64]:
    """Cross-entropy by epoch (epochs,), mean over members."""
    history = results.history(cell)
    members = [name for name in history.columns.astype(str) if name.startswith("cross_entropy_")]
    mean: NDArray[np.float64] = history[members].to_numpy().mean(axis=1)
    return mean


def _csv(columns: list[str], rows: list[tuple[object, ...]]) -> bytes:
    import pandas as pd

    frame = pd.DataFrame.from_records(rows, columns=columns).round(_DIGITS)
    return str(frame.to_csv(index=False, lineterminator="\n")).encode()
