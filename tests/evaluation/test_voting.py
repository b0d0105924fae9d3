"""Votes and scores on cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fdl.evaluation.metrics import accuracy, f1_macro
from fdl.evaluation.voting import hard_vote, hard_vote_by_probability, mean_probabilities, softmax
from fdl.results.scoring import score


def one_hot(votes, classes=4):
    """Logits (M, N, C) that vote for these classes, (M, N)."""
    return np.eye(classes, dtype=np.float32)[np.array(votes)] * 9


def test_hard_vote_takes_the_majority_and_the_lowest_class_of_a_tie():
    #                 majority  tie 1-3  tie of all
    votes = [[2, 3, 3], [2, 3, 2], [0, 1, 1], [1, 1, 0], [2, 0, 3]]
    assert hard_vote(one_hot(votes)).tolist() == [2, 1, 3]


def test_a_tie_may_go_to_the_class_with_more_probability():
    logits = np.log(np.array([[[0.6, 0.4]], [[0.1, 0.9]]], dtype=np.float32))  # one vote each, means 0.35 and 0.65
    assert hard_vote(logits).tolist() == [0]
    assert hard_vote_by_probability(logits).tolist() == [1]
    # A majority stays one, however unsure: two votes for class 0 against a sure one for class 1.
    majority = np.log(np.array([[[0.51, 0.49]], [[0.51, 0.49]], [[0.01, 0.99]]], dtype=np.float32))
    assert hard_vote_by_probability(majority).tolist() == [0]


def test_trained_combiners_are_scored_from_their_own_logits():
    labels = {"validation": np.array([0, 1]), "test": np.array([0, 1, 2, 3])}
    logits = {"validation": one_hot([[1, 1]] * 2), "test": one_hot([[0, 0, 0, 0]] * 2)}
    heads = {"fusion": {"validation": one_hot([[0, 1]])[0], "test": one_hot([[0, 1, 2, 2]])[0]}}
    rows, correct = score(logits, labels, heads)
    value = {(r["split"], r["combiner"], r["metric"]): r["value"] for r in rows}
    assert value["test", "fusion", "accuracy"] == 0.75
    assert value["validation", "fusion", "accuracy"] == 1
    assert value["test", "fusion", "nll"] > 1  # a sure mistake
    assert correct["fusion"].tolist() == [True, True, True, False]


def test_soft_vote_weighs_confidence():
    # Two members lean to class 0, one is sure of class 1.
    logits = np.log(np.array([[[0.51, 0.49]], [[0.51, 0.49]], [[0.01, 0.99]]], dtype=np.float32))
    assert hard_vote(logits).tolist() == [0]
    assert mean_probabilities(logits).argmax(-1).tolist() == [1]


def test_softmax_survives_large_logits():
    assert softmax(np.array([1e4, 0.0, -1e4])).tolist() == [1, 0, 0]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data())
def test_f1_equals_its_definition(labels, data):
    predicted = data.draw(st.lists(st.integers(0, 4), min_size=len(labels), max_size=len(labels)))
    expected = f1_score(labels, predicted, average="macro", zero_division=0)
    assert f1_macro(np.array(predicted), np.array(labels)) == pytest.approx(expected)
    assert accuracy(np.array(predicted), np.array(labels)) == np.mean(np.array(predicted) == np.array(labels))


def test_scores_of_members_and_combiners():
    labels = {"validation": np.array([0, 1]), "test": np.array([0, 1, 2, 3])}
    logits = {
        "validation": one_hot([[1, 1], [0, 1], [0, 0]]),  # member 1 is the best here
        "test": one_hot([[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 0, 0]]),
    }
    rows, correct = score(logits, labels)
    value = {(r["split"], r["combiner"], r["metric"]): r["value"] for r in rows}
    assert value["test", "member0", "accuracy"] == 1
    assert value["test", "mean", "accuracy"] == pytest.approx((1 + 0.25 + 0.5) / 3)
    assert value["test", "best", "accuracy"] == 0.25  # chosen on validation, not on test
    assert value["test", "hard", "accuracy"] == 0.5
    assert correct["hard"].tolist() == [True, True, False, False]
    assert set(correct) >= {"member0", "member1", "member2", "best", "hard", "hard-probability", "soft"}
    assert correct["best"].tolist() == correct["member1"].tolist()


def test_every_metric_is_there_for_every_member_and_combiner():
    labels = {"validation": np.array([0, 1]), "test": np.array([0, 0, 0, 1])}
    logits = {"validation": one_hot([[0, 1]] * 2), "test": one_hot([[0, 0, 0, 0]] * 2)}
    rows, _ = score(logits, labels)
    names = {(row["combiner"], row["metric"]) for row in rows if row["split"] == "test"}
    combiners = ("member0", "member1", "mean", "best", "hard", "hard-probability", "soft")
    expected = {(c, m) for c in combiners for m in ("accuracy", "accuracy_balanced", "f1_macro", "f1_weighted")}
    expected |= {(c, m) for c in combiners if "hard" not in c for m in ("nll", "ece", "brier")}
    assert {pair for pair in names if pair[0] in combiners} >= expected
    assert not {("hard", "nll"), ("hard-probability", "ece")} & names
    assert {metric for name, metric in names if name == "ensemble"} >= {"disagreement", "oracle_accuracy"}
    balanced = [row["value"] for row in rows if (row["split"], row["metric"]) == ("test", "accuracy_balanced")]
    assert set(balanced) == {0.5}


def test_softmax_by_hand():
    odds = np.array([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]])
    assert softmax(np.log(odds)) == pytest.approx(odds / 8)
    assert softmax(np.log(odds) + 300) == pytest.approx(odds / 8)
