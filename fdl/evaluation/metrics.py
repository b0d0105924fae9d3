"""Metrics of predicted classes and of probabilities, in plain numpy: torchmetrics costs 10 s to import.

A new metric is a function and its entry in `METRICS`: scores, checks, tables, MLflow and docs/report.md read it.
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
    """A number that a record holds, and all that is known of it."""

    title: str
    # Its value, a float; None where it is not defined: no row.
    function: Callable[..., Any]
    # What it is given: predicted classes (N,) or probabilities (N, C) of every combiner, with the labels (N,);
    # distinct classes: of the test images without a near-duplicate; the members' logits (M, N, C) with the labels;
    # the terms of the distance loss (2,); a `cam.npz`.
    takes: Literal["classes", "distinct classes", "probabilities", "members", "distance", "maps"]
    limits: tuple[float, float]  # the values that are possible; a share is printed in percent
    better: Literal["higher", "lower", ""] = ""  # "": neither is
    unit: str = ""
    meaning: str = ""  # what a table says of it
    remark: str | None = None  # the same with the measure beside it; "": that one says it
    table: Literal["always", "own images", "near-duplicates", ""] = ""  # whether it has a table in the paper's layout
    chance: bool = False  # guessing all classes equally often scores 1 / classes
    splits: tuple[str, ...] = ("test",)  # that have a column in the table of diversity
    kept_empty: bool = False  # its column stands even where no record has a value

    @property
    def percent(self) -> bool:
        """Whether it is printed in percent."""
        return self.limits == SHARE

    @property
    def explained(self) -> str:
        """A sentence for the table that it stands in; empty where the name says all."""
        if self.remark is not None:
            return self.remark
        unit = f", in {self.unit}" if self.unit else ""
        return f"{sentence(self.title)}{unit}: {self.meaning}." if self.meaning else ""


def defined(measures: Mapping[str, Metric], *given: Any) -> dict[str, float]:
    """The values of those that are defined."""
    values = {name: measure.function(*given) for name, measure in measures.items()}
    return {name: value for name, value in values.items() if value is not None}


def sentence(text: str) -> str:
    """A title as the head of a column."""
    return text[0].upper() + text[1:]


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
    _, confidence, accuracy = confidence_bins(probabilities, labels)
    return float(np.abs(accuracy - confidence).sum() / len(labels))


def confidence_bins(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """What a reliability diagram shows, by the bins of `ece`.

    Args:
        probabilities: (N, C), rows of sum 1.
        labels: (N,).

    Returns:
        (3, 15): number of images, sum of their confidences, number of hits.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    # Compared with the edges themselves: confidence × 15 would round across them.
    bins = np.digitize(confidence, np.linspace(0, 1, ECE_BINS + 1)[1:-1], right=True)
    return np.stack([np.bincount(bins, summed, ECE_BINS) for summed in (np.ones_like(confidence), confidence, correct)])


def brier(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Squared error of the probabilities, summed over classes, mean over images: from 0 to 2 (Brier 1950).

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
