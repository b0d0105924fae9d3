"""Every member and every combiner of a cell, scored; also anew, from the predictions of its record."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl import layout, records
from fdl.combine.voting import VOTES
from fdl.evaluation.metrics import METRICS, accuracy
from fdl.params import Params

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


def write_scores(folder: Path, predictions: Mapping[str, NDArray[Any]]) -> None:
    """Score a cell's predictions into `metrics.json` and `correct.npz`.

    Args:
        folder: where to write.
        predictions: content of `predictions.npz`, see `fdl.training.bundle`.
    """
    labels = {split: predictions[f"{split}/labels"] for split in ("validation", "test")}
    rules = [name.removesuffix("/test/logits") for name in predictions if name.endswith("/test/logits")]
    metrics: list[dict[str, Any]] = []
    correct: dict[str, NDArray[Any]] = {"n": np.array(len(labels["test"]))}
    for rule in rules:
        rows, right = score({split: predictions[f"{rule}/{split}/logits"] for split in labels}, labels)
        metrics += [{"selection": rule, **row} for row in rows]
        correct |= {f"{rule}/{name}": np.packbits(bits) for name, bits in right.items()}
    np.savez(folder / "correct.npz", allow_pickle=False, **correct)
    (folder / "metrics.json").write_bytes(records.to_json(metrics))


def rescore(params: Params) -> dict[str, int]:
    """Score the finished cells of a grid again, where the scores of their records are not today's.

    A new metric or combiner needs no training: the predictions are in the records.

    Returns:
        Numbers of cells: "rescored", "same", and "missing" for those without a record of predictions.

    Raises:
        InputError: a record is damaged.
    """
    counts = {"rescored": 0, "same": 0, "missing": 0}
    for cell in params.cells():
        folder = layout.record_folder(params, cell)
        run = records.read_run(folder)
        if run is None or run["status"] != "done":
            counts["missing"] += 1
            continue
        records.verify(folder, run)
        temporary = records.fresh_folder(folder)
        with np.load(folder / "predictions.npz", allow_pickle=False) as predictions:
            write_scores(temporary, predictions)
        if (temporary / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes():
            shutil.rmtree(temporary)
            counts["same"] += 1
            continue
        for name in run.pop("files"):
            if not (temporary / name).exists():
                shutil.copyfile(folder / name, temporary / name)
        records.publish(temporary, folder, run)
        counts["rescored"] += 1
    return counts
