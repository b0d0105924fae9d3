"""Every member and every combiner of a cell, scored; also anew, from the predictions of its record."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.provenance import SCORES_VERSION
from fdl.core.settings import Params
from fdl.evaluation.diversity import DISTANCE, DIVERSITY
from fdl.evaluation.metrics import METRICS, Metric, accuracy, confidence_bins, defined
from fdl.evaluation.overlap import OVERLAP
from fdl.evaluation.voting import COMBINERS, mean_probabilities, softmax
from fdl.results import records
from fdl.results.locks import bundle_lock, holder_of
from fdl.results.measures import ENSEMBLE
from fdl.results.receipts import write_receipt
from fdl.results.state import CellStatus, Judge, has_predictions

# (split, predicted by) → logits (M, N, C); labels (N,) by split
Logits = dict[str, NDArray[np.float32]]


def score(
    logits: Logits,
    labels: dict[str, NDArray[np.int64]],
    heads: dict[str, Logits] | None = None,
    near_duplicates: NDArray[np.bool_] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Metrics of one selection rule.

    Besides the combiners: `mean`, the members' mean, and `best`, the member with the highest
    validation accuracy (the lowest index wins a tie); `ensemble` holds the measures of diversity.

    Args:
        logits: (M, N, C) for "validation" and "test".
        labels: (N,) for the same splits.
        heads: logits (N, C) for the same splits of every trained combiner.
        near_duplicates: (N,), the test images that resemble a training image; None: not known.

    Returns:
        Rows of split, combiner, metric, value; and, for every member, the best of them and every combiner,
        the (N,) booleans of the test images that it got right.
    """
    best = int(np.argmax([accuracy(m.argmax(-1), labels["validation"]) for m in logits["validation"]]))
    rows: list[dict[str, Any]] = []
    correct: dict[str, NDArray[np.bool_]] = {}
    for split in ("validation", "test"):
        truth, members = labels[split], range(len(logits[split]))
        predicted = {f"member{m}": logits[split][m].argmax(-1) for m in members}
        probabilities = {f"member{m}": values for m, values in enumerate(softmax(logits[split]))}
        for name, combiner in COMBINERS.items():
            if combiner.vote:  # it has no probabilities
                predicted[name] = combiner.vote(logits[split])
            elif combiner.probabilities:
                probabilities[name] = combiner.probabilities(logits[split])
                predicted[name] = probabilities[name].argmax(-1)
        for name, by_split in (heads or {}).items():
            predicted[name], probabilities[name] = by_split[split].argmax(-1), softmax(by_split[split])
        inputs = {"classes": (predicted, truth), "probabilities": (probabilities, truth)}
        if split == "test" and near_duplicates is not None and not near_duplicates.all():
            distinct = ~near_duplicates
            inputs["distinct classes"] = (
                {name: classes[distinct] for name, classes in predicted.items()},
                truth[distinct],
            )
        for metric, entry in METRICS.items():
            if entry.takes not in inputs:
                continue
            outputs, true_classes = inputs[entry.takes]
            values = {name: entry.function(output, true_classes) for name, output in outputs.items()}
            values["mean"] = float(np.mean([values[f"member{m}"] for m in members]))
            values["best"] = values[f"member{best}"]
            rows += [_row(split, name, metric, value) for name, value in values.items()]
        rows += _ensemble_rows(DIVERSITY, split, logits[split], truth)
        if split == "test":
            correct = {name: classes == truth for name, classes in predicted.items()}
            correct["best"] = correct[f"member{best}"]
    return rows, correct


def _row(split: str, combiner: str, metric: str, value: float) -> dict[str, Any]:
    return {"split": split, "combiner": combiner, "metric": metric, "value": value}


def _ensemble_rows(measures: Mapping[str, Metric], split: str, *given: Any) -> list[dict[str, Any]]:
    """What measures all members together."""
    return [_row(split, ENSEMBLE, name, value) for name, value in defined(measures, *given).items()]


def write_scores(folder: Path, source: Path) -> None:
    """Score a cell into `metrics.json` and `correct.npz`.

    The second holds, of the test images, by selection rule: which of them each member and combiner gets
    right, and the bins of the soft vote's reliability diagram.

    Args:
        folder: where to write.
        source: folder with the cell's `predictions.npz` and `cam.npz`, see `fdl.training.bundle`.
    """
    with np.load(source / "predictions.npz", allow_pickle=False) as predictions:
        stored: dict[str, NDArray[Any]] = dict(predictions)
    labels = {split: stored[f"{split}/labels"] for split in ("validation", "test")}
    # Records made before predictions on the training images were kept have none.
    splits = [split for split in ("train", *labels) if f"{split}/labels" in stored]
    rules = [name.removesuffix("/test/logits") for name in stored if name.endswith("/test/logits")]
    metrics: list[dict[str, Any]] = []
    correct: dict[str, NDArray[Any]] = {"n": np.array(len(labels["test"]))}
    for rule in rules:
        heads = {
            name: {split: stored[f"{rule}/{split}/{name}"] for split in labels}
            for name, combiner in COMBINERS.items()
            if combiner.trained and f"{rule}/test/{name}" in stored
        }
        logits = {split: stored[f"{rule}/{split}/logits"] for split in labels}
        rows, bits_of = score(logits, labels, heads, stored.get("test/near_duplicates"))
        if "train" in splits:
            rows += _ensemble_rows(DIVERSITY, "train", stored[f"{rule}/train/logits"], stored["train/labels"])
        for split in splits:
            rows += _ensemble_rows(DISTANCE, split, stored[f"{rule}/{split}/distance"])
        metrics += [{"selection": rule, **row} for row in rows]
        correct |= {f"{rule}/{name}": np.packbits(bits) for name, bits in bits_of.items()}
        vote = mean_probabilities(stored[f"{rule}/test/logits"])
        correct[f"reliability/{rule}"] = confidence_bins(vote, labels["test"])
    with np.load(source / "cam.npz", allow_pickle=False) as cam:
        if len(cam["cosines"]):  # a single net has no pairs and no rows
            metrics += [{"selection": rules[0], **row} for row in _ensemble_rows(OVERLAP, "test", cam)]
    np.savez(folder / "correct.npz", allow_pickle=False, **correct)
    (folder / "metrics.json").write_bytes(files.to_json(metrics))


def rescore(params: Params) -> dict[str, int]:
    """Score the finished cells of a grid again, where the scores of their records are not today's.

    A new metric or combiner needs no training: the predictions are in the records.

    Returns:
        Numbers of cells: "rescored", "same", "missing" for those without a record or whose training diverged,
        "without predictions" for those that were exported without, "stale" for those whose record is of other
        settings, "in training" for those of a bundle that another process has.

    Raises:
        InputError: a record is damaged.
    """
    counts = dict.fromkeys(("rescored", "same", "missing", "without predictions", "stale", "in training"), 0)
    judge = Judge(params, running=False)
    for bundle, cells in params.bundles().items():
        if holder_of(params.preset, bundle.key):
            counts["in training"] += len(cells)
            continue
        with bundle_lock(params.preset, bundle.key):
            for cell in cells:
                records.finish_exchange(layout.record_folder(params, cell))
            outcomes = [_rescore(params, state) for state in judge.states(cells)]
            if "rescored" in outcomes:  # everything made from the records must be made again
                write_receipt(params, bundle, judge.states(cells))
        for outcome in outcomes:
            counts[outcome] += 1
    return counts


def _rescore(params: Params, state: CellStatus) -> str:
    """Score a cell again if there is something to score; return which of the counts of `rescore` it adds to."""
    if state.status == "damaged":
        raise InputError(state.reason)
    if state.run is None or state.run["status"] != "done":
        return "missing"
    if not state.trained or not state.has_heads:
        return "stale"
    if not has_predictions(state.run):
        return "without predictions"
    changed = rescore_record(layout.record_folder(params, state.cell), dict(state.run), always=True)
    return "rescored" if changed else "same"


def rescore_record(folder: Path, run: dict[str, Any], *, always: bool = False) -> bool:
    """Score a finished cell again if its scores are of another version of this code; True if they changed.

    Args:
        folder: the record's.
        run: its `run.json`, brought up to date.
        always: whatever the version.

    Raises:
        InputError: the record was exported without its predictions.
    """
    if run["status"] != "done" or (not always and run["digests"].get("scores") == SCORES_VERSION):
        return False
    if not has_predictions(run):
        raise InputError(
            f"{folder}: scored by another version of the code, and exported without the predictions to score again; "
            "delete the folder and run the bundle again, or import the whole record"
        )
    temporary = records.fresh_folder(folder)
    write_scores(temporary, folder)
    before, now = (json.loads((place / "metrics.json").read_bytes()) for place in (folder, temporary))
    same = {frozenset(row.items()) for row in before} == {frozenset(row.items()) for row in now}
    if same and run["digests"].get("scores") == SCORES_VERSION:
        shutil.rmtree(temporary)
        return False
    run["digests"]["scores"] = SCORES_VERSION
    for name in run["files"]:
        if not (temporary / name).exists():
            shutil.copyfile(folder / name, temporary / name)
    records.publish(temporary, folder, run)
    return not same
