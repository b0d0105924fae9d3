"""Computes everything of a record that needs trained nets: predictions, class activation maps, heads, scores."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fdl.core.console import Say
from fdl.core.head_settings import HeadSettings
from fdl.evaluation.cam import Score, overlap_record, shown_record, signed_record
from fdl.evaluation.distance_meter import FeatureDistanceMeter
from fdl.evaluation.kept_maps import MapKeeper, nets_after_maps, row_numbers
from fdl.evaluation.voting import COMBINERS
from fdl.results.scoring import write_scores
from fdl.training.checkpoint import Checkpoint, stop_if_asked
from fdl.training.engine import load_members, predict, to_input
from fdl.training.heads import Outputs, TrainedHead, train_head
from fdl.training.parquet_files import write_table
from fdl.training.state import CellData, CellSettings, Diverged, Trained

# combiner of a head → {"epoch": its selected epoch} or {"failed": reason}
HeadsBlock = dict[str, dict[str, Any]]


def write_predictions(
    folder: Path,
    settings: CellSettings,
    heads: HeadSettings | None,
    trained: Trained,
    data: CellData,
    *,
    device: str,
    keep_weights: bool,
    checkpoint: Checkpoint,
    say: Say,
) -> HeadsBlock:
    """Write `predictions.npz`, `cam.npz`, `heads.parquet`, `metrics.json`, `correct.npz`, and the weights to keep.

    Class activation maps and heads are made for the first selection only, because each costs as much as the
    predictions or more.

    Args:
        folder: where the files are written.
        settings: settings of the cell.
        heads: settings of its heads; None: it has none.
        trained: the result of the training.
        data: the cell's images, on `device`.
        device: "cpu" or "cuda".
        keep_weights: whether to write the weights of every selection.
        checkpoint: where finished heads are kept until the record is published.
        say: takes progress lines.

    Returns:
        The result of every head.

    Raises:
        Diverged: a prediction is not finite.
        Interrupted: a signal arrived while the heads were trained; the finished ones are kept.
    """
    # Predictions on training images are kept for how far the members differ there; their accuracy says little.
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    predictions: dict[str, NDArray[Any]] = {
        f"{split}/labels": images.labels.cpu().numpy() for split, images in splits.items()
    }
    if data.near_duplicates is not None:
        predictions["test/near_duplicates"] = data.near_duplicates.numpy()
    block: HeadsBlock = {}
    for number, (rule, states) in enumerate(trained.states.items()):
        nets = load_members(settings, states, data.num_classes, device)
        outputs: dict[str, Outputs] = {}
        for split, images in splits.items():
            meter, keeper = FeatureDistanceMeter(), MapKeeper() if number == 0 and split != "train" else None
            on_device = predict(settings, nets, images.pixels, meter, keeper)
            outputs[split] = Outputs(on_device, keeper.maps() if keeper else None)
            logits = on_device.cpu().numpy()
            distance = np.array(list(meter.values().values()))
            if not (np.isfinite(logits).all() and np.isfinite(distance).all()):
                raise Diverged(settings.epochs - 1, f"predictions on {split} are not finite", trained.history)
            predictions[f"{rule}/{split}/logits"], predictions[f"{rule}/{split}/distance"] = logits, distance
        if number == 0:
            # Class activation maps are always computed in float32, so bfloat16 feature maps are of no use for them.
            kept = None if settings.autocast else outputs["test"].maps
            overlaps = _overlaps(nets, data, predictions[f"{rule}/test/logits"], kept)
            _write_maps(folder, nets, data, overlaps, predictions[f"{rule}/test/logits"])
            block = _add_heads(folder, predictions, rule, settings, heads, nets, data, checkpoint, say, outputs)
        if keep_weights:
            _write_weights(folder / weights_file(rule), states)
    predictions["validated_epochs"] = np.array(trained.validated)
    validation_correct = torch.stack(trained.validation_correct).numpy()  # (epochs, M, N)
    predictions["validation_correct"] = np.packbits(validation_correct, axis=-1)
    np.savez(folder / "predictions.npz", allow_pickle=False, **predictions)
    write_scores(folder, folder)
    return block


def replace_heads(
    folder: Path,
    record: Path,
    settings: CellSettings,
    heads: HeadSettings | None,
    data: CellData,
    *,
    device: str,
    checkpoint: Checkpoint,
    say: Say,
) -> HeadsBlock:
    """Train other heads on the kept weights of a record, whose nets stay as they are.

    Args:
        folder: where all files of the new record are written, including those that do not change.
        record: the cell's record, with `weights-<selection>.safetensors`.
        settings, heads, data, device, checkpoint, say: as in `write_predictions`.
    """
    for path in record.iterdir():
        if path.name not in ("run.json", "heads.parquet"):
            shutil.copyfile(path, folder / path.name)
    with np.load(record / "predictions.npz", allow_pickle=False) as stored:
        predictions = {name: stored[name] for name in stored if name.rpartition("/")[2] not in COMBINERS}
    rule = settings.selections[0]
    nets = load_members(settings, read_weights(record / weights_file(rule)), data.num_classes, device)
    block = _add_heads(folder, predictions, rule, settings, heads, nets, data, checkpoint, say)
    np.savez(folder / "predictions.npz", allow_pickle=False, **predictions)
    write_scores(folder, folder)
    return block


def replace_maps(
    folder: Path,
    record: Path,
    settings: CellSettings,
    data: CellData,
    *,
    device: str,
    overlap: bool,
    score: Score = "probability",
) -> None:
    """Make the class activation maps of a record again from its kept weights.

    Args:
        folder, record, settings, data, device: as in `replace_heads`.
        overlap: whether to recompute the overlaps that claim C4 compares as well, which takes longer than predicting
            all test images. They do not depend on `score`.
        score: the output whose gradient gives the maps that are shown, see `fdl.evaluation.cam.grad_cam`.
    """
    for path in record.iterdir():
        if path.name != "run.json":
            shutil.copyfile(path, folder / path.name)
    states = read_weights(record / weights_file(settings.selections[0]))
    nets = load_members(settings, states, data.num_classes, device)
    with np.load(record / "predictions.npz", allow_pickle=False) as stored:
        logits = stored[f"{settings.selections[0]}/test/logits"]
    if overlap:
        overlaps = _overlaps(nets, data, logits)
    else:
        with np.load(record / "cam.npz", allow_pickle=False) as stored:
            overlaps = {name: stored[name] for name in OVERLAPS if name in stored}
    _write_maps(folder, nets, data, overlaps, logits, score)
    write_scores(folder, folder)


# The arrays of `cam.npz` that claim C4 compares. Older records hold only the first two, those of rectified maps.
OVERLAPS = ("cosines", "empty", "signed_correlations", "signed_positions")


def _overlaps(
    nets: list[nn.Module], data: CellData, logits: NDArray[np.float32], maps: list[torch.Tensor] | None = None
) -> dict[str, NDArray[Any]]:
    """The overlaps of class activation maps that claim C4 compares.

    Args:
        nets: M members in evaluation mode.
        data: the cell's images.
        logits: predictions on the test images, (M, N, C).
        maps: the members' feature maps of all test images, if they were kept: this saves most of the forward passes.
    """
    predicted = torch.from_numpy(logits).to(data.test.labels.device)
    if maps and (after_maps := nets_after_maps(nets, maps)):
        numbers, labels = row_numbers(len(data.test), predicted.device), data.test.labels
        signed = signed_record(after_maps, numbers, labels, predicted, to_input=lambda part: part)
        return overlap_record(after_maps, numbers, labels, to_input=lambda part: part) | signed
    signed = signed_record(nets, *_test_images(data), predicted, to_input=to_input)
    return overlap_record(nets, *_test_images(data), to_input=to_input) | signed


def _test_images(data: CellData) -> tuple[torch.Tensor, torch.Tensor]:
    return data.test.pixels, data.test.labels


def _write_maps(
    folder: Path,
    nets: list[nn.Module],
    data: CellData,
    overlaps: dict[str, NDArray[Any]],
    logits: NDArray[np.float32],
    score: Score = "probability",
) -> None:
    predicted = torch.from_numpy(logits).to(data.test.labels.device)
    shown = shown_record(nets, *_test_images(data), predicted, to_input=to_input, score=score)
    np.savez_compressed(folder / "cam.npz", allow_pickle=False, **overlaps, **shown)


def _add_heads(
    folder: Path,
    predictions: dict[str, NDArray[Any]],
    rule: str,
    settings: CellSettings,
    heads: HeadSettings | None,
    nets: list[nn.Module],
    data: CellData,
    checkpoint: Checkpoint,
    say: Say,
    outputs: Mapping[str, Outputs] | None = None,
) -> HeadsBlock:
    """Train the heads that the checkpoint does not hold yet; adds the logits of all heads to `predictions`."""
    if heads is None:
        return {}
    stage = f"heads-{heads.digest[:12]}"
    finished = checkpoint.load(stage) or {}

    def epoch_done(line: str) -> None:
        say(f"{settings.method} seed {settings.seed}: {line}")
        stop_if_asked()

    for name in heads.heads:
        if name not in finished:
            trained = train_head(name, settings, heads, nets, data, epoch_done=epoch_done, outputs=outputs)
            finished[name] = {combiner: vars(head) for combiner, head in trained.items()}
            checkpoint.save(finished, stage)
    results = {combiner: TrainedHead(**values) for head in finished.values() for combiner, values in head.items()}
    _write_history(folder / "heads.parquet", results)
    block: HeadsBlock = {}
    for combiner, head in results.items():
        if not all(bool(torch.isfinite(logits).all()) for logits in head.logits.values()):
            block[combiner] = {"failed": f"not finite after epoch {len(head.history)}"}
            continue
        block[combiner] = {"epoch": head.epoch}
        for split, logits in head.logits.items():
            predictions[f"{rule}/{split}/{combiner}"] = logits.numpy()
    return block


def _write_history(path: Path, heads: dict[str, TrainedHead]) -> None:
    table: list[dict[str, Any]] = [
        {"combiner": combiner, **row} for combiner, head in heads.items() for row in head.history
    ]
    write_table(path, {name: [row[name] for row in table] for name in table[0]})


def weights_file(rule: str) -> str:
    """File name of the kept weights of a selection rule, within a record."""
    return f"weights-{rule}.safetensors"


def read_weights(path: Path) -> list[dict[str, torch.Tensor]]:
    """The members' states from a file of kept weights."""
    from safetensors.torch import load_file

    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(path).items():
        member, _, key = name.partition(".")
        states.setdefault(int(member), {})[key] = value
    return [states[member] for member in sorted(states)]


def _write_weights(path: Path, states: list[dict[str, torch.Tensor]]) -> None:
    from safetensors.torch import save

    tensors = {
        f"{m}.{name}": value.contiguous().cpu() for m, state in enumerate(states) for name, value in state.items()
    }
    path.write_bytes(save(tensors))  # unlike `save_file`, this raises OSError if the disk is full
