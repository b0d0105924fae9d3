"""The files that DVC shows."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from fdl.core.settings import Params
from fdl.reporting.dvc_metrics import write_dvc_metrics
from fdl.reporting.results import read_results
from fdl.results.collect import collect
from tests.reporting.fabricate import fabricate, small_grid

LOST = "neu/alexnet/5shot/fdl/seed1"


def written(params: Params) -> dict[str, Path]:
    """The files by name."""
    collect(params)
    return {path.name: path for path in write_dvc_metrics(read_results(params))}


@pytest.fixture
def files(project: Path) -> dict[str, Path]:
    """Of eight cells: classical right in half of the tests, FDL in three of four; one cell of FDL diverged."""
    params = small_grid()
    accuracy = {cell: 0.75 if cell.method == "fdl" else 0.4 + 0.1 * cell.shots / 5 for cell in params.cells()}
    fabricate(params, accuracy=accuracy, failed=[LOST])
    return written(params)


def test_headline_numbers_are_means_over_the_finished_cells(files: dict[str, Path]) -> None:
    metrics = json.loads(files["metrics.json"].read_bytes())
    assert metrics["cells"] == {"done": 7, "failed": 1, "left_out": 0}
    neu = metrics["accuracy"]["neu-synthetic"]  # a twin never goes under the real name
    assert neu["fdl"]["soft"] == 0.75
    assert neu["classical"]["soft"] == pytest.approx((0.46 + 0.5) / 2)
    assert neu["fdl"]["hard"] == pytest.approx(0.9 * 0.75)


def test_accuracy_over_shots_is_tidy(files: dict[str, Path]) -> None:
    with files["accuracy.csv"].open() as file:
        rows = {(row["method"], row["shots"]): row for row in csv.DictReader(file)}
    assert {row["dataset"] for row in rows.values()} == {"neu-synthetic"}
    assert rows["fdl", "3"] | {"seeds": "2", "accuracy": "0.75", "std": "0.0"} == rows["fdl", "3"]
    assert rows["fdl", "5"] | {"seeds": "1", "std": ""} == rows["fdl", "5"]  # one seed has no spread


def test_training_curves_start_at_the_first_epoch_and_end_at_the_last(files: dict[str, Path]) -> None:
    table = pd.read_csv(files["training.csv"])
    for _, curve in table.groupby(["backbone", "method"]):
        assert curve["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
        assert curve["cross_entropy"].is_monotonic_decreasing


def test_equal_results_give_equal_bytes(project: Path) -> None:
    params = small_grid()
    fabricate(params)
    first = {name: path.read_bytes() for name, path in written(params).items()}
    assert {name: path.read_bytes() for name, path in written(params).items()} == first


def test_nothing_but_failed_cells_is_still_written(project: Path) -> None:
    params = small_grid()
    fabricate(params, failed=[cell.key for cell in params.cells()])
    metrics = json.loads(written(params)["metrics.json"].read_bytes())
    assert metrics == {"accuracy": {}, "cells": {"done": 0, "failed": 8, "left_out": 0}}
