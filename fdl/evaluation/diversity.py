"""How far the members of an ensemble differ in what they predict; without torch, which takes seconds.

A new measure is a function and its entry in `DIVERSITY`; None as its value (one member has no pairs) makes no row.
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
    """Share of images that at least one member gets right."""
    return float(_right(logits, labels).any(axis=0).mean())


def disagreement(logits: Logits, labels: Labels) -> float | None:
    """Share of images on which two members predict different classes, mean over pairs."""
    predicted = logits.argmax(axis=-1)
    first, second = np.triu_indices(len(logits), k=1)
    return float((predicted[first] != predicted[second]).mean()) if len(first) else None


def mutual_information(logits: Logits, labels: Labels) -> float | None:
    """In nats: H(mean of the members' probabilities) - mean of their H, mean over images.

    Between the prediction and the member that is asked: 0 if all say the same, at most log M.
    """
    if len(logits) < 2:
        return None
    probabilities = softmax(logits)
    mean = probabilities.mean(axis=0)
    information = float((_entropy(mean) - _entropy(probabilities).mean(axis=0)).mean())
    return max(information, 0.0)  # members that agree leave a rounding error of either sign


def q_statistic(logits: Logits, labels: Labels) -> float | None:
    """Yule's Q of two members being right (Kuncheva & Whitaker 2003), mean over pairs.

    1 if they are right on the same images, 0 if independently, -1 if never together. Pairs for which it is 0/0 do not
    count.
    """
    first, second = _pairs(logits, labels)
    alike = (first & second).sum(axis=1) * (~first & ~second).sum(axis=1)
    unlike = (first & ~second).sum(axis=1) * (~first & second).sum(axis=1)
    defined = alike + unlike > 0
    return float(((alike - unlike)[defined] / (alike + unlike)[defined]).mean()) if defined.any() else None


def error_correlation(logits: Logits, labels: Labels) -> float | None:
    """Correlation of two members being right (Kuncheva & Whitaker 2003, equation 5), mean over pairs.

    1 if they are right on the same images, 0 if independently. A pair of which one is right on all or on no image has
    none and does not count.
    """
    first, second = _pairs(logits, labels)
    share, other_share, both = first.mean(axis=1), second.mean(axis=1), (first & second).mean(axis=1)
    spread = np.sqrt(share * (1 - share) * other_share * (1 - other_share))
    defined = spread > 0
    return float(((both - share * other_share)[defined] / spread[defined]).mean()) if defined.any() else None


def _right(logits: Logits, labels: Labels) -> NDArray[np.bool_]:
    """Which images each member gets right, (M, N)."""
    return np.asarray(logits.argmax(axis=-1) == labels)


def _pairs(logits: Logits, labels: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images the first and the second member of every pair get right, (P, N) each."""
    first, second = np.triu_indices(len(logits), k=1)
    correct = _right(logits, labels)
    return correct[first], correct[second]


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy along the last axis, in nats; 0 log 0 = 0."""
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
