"""The values that tables and figures take from `runs.csv`."""

from pathlib import Path

import pytest

from fdl.reporting.results import Results, read_results
from fdl.results.collect import collect, read_collected, read_runs
from tests.reporting.fabricate import fabricate, small_grid


@pytest.mark.parametrize("rules", [["sum", "last"], ["last", "sum"]])
def test_values_are_of_the_first_selection_rule(project: Path, rules: list[str]) -> None:
    params = small_grid(evaluate_every=1, selections=rules)
    fabricate(params)
    collect(params)
    runs = read_runs(params)
    assert set(runs["selection"]) == {"sum", "last"}
    runs.loc[runs["selection"] == rules[1], "value"] = 0.0
    values = Results(params, read_collected(params), runs).values("soft", "accuracy")
    assert len(values) == 8
    assert min(values.values()) > 0


@pytest.mark.parametrize(("combiner", "metric"), [("soft", "accuracy"), ("hard", "f1_macro")])
def test_values_are_of_one_combiner_and_metric_on_test(project: Path, combiner: str, metric: str) -> None:
    params = small_grid()
    fabricate(params)
    collect(params)
    runs = read_runs(params)
    runs["value"] = [float(number) for number in range(len(runs))]
    chosen = {
        row.seed: row.value
        for row in runs.itertuples()
        if (row.shots, row.method, row.split, row.combiner, row.metric) == (3, "fdl", "test", combiner, metric)
    }
    values = Results(params, read_collected(params), runs).values(combiner, metric)
    assert len(values) == 8
    assert {cell.seed: value for cell, value in values.items() if (cell.shots, cell.method) == (3, "fdl")} == chosen


def test_where_every_cell_diverged_there_is_no_value(project: Path) -> None:
    params = small_grid()
    fabricate(params, failed={cell.key for cell in params.cells()})
    collect(params)
    assert read_results(params).values("soft", "accuracy") == {}
