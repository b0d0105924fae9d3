"""Measures of how far the members of an ensemble differ in their predictions.

To add a measure, write a function and give it an entry in `DIVERSITY`. If the function returns None, as for a single
member, which has no pairs, `runs.csv` gets no row. This module does not import torch, which would take seconds.
"""

from math import inf

import numpy as np
from numpy.typing import NDArray

from fdl.evaluation.metrics import SHARE, Metric
from fdl.evaluation.voting import softmax

# Logits (M, N, C), N ≥ 1, and labels (N,).
Logits = NDArray[np.floating]
Labels = NDArray[np.integer]


def oracle_accuracy(logits: Logits, labels: Labels) -> float:
    """Share of images that at least one member classifies correctly."""
    return float(_right(logits, labels).any(axis=0).mean())


def disagreement(logits: Logits, labels: Labels) -> float | None:
    """Share of images on which two members predict different classes, mean over pairs; None without a pair."""
    predicted = logits.argmax(axis=-1)
    first, second = np.triu_indices(len(logits), k=1)
    return float((predicted[first] != predicted[second]).mean()) if len(first) else None


def mutual_information(logits: Logits, labels: Labels) -> float | None:
    """Mutual information, in nats, between the prediction and a member chosen at random, mean over images.

    It is the entropy of the members' mean probabilities minus the mean of the members' entropies. It is 0 if all
    members predict the same probabilities, and at most log M. None for a single member.
    """
    if len(logits) < 2:
        return None
    probabilities = softmax(logits)
    mean = probabilities.mean(axis=0)
    information = float((_entropy(mean) - _entropy(probabilities).mean(axis=0)).mean())
    return max(information, 0.0)  # rounding can make it negative if the members agree


def q_statistic(logits: Logits, labels: Labels) -> float | None:
    """Yule's Q of two members' being right (Kuncheva & Whitaker 2003), mean over pairs.

    Q is 1 if two members are right on the same images, 0 if they are right independently of each other, and -1 if they
    are never right on the same image. Pairs for which it is 0/0 are left out; None if no pair remains.
    """
    first, second = _pairs(logits, labels)
    alike = (first & second).sum(axis=1) * (~first & ~second).sum(axis=1)
    unlike = (first & ~second).sum(axis=1) * (~first & second).sum(axis=1)
    defined = alike + unlike > 0
    return float(((alike - unlike)[defined] / (alike + unlike)[defined]).mean()) if defined.any() else None


def error_correlation(logits: Logits, labels: Labels) -> float | None:
    """Correlation between two members' being right (Kuncheva & Whitaker 2003, equation 5), mean over pairs.

    It is 1 if two members are right on the same images and 0 if they are right independently of each other. It is
    undefined if one of the two is right on all images or on none; such pairs are left out. None if no pair remains.
    """
    first, second = _pairs(logits, labels)
    share, other_share, both = first.mean(axis=1), second.mean(axis=1), (first & second).mean(axis=1)
    spread = np.sqrt(share * (1 - share) * other_share * (1 - other_share))
    defined = spread > 0
    return float(((both - share * other_share)[defined] / spread[defined]).mean()) if defined.any() else None


def _right(logits: Logits, labels: Labels) -> NDArray[np.bool_]:
    """Whether each member classifies each image correctly, (M, N)."""
    return np.asarray(logits.argmax(axis=-1) == labels)


def _pairs(logits: Logits, labels: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the first and the second member of every pair classify each image correctly, (P, N) each."""
    first, second = np.triu_indices(len(logits), k=1)
    correct = _right(logits, labels)
    return correct[first], correct[second]


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy along the last axis, in nats, with 0 log 0 = 0."""
    return np.asarray(-np.sum(probabilities * np.log(np.where(probabilities > 0, probabilities, 1)), axis=-1))


def cosine_sum(terms: NDArray[np.floating]) -> float | None:
    """The cosine term that `fdl.evaluation.distance_meter` measured; None for a single net."""
    return float(terms[0]) if len(terms) else None


def gaussian_sum(terms: NDArray[np.floating]) -> float | None:
    """The Gaussian term that it measured; None for a single net."""
    return float(terms[1]) if len(terms) else None


DIVERSITY: dict[str, Metric] = {  # in the order of columns
    "disagreement": Metric(
        "disagreement",
        disagreement,
        "members",
        SHARE,
        meaning="% of images on which two members predict different classes, mean over pairs; train: on the training "
        "images, not augmented",
        splits=("train", "test"),
        kept_empty=True,
    ),
    "oracle_accuracy": Metric(
        "oracle accuracy",
        oracle_accuracy,
        "members",
        SHARE,
        better="higher",
        meaning="% of images that at least one member gets right",
        kept_empty=True,
    ),
    "mutual_information": Metric(
        "mutual information",
        mutual_information,
        "members",
        (0, inf),
        unit="nats",
        meaning="0 if all members say the same",
        kept_empty=True,
    ),
    "q_statistic": Metric(
        "Q",
        q_statistic,
        "members",
        (-1, 1),
        meaning="Yule's, 1 if they are right on the same images, 0 if independently",
        kept_empty=True,
    ),
    "error_correlation": Metric(
        "error correlation",
        error_correlation,
        "members",
        (-1, 1),
        meaning="of two members being right, mean over pairs",
    ),
}
DISTANCE: dict[str, Metric] = {
    "cosine_sum": Metric(
        "cosine sum",
        cosine_sum,
        "distance",
        (-inf, inf),
        better="lower",
        meaning="cosine term of the distance loss, over all pairs",
        remark="Cosine and Gaussian sum: what the distance loss drives down, over all pairs.",
        kept_empty=True,
    ),
    "gaussian_sum": Metric(
        "Gaussian sum",
        gaussian_sum,
        "distance",
        (0, inf),
        better="lower",
        meaning="Gaussian term of the distance loss, over all pairs",
        remark="",
        kept_empty=True,
    ),
}
