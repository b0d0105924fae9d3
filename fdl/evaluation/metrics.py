"""Metrics of predicted classes and of probabilities, in plain numpy: torchmetrics costs 10 s to import."""

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15


def accuracy(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Share of equal entries; both (N,), N ≥ 1."""
    return float((predicted == labels).mean())


def f1_macro(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Mean F1 over the classes that are present in either argument, as scikit-learn's macro average."""
    return float(np.mean(_f1(predicted, labels, np.union1d(predicted, labels))))


def f1_weighted(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Mean F1 over the classes of `labels`, weighted by their images, as scikit-learn's weighted average."""
    classes, images = np.unique(labels, return_counts=True)
    return float(np.average(_f1(predicted, labels, classes), weights=images))


def _f1(predicted: NDArray[np.integer], labels: NDArray[np.integer], classes: NDArray[np.integer]) -> list[np.floating]:
    """F1 of each of these classes; each is present in one of the arguments."""
    scores = []
    for c in classes:
        hits = np.sum((predicted == c) & (labels == c))
        scores.append(2 * hits / (np.sum(predicted == c) + np.sum(labels == c)))
    return scores


def accuracy_balanced(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Mean share of hits over the classes that are present in `labels`: all count equally, however many images.

    As scikit-learn's `balanced_accuracy_score`; with equal classes it is the accuracy.
    """
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def nll(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean negative log of the true class's probability, in nats, as scikit-learn's `log_loss`.

    Probabilities below the machine epsilon of their type count as that, so that one image costs at most
    36 (float64).

    Args:
        probabilities: (N, C), rows of sum 1; N ≥ 1.
        labels: (N,).
    """
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(true.clip(min=np.finfo(true.dtype).eps)).mean())


def ece(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Expected calibration error: |accuracy - mean confidence| of 15 bins of equal width, weighted by images.

    Confidence is the highest probability. A bin holds its upper edge (Guo et al. 2017, section 2).

    Args:
        probabilities: (N, C), rows of sum 1; N ≥ 1.
        labels: (N,).
    """
    _, confidence, right = confidence_bins(probabilities, labels)
    return float(np.abs(right - confidence).sum() / len(labels))


def confidence_bins(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """What a reliability diagram shows, by the bins of `ece`.

    Args:
        probabilities: (N, C), rows of sum 1.
        labels: (N,).

    Returns:
        (3, 15): number of images, sum of their confidences, number of hits.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # Compared with the edges themselves: confidence × 15 would round across them.
    bins = np.digitize(confidence, np.linspace(0, 1, ECE_BINS + 1)[1:-1], right=True)
    return np.stack([np.bincount(bins, of, ECE_BINS) for of in (np.ones_like(confidence), confidence, right)])


def brier(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Squared error of the probabilities, summed over classes, mean over images: from 0 to 2 (Brier 1950).

    Args:
        probabilities: (N, C), rows of sum 1; N ≥ 1.
        labels: (N,).
    """
    truth = np.arange(probabilities.shape[1]) == labels[:, None]
    return float(np.square(probabilities - truth).sum(axis=1).mean())


# Of predicted classes (N,) and labels (N,).
METRICS = {
    "accuracy": accuracy,
    "accuracy_balanced": accuracy_balanced,
    "f1_macro": f1_macro,
    "f1_weighted": f1_weighted,
}
# Of probabilities (N, C) and labels (N,).
PROBABILITY_METRICS = {"nll": nll, "ece": ece, "brier": brier}
