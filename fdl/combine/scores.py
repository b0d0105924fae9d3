"""Every member and every combiner of a cell, scored."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.combine.voting import VOTES
from fdl.evaluation.metrics import METRICS, accuracy

# (split, predicted by) → logits (M, N, C); labels (N,) by split
Logits = dict[str, NDArray[np.float32]]


def score(logits: Logits, labels: dict[str, NDArray[np.int64]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Metrics of one selection rule.

    Besides the combiners: `mean`, the members' mean, and `best`, the member with the highest
    validation accuracy (the lowest index wins a tie).

    Args:
        logits: (M, N, C) for "validation" and "test".
        labels: (N,) for the same splits.

    Returns:
        Rows of split, combiner, metric, value; and, for every member and combiner, the (N,) booleans
        of the test images that it got right.
    """
    best = int(np.argmax([accuracy(m.argmax(-1), labels["validation"]) for m in logits["validation"]]))
    rows: list[dict[str, Any]] = []
    correct: dict[str, NDArray[np.bool_]] = {}
    for split in ("validation", "test"):
        predicted = {f"member{m}": net.argmax(-1) for m, net in enumerate(logits[split])}
        members = len(predicted)
        predicted |= {name: vote(logits[split]) for name, vote in VOTES.items()}
        for metric, function in METRICS.items():
            values = {name: function(classes, labels[split]) for name, classes in predicted.items()}
            values["mean"] = float(np.mean([values[f"member{m}"] for m in range(members)]))
            values["best"] = values[f"member{best}"]
            rows += [
                {"split": split, "combiner": name, "metric": metric, "value": value} for name, value in values.items()
            ]
        if split == "test":
            correct = {name: classes == labels[split] for name, classes in predicted.items()}
    return rows, correct
