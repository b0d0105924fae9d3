"""Every member and every combiner of a cell, scored; also anew, from the predictions of its record."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.provenance import SCORES_VERSION
from fdl.core.settings import Params
from fdl.evaluation.diversity import diversity
from fdl.evaluation.metrics import METRICS, PROBABILITY_METRICS, accuracy, confidence_bins
from fdl.evaluation.overlap import empty_maps, left_out, overlap, signed_overlap
from fdl.evaluation.voting import VOTES, softmax
from fdl.results import records
from fdl.results.locks import bundle_lock, holder_of
from fdl.results.receipts import write_receipt
from fdl.results.state import CellStatus, Judge, has_predictions

# The trained combiners, in the order of tables (fdl.training.heads).
HEAD_COMBINERS = ("fusion", "fusion-tuned", "stacking", "stacking-tuned")
# (split, predicted by) → logits (M, N, C); labels (N,) by split
Logits = dict[str, NDArray[np.float32]]


def score(
    logits: Logits, labels: dict[str, NDArray[np.int64]], heads: dict[str, Logits] | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Metrics of one selection rule.

    Besides the combiners: `mean`, the members' mean, and `best`, the member with the highest
    validation accuracy (the lowest index wins a tie); `ensemble` holds the measures of diversity.

    Args:
        logits: (M, N, C) for "validation" and "test".
        labels: (N,) for the same splits.
        heads: logits (N, C) for the same splits of every trained combiner.

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
        predicted |= {name: vote(logits[split]) for name, vote in VOTES.items()}
        trained = {name: by_split[split] for name, by_split in (heads or {}).items()}
        predicted |= {name: values.argmax(-1) for name, values in trained.items()}
        each = softmax(logits[split])
        # A hard vote has no probabilities.
        probabilities = {f"member{m}": each[m] for m in members} | {"soft": each.mean(axis=0)}
        probabilities |= {name: softmax(values) for name, values in trained.items()}
        scores = {
            metric: {name: function(classes, truth) for name, classes in predicted.items()}
            for metric, function in METRICS.items()
        } | {
            metric: {name: function(values, truth) for name, values in probabilities.items()}
            for metric, function in PROBABILITY_METRICS.items()
        }
        for metric, values in scores.items():
            values["mean"] = float(np.mean([values[f"member{m}"] for m in members]))
            values["best"] = values[f"member{best}"]
            rows += [_row(split, name, metric, value) for name, value in values.items()]
        rows += [_row(split, "ensemble", name, value) for name, value in diversity(logits[split], truth).items()]
        if split == "test":
            correct = {name: classes == truth for name, classes in predicted.items()}
            correct["best"] = correct[f"member{best}"]
    return rows, correct


def _row(split: str, combiner: str, metric: str, value: float) -> dict[str, Any]:
    return {"split": split, "combiner": combiner, "metric": metric, "value": value}


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
            for name in HEAD_COMBINERS
            if f"{rule}/test/{name}" in stored
        }
        rows, right = score({split: stored[f"{rule}/{split}/logits"] for split in labels}, labels, heads)
        if "train" in splits:
            known = diversity(stored[f"{rule}/train/logits"], stored["train/labels"])
            rows += [_row("train", "ensemble", metric, value) for metric, value in known.items()]
        for split in splits:
            # Empty for a single net: no value, no row.
            distance = zip(("cosine_sum", "gaussian_sum"), stored[f"{rule}/{split}/distance"].tolist(), strict=False)
            rows += [_row(split, "ensemble", metric, value) for metric, value in distance]
        metrics += [{"selection": rule, **row} for row in rows]
        correct |= {f"{rule}/{name}": np.packbits(bits) for name, bits in right.items()}
        vote = softmax(stored[f"{rule}/test/logits"]).mean(axis=0)
        correct[f"reliability/{rule}"] = confidence_bins(vote, labels["test"])
    metrics += [{"selection": rules[0], **row} for row in _overlap_rows(source / "cam.npz")]
    np.savez(folder / "correct.npz", allow_pickle=False, **correct)
    (folder / "metrics.json").write_bytes(files.to_json(metrics))


def _overlap_rows(path: Path) -> list[dict[str, Any]]:
    """Mean overlap of the members' maps on test, the share of pairs left out of it, and that of maps that are empty.

    Where the record has signed maps: their mean correlation, and the share of it that is not defined. A single net
    has no pairs and no rows.
    """
    with np.load(path, allow_pickle=False) as cam:
        if len(cam["cosines"]) == 0:
            return []
        mean, pairs, share = overlap(cam["cosines"], left_out(cam))
        measures = {"cam_left_out": share, "cam_empty": float(empty_maps(cam).mean())}
        if pairs.any():
            measures["cam_overlap"] = float(mean[pairs > 0].mean())
        # Records made before there were signed maps have none.
        if "signed_correlations" in cam:
            correlation, measures["cam_signed_left_out"] = signed_overlap(cam["signed_correlations"])
            if correlation is not None:
                measures["cam_signed_correlation"] = correlation
    return [_row("test", "ensemble", name, value) for name, value in measures.items()]


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
            if "rescored" in outcomes:  # whatever is made of the records is to be made again
                write_receipt(params, bundle, judge.states(cells))
        for outcome in outcomes:
            counts[outcome] += 1
    return counts


def _rescore(params: Params, state: CellStatus) -> str:
    """Score a cell again if there is something to score; under which of the counts of `rescore` it falls."""
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
    same = (temporary / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()
    if same and run["digests"].get("scores") == SCORES_VERSION:
        shutil.rmtree(temporary)
        return False
    run["digests"]["scores"] = SCORES_VERSION
    for name in run["files"]:
        if not (temporary / name).exists():
            shutil.copyfile(folder / name, temporary / name)
    records.publish(temporary, folder, run)
    return not same
