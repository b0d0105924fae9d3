"""Metrics of predicted classes and of probabilities, in plain numpy, because torchmetrics takes 10 s to import.

To add a metric, write a function and give it an entry in `METRICS`. Scores, checks, tables, MLflow and docs/report.md
read the entries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Metric:
    """One number in a cell's record: its function, and everything that tables, checks and MLflow need to know of it."""

    title: str
    # Returns the value as a float, or None if it is undefined: then `runs.csv` gets no row.
    function: Callable[..., Any]
    # The arguments of the function:
    # "classes": predicted classes (N,) and labels (N,), for every combiner (way of forming one prediction from the
    #   members' outputs, see `fdl.evaluation.voting`);
    # "distinct classes": the same for the test images that have no near-duplicate among the training images;
    # "probabilities": probabilities (N, C) and labels (N,), for every combiner;
    # "members": the members' logits (M, N, C) and labels (N,);
    # "distance": the terms of the distance loss (2,);
    # "maps": a `cam.npz`.
    takes: Literal["classes", "distinct classes", "probabilities", "members", "distance", "maps"]
    limits: tuple[float, float]  # lowest and highest possible value; if they are `SHARE`, it is printed in percent
    better: Literal["higher", "lower", ""] = ""  # "": neither is better
    unit: str = ""
    meaning: str = ""  # explanation in tables, without the title
    # Whole sentence that replaces title, unit and meaning in a table; "" if the remark of a neighbouring metric
    # explains this one, too.
    remark: str | None = None
    table: Literal["always", "own images", "near-duplicates", ""] = ""  # when it has a table in the paper's layout
    chance: bool = False  # whether guessing all classes equally often scores 1 / number of classes
    splits: tuple[str, ...] = ("test",)  # splits that have a column in the diversity table
    kept_empty: bool = False  # whether its column is shown even if no record has a value

    @property
    def percent(self) -> bool:
        """Whether it is printed in percent."""
        return self.limits == SHARE

    @property
    def explained(self) -> str:
        """A sentence that explains the metric below a table; empty if the title suffices."""
        if self.remark is not None:
            return self.remark
        unit = f", in {self.unit}" if self.unit else ""
        return f"{sentence(self.title)}{unit}: {self.meaning}." if self.meaning else ""


def defined(measures: Mapping[str, Metric], *given: Any) -> dict[str, float]:
    """Compute the measures from the given arguments, and return the values that are defined."""
    values = {name: measure.function(*given) for name, measure in measures.items()}
    return {name: value for name, value in values.items() if value is not None}


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def accuracy(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Share of predicted classes (N,) that equal the labels (N,), N ≥ 1."""
    return float((predicted == labels).mean())


def f1_macro(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Mean F1 over the classes that occur in either argument, as in scikit-learn's macro average; both (N,)."""
    return float(np.mean(_f1(predicted, labels, np.union1d(predicted, labels))))


def f1_weighted(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Mean F1 over the classes of `labels`, weighted by their numbers of images, as in scikit-learn; both (N,)."""
    classes, images = np.unique(labels, return_counts=True)
    return float(np.average(_f1(predicted, labels, classes), weights=images))


def _f1(predicted: NDArray[np.integer], labels: NDArray[np.integer], classes: NDArray[np.integer]) -> list[np.floating]:
    """F1 of each of the classes, every one of which occurs in `predicted` or `labels`."""
    scores = []
    for c in classes:
        hits = np.sum((predicted == c) & (labels == c))
        scores.append(2 * hits / (np.sum(predicted == c) + np.sum(labels == c)))
    return scores


def accuracy_balanced(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Mean recall over the classes that occur in `labels`; both (N,), N ≥ 1.

    Every class counts equally, whatever its number of images, as in scikit-learn's `balanced_accuracy_score`. If all
    classes have the same number of images, it equals the accuracy.
    """
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def nll(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean negative logarithm of the true class's probability, in nats, as scikit-learn's `log_loss`.

    Probabilities are clipped from below at the machine epsilon of their type, so one image contributes at most 36
    (float64).

    Args:
        probabilities: (N, C), rows of sum 1; N ≥ 1.
        labels: (N,).
    """
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(true.clip(min=np.finfo(true.dtype).eps)).mean())


def ece(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Expected calibration error: mean of |accuracy - mean confidence| over 15 bins, weighted by numbers of images.

    Confidence is the highest probability. The bins have equal width and include their upper edges (Guo et al. 2017,
    section 2).

    Args:
        probabilities: (N, C), rows of sum 1; N ≥ 1.
        labels: (N,).
    """
    _, confidence, accuracy = confidence_bins(probabilities, labels)
    return float(np.abs(accuracy - confidence).sum() / len(labels))


def confidence_bins(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """The numbers that a reliability diagram shows, for each bin of `ece`.

    Args:
        probabilities: (N, C), rows of sum 1.
        labels: (N,).

    Returns:
        (3, 15): number of images, sum of their confidences, number of correct predictions.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    # We compare with the edges themselves, because the product confidence × 15 could be rounded across an edge.
    bins = np.digitize(confidence, np.linspace(0, 1, ECE_BINS + 1)[1:-1], right=True)
    return np.stack([np.bincount(bins, summed, ECE_BINS) for summed in (np.ones_like(confidence), confidence, correct)])


def brier(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Brier score (1950): squared error of the probabilities, summed over classes, mean over images; from 0 to 2.

    Args:
        probabilities: (N, C), rows of sum 1; N ≥ 1.
        labels: (N,).
    """
    truth = np.arange(probabilities.shape[1]) == labels[:, None]
    return float(np.square(probabilities - truth).sum(axis=1).mean())


METRICS: dict[str, Metric] = {  # in the order of tables
    "accuracy": Metric(
        "accuracy",
        accuracy,
        "classes",
        SHARE,
        better="higher",
        meaning="share of the images that are right",
        table="always",
        chance=True,
    ),
    "accuracy_balanced": Metric(
        "balanced accuracy",
        accuracy_balanced,
        "classes",
        SHARE,
        better="higher",
        meaning="mean over the classes of the share of their images that are right",
        table="own images",  # whose classes may be unequal
        chance=True,
    ),
    "accuracy_distinct": Metric(
        "accuracy without near-duplicates",
        accuracy,
        "distinct classes",
        SHARE,
        better="higher",
        meaning="accuracy on the test images that ciFAIR's list does not pair with one of the training images",
        table="near-duplicates",
        chance=True,
    ),
    "f1_macro": Metric(
        "macro F1", f1_macro, "classes", SHARE, better="higher", meaning="mean F1 over the classes", table="always"
    ),
    "f1_weighted": Metric(
        "weighted F1", f1_weighted, "classes", SHARE, better="higher", meaning="the same, classes weighted by images"
    ),
    "nll": Metric(
        "negative log-likelihood",
        nll,
        "probabilities",
        (0, inf),
        better="lower",
        unit="nats",
        meaning="mean negative logarithm of the true class's probability",
    ),
    "ece": Metric(
        "calibration error",
        ece,
        "probabilities",
        SHARE,
        better="lower",
        meaning=f"mean distance of confidence and accuracy, over {ECE_BINS} bins of equal width",
    ),
    "brier": Metric(
        "Brier score",
        brier,
        "probabilities",
        (0, 2),
        better="lower",
        meaning="squared error of the probabilities, summed over classes",
    ),
}
