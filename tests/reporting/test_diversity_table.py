"""The table of how far the members differ."""

import pandas as pd
import pytest

from fdl.reporting.comparison_tables import diversity_table
from fdl.reporting.results import Results
from fdl.results.collect import CellState, Collected, DatasetFacts
from tests.reporting.fabricate import small_grid

MEASURES = {
    ("train", "disagreement"): 0.02,
    ("validation", "disagreement"): 0.9,  # stands nowhere
    ("test", "disagreement"): 0.25,
    ("test", "oracle_accuracy"): 0.75,
    ("test", "mutual_information"): 0.125,
    ("test", "q_statistic"): 0.5,
    ("test", "cosine_sum"): 4.0,
    ("test", "gaussian_sum"): 6.5,
    ("test", "cam_left_out"): 0.4,
}


def results(*, without: tuple[str, str] | None = None) -> Results:
    """NEU with 3 and 5 shots; the second seed has 0.02 more of everything. No maps overlap."""
    params = small_grid(selections=["sum", "last"], evaluate_every=1)
    rows = [
        {"dataset": cell.dataset, "backbone": cell.backbone, "shots": cell.shots, "method": cell.method}
        | {"seed": cell.seed, "selection": rule, "split": split, "combiner": "ensemble", "metric": metric}
        | {"value": value + 0.02 * cell.seed + 0.1 * (cell.method == "fdl") + 5 * (rule == "last")}
        for cell in params.cells()
        for rule in ("sum", "last")
        for (split, metric), value in MEASURES.items()
        if (cell.method, split) != without
    ]
    states = [CellState(cell, "done", "settings") for cell in params.cells()]
    facts = DatasetFacts("NEU", False, "local", (), tuple("abcdef"), 60)
    return Results(params, Collected(states, {"neu": facts}), pd.DataFrame(rows))


def test_a_line_per_method_of_the_headline_rule() -> None:
    table = diversity_table(results())
    assert [line.texts[2:7] for line in table.lines[:2]] == [
        ["3", "classical", "3.0 ± 1.4", "26.0 ± 1.4", "76.0 ± 1.4"],
        ["3", "FDL", "13.0 ± 1.4", "36.0 ± 1.4", "86.0 ± 1.4"],
    ]
    assert [line.texts[7:] for line in table.lines[:2]] == [
        ["0.14 ± 0.01", "0.51 ± 0.01", "4.01 ± 0.01", "6.51 ± 0.01", "–", "41.0 ± 1.4"],
        ["0.23 ± 0.01", "0.61 ± 0.01", "4.11 ± 0.01", "6.61 ± 0.01", "–", "51.0 ± 1.4"],
    ]
    assert table.lines[0].raw["test_cosine_sum_mean"] == pytest.approx(4.01)
    assert table.lines[0].raw["train_disagreement_n"] == 2


def test_records_without_predictions_on_the_training_images_leave_that_column_empty() -> None:
    table = diversity_table(results(without=("classical", "train")))
    assert [line.texts[4] for line in table.lines[:2]] == ["–", "13.0 ± 1.4"]
    assert [remark for remark in table.remarks if remark.startswith("Train: 4 of 8 records have no value")]
    assert not [remark for remark in diversity_table(results()).remarks if remark.startswith("Train:")]
