"""What may stand in a record's `metrics.json`, and how a value that may not is named."""

import json
import math

import pytest

from fdl.results.measures import problem_in, read_metrics

ROW = {"selection": "last", "split": "test", "combiner": "soft", "metric": "accuracy", "value": 0.5}


@pytest.fixture
def problem(tmp_path):
    """What is wrong with rows, once they are written."""

    def of(*rows):
        path = tmp_path / "metrics.json"
        path.write_text(json.dumps(rows))
        return problem_in(path)

    return of


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [ROW, *(ROW | change for change in ({"selection": "own"}, {"split": "train"}, {"combiner": "hard"}))]
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(rows))
    assert read_metrics(path) == rows
    assert problem_in(path) == ""


@pytest.mark.parametrize("name", ["member0", "member12", "ensemble", "best", "soft", "stacking-tuned"])
def test_members_the_ensemble_and_combiners_have_values(problem, name):
    assert problem(ROW | {"combiner": name}) == ""


SHARES = ("accuracy", "accuracy_balanced", "f1_macro", "f1_weighted", "ece", "disagreement", "oracle_accuracy")
BOUNDS = dict.fromkeys((*SHARES, "cam_left_out", "cam_empty", "cam_signed_left_out"), (0.0, 1.0))
BOUNDS |= dict.fromkeys(("q_statistic", "error_correlation", "cam_overlap", "cam_signed_correlation"), (-1.0, 1.0))
BOUNDS |= dict.fromkeys(("nll", "mutual_information", "gaussian_sum"), (0.0, math.inf))
BOUNDS |= {"brier": (0.0, 2.0), "cosine_sum": (-math.inf, math.inf)}


@pytest.mark.parametrize(("metric", "low", "high"), [(metric, *bounds) for metric, bounds in BOUNDS.items()])
def test_a_value_lies_within_the_bounds_of_its_measure(problem, metric, low, high):
    """Or beyond them by no more than what the last places of a sum of float32 make."""
    for bound, outwards in ((low, -1), (high, 1)):
        if math.isfinite(bound):
            for value in (bound, bound + outwards * 1e-6):
                assert problem(ROW | {"metric": metric, "value": value}) == ""
            beyond = bound + outwards * 2e-6
            assert problem(ROW | {"metric": metric, "value": beyond}) == f"last test soft {metric} is {beyond}"
        else:
            assert problem(ROW | {"metric": metric, "value": outwards * 1e9}) == ""
            assert problem(ROW | {"metric": metric, "value": bound}) == f"last test soft {metric} is {bound}"
    assert problem(ROW | {"metric": metric, "value": math.nan}) == f"last test soft {metric} is nan"


KEYS = "a row without the keys combiner, metric, selection, split, value"
UNKNOWN = "no such selection, split or combiner: "
LONG = "x" * 58  # with its quotes 60 letters


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], "last test soft accuracy appears twice"),
        ([ROW, 3], KEYS),
        ([{**ROW, "more": 1}], KEYS),
        (
            [{key: ROW[key] for key in list(ROW)[1:]}],
            "a row without the keys combiner, metric, selection, split, value",
        ),
        ([ROW | {"metric": 3}], "a row whose names are not text"),
        ([ROW | {"selection": "sum4"}], UNKNOWN + "('sum4', 'test', 'soft', 'accuracy')"),
        ([ROW | {"split": "dev"}], UNKNOWN + "('last', 'dev', 'soft', 'accuracy')"),
        (
            [ROW | {"combiner": "member"}],
            UNKNOWN + "('last', 'test', 'member', 'accuracy')",
        ),
        ([ROW | {"metric": "luck"}], "no such metric: ('last', 'test', 'soft', 'luck')"),
        ([ROW | {"value": True}], "last test soft accuracy is True, not a number"),
        ([ROW | {"value": LONG}], f"last test soft accuracy is '{LONG}', not a number"),
        ([ROW | {"value": LONG + "x"}], f"last test soft accuracy is '{'x' * 27}...{'x' * 28}', not a number"),
    ],
)
def test_what_is_no_row_is_named(problem, rows, message):
    assert problem(*rows) == message


def test_what_holds_no_rows_is_named(tmp_path):
    path = tmp_path / "metrics.json"
    assert "No such file" in problem_in(path)
    for content, message in (("{}", "not a list of rows"), ("[", "not JSON"), ("[" * 100_000, "not JSON")):
        path.write_text(content)
        assert problem_in(path) == message
