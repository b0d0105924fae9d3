"""How far the members of an ensemble differ in what they predict; without torch, which takes seconds.

A value that is not defined (one member has no pairs) is left out of the returned mapping.
"""

import numpy as np
from numpy.typing import NDArray

from fdl.evaluation.voting import softmax


def diversity(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[str, float]:
    """Diversity of what the members predict.

    - `disagreement`: share of images on which two members predict different classes, mean over pairs.
    - `mutual_information` in nats: H(mean of the members' probabilities) - mean of their H, mean over
      images. Between the prediction and the member that is asked: 0 if all say the same, at most log M.
    - `q_statistic`: Yule's Q of two members being right (Kuncheva & Whitaker 2003), mean over pairs: 1 if
      they are right on the same images, 0 if independently, -1 if never together. Pairs for which it is
      0/0 do not count.
    - `error_correlation`: correlation of two members being right (Kuncheva & Whitaker 2003, equation 5), mean over
      pairs: 1 if they are right on the same images, 0 if independently. A pair of which one is right on all or on no
      image has none and does not count.
    - `oracle_accuracy`: share of images that at least one member gets right.

    Args:
        logits: (M, N, C), N ≥ 1.
        labels: (N,).
    """
    predicted = logits.argmax(axis=-1)  # (M, N)
    right = predicted == labels
    values = {"oracle_accuracy": float(right.any(axis=0).mean())}
    first, second = np.triu_indices(len(logits), k=1)
    if len(first) == 0:
        return values
    values["disagreement"] = float((predicted[first] != predicted[second]).mean())
    values["mutual_information"] = _mutual_information(softmax(logits))
    for name, measure in (("q_statistic", _q_statistics), ("error_correlation", _error_correlations)):
        defined = measure(right[first], right[second])
        if len(defined):
            values[name] = float(defined.mean())
    return values


def _mutual_information(probabilities: NDArray[np.float64]) -> float:
    """Of probabilities (M, N, C), in nats."""
    mean = probabilities.mean(axis=0)
    information = float((_entropy(mean) - _entropy(probabilities).mean(axis=0)).mean())
    return max(information, 0.0)  # members that agree leave a rounding error of either sign


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the last axis, in nats; 0 log 0 = 0."""
    return np.asarray(-np.sum(probabilities * np.log(np.where(probabilities > 0, probabilities, 1)), axis=-1))


def _q_statistics(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the pairs (P, N) of booleans for which it is defined."""
    alike = (one & other).sum(axis=1) * (~one & ~other).sum(axis=1)
    unlike = (one & ~other).sum(axis=1) * (~one & other).sum(axis=1)
    defined = alike + unlike > 0
    return np.asarray((alike - unlike)[defined] / (alike + unlike)[defined])


def _error_correlations(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the pairs (P, N) of booleans for which it is defined."""
    first, second, both = one.mean(axis=1), other.mean(axis=1), (one & other).mean(axis=1)
    spread = np.sqrt(first * (1 - first) * second * (1 - second))
    defined = spread > 0
    return np.asarray((both - first * second)[defined] / spread[defined])
