"""Metrics against torchmetrics' and scikit-learn's, and on cases worked out by hand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score, log_loss
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from fdl.evaluation.metrics import (
    ECE_BINS,
    METRICS,
    accuracy,
    accuracy_balanced,
    brier,
    confidence_bins,
    ece,
    f1_macro,
    f1_weighted,
    nll,
)

CLASSES = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@settings(deadline=None, max_examples=100)
@given(CLASSES, st.data())
def test_balanced_accuracy_equals_scikit_learns(labels, data):
    predicted = data.draw(st.lists(st.integers(0, 4), min_size=len(labels), max_size=len(labels)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of predicted classes that no image has, and of a single class
        expected = balanced_accuracy_score(labels, predicted)
    assert accuracy_balanced(np.array(predicted), np.array(labels)) == pytest.approx(expected)


def test_a_small_class_counts_as_much_as_a_large_one():
    labels = np.array([0] * 98 + [1] * 2)
    always_the_first = np.zeros(100, int)
    assert accuracy(always_the_first, labels) == 0.98
    assert accuracy_balanced(always_the_first, labels) == 0.5


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 2), min_size=9, max_size=9))
def test_of_equal_classes_it_is_the_accuracy(predicted):
    labels = np.repeat([0, 1, 2], 3)
    assert accuracy_balanced(np.array(predicted), labels) == pytest.approx(accuracy(np.array(predicted), labels))


@settings(deadline=None, max_examples=100)
@given(CLASSES, st.data())
def test_weighted_f1_equals_scikit_learns(labels, data):
    predicted = data.draw(st.lists(st.integers(0, 4), min_size=len(labels), max_size=len(labels)))
    expected = f1_score(labels, predicted, average="weighted", zero_division=0)
    assert f1_weighted(np.array(predicted), np.array(labels)) == pytest.approx(expected)


def test_f1_weighs_classes_by_their_images():
    # F1 of class 0: 2·3 / (3 + 3); of class 1: 0.
    assert f1_weighted(np.array([0, 0, 0, 2]), np.array([0, 0, 0, 1])) == 0.75


def some_probabilities(seed, images=40, classes=4):
    """Rows of sum 1, and labels."""
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.full(classes, 0.3), images), generator.integers(0, classes, images)


@pytest.mark.parametrize("seed", range(3))
def test_nll_and_brier_equal_scikit_learns(seed):
    probabilities, labels = some_probabilities(seed)
    classes = list(range(4))
    assert nll(probabilities, labels) == pytest.approx(log_loss(labels, probabilities, labels=classes))
    expected = brier_score_loss(labels, probabilities, labels=classes, scale_by_half=False)
    assert brier(probabilities, labels) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_class_held_impossible_costs_the_logarithm_of_epsilon(dtype):
    probabilities = np.array([[1, 0], [1, 0]], dtype)
    assert nll(probabilities, np.array([0, 1])) == pytest.approx(-np.log(np.finfo(dtype).eps) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_accuracy_and_f1_equal_torchmetrics(seed):
    probabilities, labels = some_probabilities(seed, images=400)
    predicted, given, truth = probabilities.argmax(1), torch.tensor(probabilities), torch.tensor(labels)
    theirs = {
        ece(probabilities, labels): multiclass_calibration_error(given, truth, 4, n_bins=ECE_BINS, norm="l1"),
        accuracy(predicted, labels): multiclass_accuracy(given, truth, 4, average="micro"),
        accuracy_balanced(predicted, labels): multiclass_accuracy(given, truth, 4, average="macro"),
        f1_macro(predicted, labels): multiclass_f1_score(given, truth, 4, average="macro"),
        f1_weighted(predicted, labels): multiclass_f1_score(given, truth, 4, average="weighted"),
    }
    assert len(theirs) == 5
    assert {ours: float(value) for ours, value in theirs.items()} == pytest.approx({ours: ours for ours in theirs})


def test_brier_by_hand():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert brier(probabilities, np.array([0, 1, 2])) == pytest.approx((0.25 + 0.09 + 0.04 + 0 + 2) / 3)


def test_calibration_error_by_hand():
    # Bins of width 1/15. 0.62 and 0.65 share the tenth, (0.6, 0.667]: one of two right. 0.68 and 0.9 are alone.
    confidence = np.array([0.62, 0.65, 0.68, 0.9])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 1, 0, 1])
    expected = (2 * abs(0.5 - 0.635) + abs(1 - 0.68) + abs(0 - 0.9)) / 4
    assert ece(probabilities, labels) == pytest.approx(expected)


def test_a_bin_holds_its_upper_edge():
    # The edge 0.6 = 9/15 belongs with 0.55, not with 0.65: there one is right and one is wrong.
    confidence = np.array([0.55, 0.6, 0.65])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    expected = (2 * abs(0.5 - 0.575) + abs(1 - 0.65)) / 3
    assert ece(probabilities, np.array([0, 1, 0])) == pytest.approx(expected)


def test_sure_and_right_is_perfect():
    labels = np.array([0, 2, 1])
    assert [metric.function(np.eye(3)[labels], labels) for metric in METRICS.values() if metric.better == "lower"] == [
        0,
        0,
        0,
    ]


def test_the_fifteen_bins_of_confidence_are_of_equal_width():
    """An image in the middle of each bin; every third is right."""
    confidence, classes = (np.arange(15) + 0.5) / 15, 40
    probabilities = np.repeat((1 - confidence[:, None]) / (classes - 1), classes, axis=1)
    probabilities[:, 7] = confidence
    labels = np.where(np.arange(15) % 3 == 0, 7, 8)
    images, summed, right = confidence_bins(probabilities, labels)
    assert ECE_BINS == 15
    assert images.tolist() == [1] * 15
    assert summed.tolist() == confidence.tolist()
    assert right.tolist() == [1, 0, 0] * 5
    assert ece(probabilities, labels) == pytest.approx(np.abs(right - confidence).mean())
