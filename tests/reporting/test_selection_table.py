"""What the rule that picks the epoch makes of the same trainings."""

import pandas as pd

from fdl.core.settings import Params, load
from fdl.reporting.comparison_tables import selection_table
from fdl.reporting.results import Results
from fdl.reporting.targets import targets
from fdl.results.collect import CellState, Collected, DatasetFacts
from tests.reporting.fabricate import PARAMS_FILE, small_grid


def grid(*rules: str) -> Params:
    """One bundle of two methods and two seeds."""
    return small_grid(shots=[3], selections=list(rules), evaluate_every=1)


def results(params: Params) -> Results:
    """Test accuracies by rule: the last epoch 0.50 and 0.54, the best 0.56 and 0.58; FDL 0.1 more; validation 0.9."""
    of = {"last": (0.50, 0.54), "sum": (0.56, 0.58)}
    rows = [
        {"dataset": cell.dataset, "backbone": cell.backbone, "shots": cell.shots, "method": cell.method}
        | {"seed": cell.seed, "selection": rule, "split": split, "combiner": "soft", "metric": "accuracy"}
        | {"value": 0.9 if split == "validation" else of[rule][cell.seed] + 0.1 * (cell.method == "fdl")}
        for cell in params.cells()
        for rule in params.selections_of(cell.dataset)
        for split in ("validation", "test")
    ]
    states = [CellState(cell, "done", "settings") for cell in params.cells()]
    facts = DatasetFacts("NEU", False, "local", (), tuple("abcdef"), 60)
    return Results(params, Collected(states, {"neu": facts}), pd.DataFrame(rows))


def test_a_line_per_rule_with_its_difference_from_the_last_epoch() -> None:
    table = selection_table(results(grid("sum", "last")))
    assert [line.texts[3:] for line in table.lines] == [
        ["classical", "sum", "57.0 ± 1.4", "+5.0", "90.0 ± 0.0"],
        ["classical", "last", "52.0 ± 2.8", "–", "90.0 ± 0.0"],
        ["FDL", "sum", "67.0 ± 1.4", "+5.0", "90.0 ± 0.0"],
        ["FDL", "last", "62.0 ± 2.8", "–", "90.0 ± 0.0"],
    ]
    assert "difference on test from last" in table.caption


def test_one_rule_makes_no_table() -> None:
    assert "selections" not in [target.name for target in targets(grid("last"))]
    assert "selections" in [target.name for target in targets(grid("last", "sum"))]


def test_the_trainings_of_lite_are_looked_at_again_with_their_own_settings() -> None:
    lite, again = (load(PARAMS_FILE, preset=name) for name in ("lite", "lite-selection"))
    looks = {"cell", "selections", "evaluate_every"}
    for cell in again.cells():
        one, other = lite.training_settings(cell), again.training_settings(cell)
        assert {key for key in one | other if one.get(key) != other.get(key)} <= looks
