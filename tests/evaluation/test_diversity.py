"""Diversity of predictions and of feature maps, on cases worked out by hand."""

from itertools import combinations
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from fdl.evaluation.distance_meter import FeatureDistanceMeter
from fdl.evaluation.diversity import DIVERSITY
from fdl.evaluation.metrics import defined
from fdl.methods.losses import feature_distance


def sure(classes, count=3):
    """Logits (M, N, C) of members that are sure of these classes, (M, N)."""
    return 1e4 * np.eye(count, dtype=np.float32)[np.array(classes)]


def test_values_by_hand():
    labels = np.array([0, 1, 2, 0])
    #                  right on
    classes = [[0, 1, 2, 1],  # 0, 1, 2
               [0, 1, 0, 2],  # 0, 1
               [1, 2, 2, 1]]  # 2  # fmt: skip
    values = defined(DIVERSITY, sure(classes), labels)
    # Pairs differ on (2, 3), (0, 1), (0, 1, 2, 3) of four images.
    assert values["disagreement"] == pytest.approx((2 + 2 + 4) / 12)
    # Both right, both wrong, one right: (2, 1 | 1, 0) → Q 1; (1, 1 | 2, 0) → 1; (0, 1 | 2, 1) → -1.
    assert values["q_statistic"] == pytest.approx(1 / 3)
    # Shares right 3/4, 2/4, 1/4; both 2/4, 1/4, 0: (1/2 - 3/8) / √(3/16 · 1/4) = 1/√3, then 1/3 and -1/√3.
    assert values["error_correlation"] == pytest.approx(1 / 9)
    assert values["oracle_accuracy"] == 0.75
    # Two of three votes for a class on images 0, 1, 2 and 3.
    assert values["mutual_information"] == pytest.approx(log(3) - 2 / 3 * log(2))


def test_mutual_information_is_that_of_the_prediction_and_the_member():
    # Both members are unsure; scikit-learn's of the joint table of 1,000 fictitious answers.
    probabilities = np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.5, 0.4]]])
    member, answer = np.repeat([0, 1], 10), [0] * 7 + [1] * 2 + [2] + [0] + [1] * 5 + [2] * 4
    values = defined(DIVERSITY, np.log(probabilities), np.array([0]))
    assert values["mutual_information"] == pytest.approx(mutual_info_score(member, answer))


def test_members_that_agree():
    # All right, so that Q is 0/0; unsure, so that rounding could make the information negative.
    logits = np.random.default_rng(9).normal(size=(1, 50, 7)).repeat(5, axis=0)
    values = defined(DIVERSITY, logits, logits[0].argmax(-1))
    assert values == {"oracle_accuracy": 1, "disagreement": 0, "mutual_information": pytest.approx(0, abs=1e-12)}
    assert values["mutual_information"] >= 0


def test_one_member_has_no_pairs():
    assert defined(DIVERSITY, sure([[0, 1, 2]]), np.array([0, 1, 1])) == {"oracle_accuracy": pytest.approx(2 / 3)}


def test_pairs_without_a_q_statistic_do_not_count():
    # Members 0 and 1 are right on the same image; member 2 always: 0/0 with either.
    values = defined(DIVERSITY, sure([[0, 1], [0, 1], [0, 0]]), np.array([0, 0]))
    assert values["q_statistic"] == 1


def test_error_correlation_is_pearsons_of_the_pairs_that_have_one():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 3, 40)
    logits = generator.normal(size=(4, 40, 3))
    logits[3] = 9 * np.eye(3)[labels]  # always right: no correlation with any other
    correct = logits.argmax(-1) == labels
    pairs = [np.corrcoef(correct[a], correct[b])[0, 1] for a, b in combinations(range(3), 2)]
    assert defined(DIVERSITY, logits, labels)["error_correlation"] == pytest.approx(np.mean(pairs))
    assert "error_correlation" not in defined(DIVERSITY, logits[[3, 3]], labels)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 1e3]))
def test_every_value_is_within_its_bounds(members, images, classes, seed, scale):
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(members, images, classes)).astype(np.float32)
    values = defined(DIVERSITY, logits, generator.integers(0, classes, images))
    low = {"q_statistic": -1.0, "error_correlation": -1 - 1e-9}
    high = {"mutual_information": log(members) + 1e-9, "error_correlation": 1 + 1e-9}
    assert all(low.get(name, 0) <= value <= high.get(name, 1) for name, value in values.items())


def maps(images, seed):
    """Three members' feature maps (B, C, H, W)."""
    return list(torch.rand(3, images, 4, 5, 5, generator=torch.Generator().manual_seed(seed)))


def test_the_distance_is_the_mean_over_images_whatever_the_batches():
    batches = [maps(6, 0), maps(1, 1)]
    meter = FeatureDistanceMeter()
    for batch in batches:
        meter.add(batch)
    whole = feature_distance([torch.cat(parts) for parts in zip(*batches, strict=True)], 1, 1)
    assert meter.values() == {
        "cosine_sum": pytest.approx(whole.cosine.item(), rel=1e-6),
        "gaussian_sum": pytest.approx(whole.gaussian.item(), rel=1e-6),
    }


def test_equal_maps_have_the_largest_sums_and_dead_ones_no_cosine():
    equal, dead = FeatureDistanceMeter(), FeatureDistanceMeter()
    equal.add([maps(4, 0)[0]] * 5)
    dead.add([torch.zeros(4, 2, 3, 3)] * 5)
    pairs = len(list(combinations(range(5), 2)))
    assert equal.values() == {"cosine_sum": pytest.approx(pairs), "gaussian_sum": pytest.approx(pairs)}
    assert dead.values() == {"cosine_sum": 0, "gaussian_sum": pytest.approx(pairs)}


def test_without_pairs_or_images_there_is_no_distance():
    meter = FeatureDistanceMeter()
    assert meter.values() == {}
    meter.add(maps(4, 0)[:1])
    assert meter.values() == {}


def test_the_meter_keeps_no_graph():
    meter = FeatureDistanceMeter()
    meter.add([feature_map.requires_grad_() for feature_map in maps(4, 0)])
    assert meter._sums is not None
    assert not meter._sums.requires_grad


def test_q_statistic_of_a_table_by_hand():
    # Both right on 4 images, both wrong on 2, the first alone right on 3, the second alone on 1: (4·2 − 3·1) / (8 + 3).
    classes = [[0] * 4 + [1] * 2 + [0] * 3 + [1], [0] * 4 + [2] * 2 + [1] * 3 + [0]]
    assert defined(DIVERSITY, sure(classes), np.zeros(10, int))["q_statistic"] == pytest.approx(5 / 11)


def test_the_distance_of_two_members_is_that_of_their_pair():
    meter = FeatureDistanceMeter()
    meter.add(maps(4, 0)[:2])
    pair = feature_distance(maps(4, 0)[:2], 1, 1)
    assert meter.values() == {
        "cosine_sum": pytest.approx(pair.cosine.item()),
        "gaussian_sum": pytest.approx(pair.gaussian.item()),
    }
