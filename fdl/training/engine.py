"""The plain training loop ("the loop" in other modules): trains one cell, an ensemble of M nets, net by net in a step.

The protocol is the authors' (docs/reference.md 5): fixed chunks of ten images in sample order, the
chunks shuffled every epoch, a fresh augmentation of every image per epoch, one Adam with a constant rate for
all nets. All methods of a seed share images, initial weights, batches, augmentation and dropout masks.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fdl.core.console import Say
from fdl.core.randomness import absorb, derive, permutation
from fdl.evaluation.distance_meter import FeatureDistanceMeter
from fdl.evaluation.kept_maps import MapKeeper
from fdl.evaluation.parts import in_parts
from fdl.methods.losses import feature_distance
from fdl.methods.own import errors_named
from fdl.methods.registry import METHODS
from fdl.models import build
from fdl.models.layers import set_dropout_key
from fdl.training.adam import Adam
from fdl.training.augment import augment
from fdl.training.batchnorm import evaluation_statistics
from fdl.training.progress import Pace, progress_line
from fdl.training.selection import Selector
from fdl.training.state import EVALUATION_BATCH, CellData, CellSettings, Diverged, Images, State, Trained

if TYPE_CHECKING:
    from fdl.training.checkpoint import Checkpoint


def build_members(settings: CellSettings, num_classes: int, device: str) -> list[nn.Module]:
    """The M nets with their initial weights, in training mode."""
    nets: list[nn.Module] = []
    for member in range(settings.members):
        net = build(
            settings.backbone,
            settings.dataset,
            num_classes,
            settings.image_size,
            settings.width,
            init_seed=settings.seed,
            member=member,
            weights=settings.weights,
        )
        nets.append(net.to(device).to(memory_format=torch.channels_last).train())
    return nets


def to_input(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → float32 in [0, 1], channels last."""
    return pixels.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


def at_least_float32(values: Tensor) -> Tensor:
    """Convert bfloat16 to float32, in which losses are computed; float32 and float64 stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def epoch_pixels(settings: CellSettings, train: Images, epoch: int) -> Tensor:
    """The training images of one epoch, uint8 (N, 3, H, W), augmented if the settings say so."""
    return augment(train.pixels, augmentation_keys(settings, train, epoch)) if settings.augment else train.pixels


def augmentation_keys(settings: CellSettings, train: Images, epoch: int) -> Tensor:
    """The random key of every training image's augmentation in one epoch, int64 (N,)."""
    samples = torch.arange(len(train), device=train.pixels.device)
    return absorb(derive(settings.seed, "augment", epoch), samples)


def epoch_order(settings: CellSettings, train: Images, epoch: int) -> Tensor:
    """The order of the fixed chunks (batches) in an epoch, int64 (steps,) on the CPU."""
    return permutation(derive(settings.seed, "order", epoch), math.ceil(len(train) / settings.batch_size))


def epoch_batches(settings: CellSettings, train: Images, epoch: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The batches of one epoch in order: (step, inputs (B, 3, H, W), labels (B,))."""
    pixels, size = epoch_pixels(settings, train, epoch), settings.batch_size
    chunks = epoch_order(settings, train, epoch)
    for step, chunk in enumerate(chunks.tolist()):
        part = slice(chunk * size, (chunk + 1) * size)
        yield step, to_input(pixels[part]), train.labels[part]


def member_batches(
    settings: CellSettings, train: Images, epoch: int
) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
    """The batches of one epoch for every member: (step, M inputs (B, 3, H, W), M labels (B,)).

    All members share them, unless the settings give each member its own batches, drawn with a seed of its own.
    """
    if not settings.own_batches:
        for step, inputs, labels in epoch_batches(settings, train, epoch):
            yield step, [inputs] * settings.members, [labels] * settings.members
        return
    generators = (epoch_batches(member_settings(settings, m), train, epoch) for m in range(settings.members))
    for step, batches in enumerate(zip(*generators, strict=True)):
        yield step, [inputs for _, inputs, _ in batches], [labels for _, _, labels in batches]


def member_settings(settings: CellSettings, member: int) -> CellSettings:
    """The cell's settings with the seed of one member, for `epoch_batches` of its own."""
    return replace(settings, seed=derive(settings.seed, "member", member))


def train(
    settings: CellSettings,
    data: CellData,
    *,
    device: str,
    progress: Say = print,
    checkpoint: "Checkpoint | None" = None,
) -> Trained:
    """Train one cell, from its checkpoint if there is one.

    Args:
        settings: what to train.
        data: the images, on `device`.
        device: "cpu" or "cuda".
        progress: takes one line per epoch.
        checkpoint: where the state is saved between epochs; None: it is not saved.

    Raises:
        Diverged: a member's cross-entropy or the loss is not finite.
        Interrupted: a signal arrived; the checkpoint is written.
    """
    nets = build_members(settings, data.num_classes, device)
    optimiser = Adam(nets, settings.learning_rate)
    result = Trained([], {}, {})
    selector = Selector(settings, data, result)
    # Training images without augmentation, to re-estimate batch-norm statistics.
    batches = plain_batches(settings, data.train)
    start = 0
    if checkpoint and (state := checkpoint.load()):
        start = _restore(state, nets, optimiser, selector)
        checkpoint.say(f"{settings.method} seed {settings.seed}: going on after epoch {start}")
    if checkpoint:
        checkpoint.show(result.history, settings.epochs)
    pace = Pace(settings.epochs, len(data.train))
    for epoch in range(start, settings.epochs):
        row = train_epoch(settings, data.train, nets, optimiser, epoch)
        result.history.append(row)
        if reason := divergence(settings, row):
            raise Diverged(epoch, reason, result.history)
        if validates(settings, epoch):
            with evaluation_statistics(nets, batches, settings.bn_statistics):
                correct = predict(settings, nets, data.validation.pixels).argmax(-1) == data.validation.labels
                row |= selector.add(correct, lambda member: _state_of(nets[member]), epoch)
        progress(progress_line(settings, row, pace.line(epoch)))
        if checkpoint:
            checkpoint.show(result.history, settings.epochs)
            if epoch < settings.epochs - 1:
                checkpoint.epoch_end(partial(_state, epoch, nets, optimiser, selector))
    return result


def divergence(settings: CellSettings, row: dict[str, float]) -> str | None:
    """Which loss of a row of the history is not finite, as text; None if all are finite."""
    for member in range(settings.members):
        if not math.isfinite(row[f"cross_entropy_{member}"]):
            return f"member {member}: the cross-entropy is {row[f'cross_entropy_{member}']}"
    return None if math.isfinite(row["loss"]) else f"the loss is {row['loss']}"


def validates(settings: CellSettings, epoch: int) -> bool:
    """Whether the nets are validated after an epoch (0-based)."""
    last = epoch == settings.epochs - 1
    return last or bool(settings.evaluate_every and (epoch + 1) % settings.evaluate_every == 0)


def plain_batches(settings: CellSettings, train: Images) -> list[Tensor]:
    """The training images in their fixed batches, without augmentation."""
    return [to_input(part) for part in train.pixels.split(settings.batch_size)]


def _state_of(net: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def _state(epoch: int, nets: list[nn.Module], optimiser: Adam, selector: Selector) -> dict[str, Any]:
    """Everything that the following epochs depend on."""
    return {
        "epoch": epoch,
        "nets": [net.state_dict() for net in nets],
        "adam": {"steps": optimiser.steps, "first": optimiser.first, "second": optimiser.second},
        "best": selector.best,
        "result": vars(selector.result),
    }


def _restore(state: dict[str, Any], nets: list[nn.Module], optimiser: Adam, selector: Selector) -> int:
    """Restore what `_state` returned; returns the number of the next epoch."""
    for net, values in zip(nets, state["nets"], strict=True):
        net.load_state_dict(values)
    optimiser.steps = state["adam"]["steps"]
    for name in ("first", "second"):
        for moment, value in zip(getattr(optimiser, name), state["adam"][name], strict=True):
            moment.copy_(value)
    selector.best = state["best"]
    vars(selector.result).update(state["result"])
    return int(state["epoch"]) + 1


def train_epoch(
    settings: CellSettings, train: Images, nets: list[nn.Module], optimiser: Adam, epoch: int
) -> dict[str, float]:
    """One pass over the training images; returns a row of the history: mean losses over steps, accuracies over images.

    Args:
        settings, train: settings and training images of the cell.
        nets: M nets in training mode.
        optimiser: over the parameters of all nets.
        epoch: 0-based.
    """
    method = METHODS[settings.method]
    names = loss_names(settings)
    sums = torch.zeros(len(names), dtype=torch.float64, device=train.labels.device)
    correct = torch.zeros(len(nets), dtype=torch.int64, device=train.labels.device)
    steps = math.ceil(len(train) / settings.batch_size)
    for step, inputs, labels in member_batches(settings, train, epoch):
        for member, net in enumerate(nets):
            set_dropout_key(net, derive(settings.seed, "dropout", epoch, step, member))
        with autocast(settings, inputs[0]):
            outputs = [net(batch) for net, batch in zip(nets, inputs, strict=True)]
        logits = [at_least_float32(output[0]) for output in outputs]
        maps = [output[1] for output in outputs]
        cross_entropies = [functional.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)]
        # A method whose members have their own batches ignores its arguments and adds 0.
        added = method(maps, logits, inputs[0], labels[0], epoch=epoch, **settings.method_params)
        loss = torch.stack(cross_entropies).sum() + added
        optimiser.zero_grad()
        with errors_named(settings.method, epoch):
            loss.backward()
        optimiser.step()
        with torch.no_grad():
            parts = [loss]
            if settings.has_distance:
                distance = feature_distance([m.detach() for m in maps], 0, 0)
                parts += [distance.cosine, distance.gaussian]
            sums += torch.stack([*parts, *cross_entropies]).detach()
            hits = [(output.argmax(1) == expected).sum() for output, expected in zip(logits, labels, strict=True)]
            correct += torch.stack(hits)
    return history_row(settings, epoch, (sums / steps).tolist(), [hits / len(train) for hits in correct.tolist()])


def loss_names(settings: CellSettings) -> list[str]:
    """Names of the quantities that are averaged over the steps of an epoch, in the order of the history's columns."""
    distance = ["cosine", "gaussian"] if settings.has_distance else []
    return ["loss", *distance, *(f"cross_entropy_{m}" for m in range(settings.members))]


def history_row(
    settings: CellSettings, epoch: int, losses: Sequence[float], accuracies: Sequence[float]
) -> dict[str, float]:
    """A row of the history.

    Args:
        settings: settings of the cell.
        epoch: 0-based.
        losses: means over steps, in the order of `loss_names`.
        accuracies: training accuracy of every member, over the images of the epoch.
    """
    row = dict(zip(loss_names(settings), losses, strict=True))
    return {"epoch": epoch, **row} | {f"train_accuracy_{m}": value for m, value in enumerate(accuracies)}


def autocast(settings: CellSettings, inputs: Tensor) -> torch.autocast:
    """A context in which matrix products and convolutions run in bfloat16, if the settings say so."""
    return torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=settings.autocast)


@torch.inference_mode()
def predict(
    settings: CellSettings,
    nets: Sequence[nn.Module],
    pixels: Tensor,
    meter: FeatureDistanceMeter | None = None,
    keeper: MapKeeper | None = None,
) -> Tensor:
    """Logits of an ensemble, float32 (M, N, C).

    Args:
        settings: settings of the cell.
        nets: M nets in evaluation mode.
        pixels: uint8 (N, 3, H, W).
        meter, keeper: are given the feature maps of every batch, to measure their distance and to keep them.
    """

    def outputs_of(part: Tensor) -> tuple[Tensor, list[Tensor]]:
        inputs = to_input(part)
        with autocast(settings, inputs):
            outputs = [net(inputs) for net in nets]
        return torch.stack([output[0].float() for output in outputs]), [output[1] for output in outputs]

    logits = []
    for part_logits, maps in in_parts(outputs_of, pixels, EVALUATION_BATCH):
        logits.append(part_logits)
        for watcher in (meter, keeper):
            if watcher:
                watcher.add(maps)
    return torch.cat(logits, dim=1)


def load_members(settings: CellSettings, states: list[State], num_classes: int, device: str) -> list[nn.Module]:
    """The M nets with the given states, in evaluation mode."""
    skeleton = _skeleton(
        settings.backbone, settings.dataset, num_classes, settings.image_size, settings.width, settings.weights
    )
    nets = [copy.deepcopy(skeleton).to(device).to(memory_format=torch.channels_last) for _ in states]
    for net, state in zip(nets, states, strict=True):
        net.load_state_dict(state)
        net.eval()
    return nets


@cache
def _skeleton(
    backbone: str, dataset: str, num_classes: int, image_size: int, width: float, weights: str | None
) -> nn.Module:
    """A net to be copied and given other weights; copying is cheaper than drawing initial weights for every net."""
    return build(backbone, dataset, num_classes, image_size, width, weights=weights)
