"""Trains one cell: M nets on the same batches, one optimiser, selections on the way.

The protocol is the authors' (docs/reference.md 5): fixed chunks of ten images in sample order, the
chunks shuffled every epoch, a fresh augmentation of every image per epoch, Adam at a constant rate.
All methods of a seed see the same images, initial weights, batches, augmentation and dropout.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fdl.evaluation.diversity import FeatureDistanceMeter
from fdl.losses import feature_distance
from fdl.methods import METHODS
from fdl.models import build
from fdl.models.layers import set_dropout_key
from fdl.training.adam import Adam
from fdl.training.augment import augment
from fdl.training.batchnorm import evaluation_statistics
from fdl.training.checkpoint import Checkpoint
from fdl.training.randomness import absorb, derive, permutation

EVALUATION_BATCH = 200
State = dict[str, Tensor]


@dataclass(frozen=True)
class Images:
    """One split: pixels uint8 (N, 3, H, W), labels int64 (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class CellData:
    """The splits of one draw, on the device."""

    train: Images
    validation: Images
    test: Images
    small: Tensor  # positions in `validation` of a subset no larger than `train`
    num_classes: int


@dataclass(frozen=True)
class CellSettings:
    """What `Params.training_settings` says, plus the cell's key parts."""

    backbone: str
    dataset: str
    method: str
    method_params: dict[str, float]
    seed: int
    members: int
    image_size: int
    width: float
    epochs: int
    batch_size: int
    learning_rate: float
    augment: bool
    selections: Sequence[str]
    evaluate_every: int | None
    bn_statistics: str
    autocast: bool = False


@dataclass
class Trained:
    """What a training leaves behind."""

    history: list[dict[str, float]]  # a row per epoch
    states: dict[str, list[State]]  # selection rule → a state per member
    selected: dict[str, list[int]]  # selection rule → epoch per member, 0-based
    validated: list[int] = field(default_factory=list)  # epochs with a validation
    validation_correct: list[Tensor] = field(default_factory=list)  # of these epochs: booleans (M, N)


class Diverged(Exception):
    """A member's cross-entropy, the whole loss or a prediction is not finite."""

    def __init__(self, epoch: int, reason: str, history: list[dict[str, float]]) -> None:
        super().__init__(f"epoch {epoch}: {reason}")
        self.epoch, self.reason, self.history = epoch, reason, history


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
        )
        nets.append(net.to(device).to(memory_format=torch.channels_last).train())
    return nets


def to_input(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → float32 in [0, 1], channels last."""
    return pixels.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


def epoch_batches(settings: CellSettings, train: Images, epoch: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The batches of one epoch in order: (step, inputs (B, 3, H, W), labels (B,))."""
    pixels = train.pixels
    if settings.augment:
        samples = torch.arange(len(train), device=pixels.device)
        keys = absorb(derive(settings.seed, "augment", epoch), samples)
        assert isinstance(keys, Tensor)
        pixels = augment(pixels, keys)
    size = settings.batch_size
    chunks = permutation(derive(settings.seed, "order", epoch), math.ceil(len(train) / size))
    for step, chunk in enumerate(chunks.tolist()):
        part = slice(chunk * size, (chunk + 1) * size)
        yield step, to_input(pixels[part]), train.labels[part]


def train(
    settings: CellSettings,
    data: CellData,
    *,
    device: str,
    progress: Callable[[str], None] = print,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train one cell, from its checkpoint if there is one.

    Args:
        settings: what to train.
        data: the images, on `device`.
        device: "cpu" or "cuda".
        progress: takes one line per epoch.
        checkpoint: where the state is kept between epochs; None: nowhere.

    Raises:
        Diverged: a member's cross-entropy or the loss is not finite.
        Interrupted: a signal arrived; the checkpoint is written.
    """
    nets = build_members(settings, data.num_classes, device)
    optimiser = Adam(nets, settings.learning_rate)
    result = Trained([], {}, {})
    selector = _Selector(settings, data, result)
    start = 0
    if checkpoint and (state := checkpoint.load()):
        start = _restore(state, nets, optimiser, selector)
        progress(f"{settings.method} seed {settings.seed}: going on after epoch {start}")
    for epoch in range(start, settings.epochs):
        row = _train_epoch(settings, data.train, nets, optimiser, epoch)
        result.history.append(row)
        for member in range(settings.members):
            if not math.isfinite(row[f"cross_entropy_{member}"]):
                reason = f"member {member}: the cross-entropy is {row[f'cross_entropy_{member}']}"
                raise Diverged(epoch, reason, result.history)
        if not math.isfinite(row["loss"]):
            raise Diverged(epoch, f"the loss is {row['loss']}", result.history)
        last = epoch == settings.epochs - 1
        if last or (settings.evaluate_every and (epoch + 1) % settings.evaluate_every == 0):
            row |= selector.validate(nets, epoch, last=last)
        progress(_line(settings, row))
        if checkpoint and not last:
            checkpoint.epoch_end(partial(_state, epoch, nets, optimiser, selector))
    return result


def _state(epoch: int, nets: list[nn.Module], optimiser: Adam, selector: "_Selector") -> dict[str, Any]:
    """Everything that the epochs after this one depend on."""
    return {
        "epoch": epoch,
        "nets": [net.state_dict() for net in nets],
        "adam": {"steps": optimiser.steps, "first": optimiser.first, "second": optimiser.second},
        "best": selector.best,
        "result": vars(selector.result),
    }


def _restore(state: dict[str, Any], nets: list[nn.Module], optimiser: Adam, selector: "_Selector") -> int:
    """Put everything back as `_state` found it; the next epoch."""
    for net, values in zip(nets, state["nets"], strict=True):
        net.load_state_dict(values)
    optimiser.steps = state["adam"]["steps"]
    for name in ("first", "second"):
        for moment, value in zip(getattr(optimiser, name), state["adam"][name], strict=True):
            moment.copy_(value)
    selector.best = state["best"]
    vars(selector.result).update(state["result"])
    return int(state["epoch"]) + 1


def _train_epoch(
    settings: CellSettings, train: Images, nets: list[nn.Module], optimiser: Adam, epoch: int
) -> dict[str, float]:
    """One pass over the training images; the row of the history, means over steps (accuracy: over images)."""
    method = METHODS[settings.method]
    names = ["loss", "cosine", "gaussian", *(f"cross_entropy_{m}" for m in range(len(nets)))]
    sums = torch.zeros(len(names), dtype=torch.float64, device=train.labels.device)
    correct = torch.zeros(len(nets), dtype=torch.int64, device=train.labels.device)
    steps = math.ceil(len(train) / settings.batch_size)
    for step, inputs, labels in epoch_batches(settings, train, epoch):
        for member, net in enumerate(nets):
            set_dropout_key(net, derive(settings.seed, "dropout", epoch, step, member))
        with _autocast(settings, inputs):
            outputs = [net(inputs) for net in nets]
        logits = [output[0].float() for output in outputs]
        maps = [output[1] for output in outputs]
        cross_entropies = [functional.cross_entropy(output, labels) for output in logits]
        added = method(maps, logits, inputs, labels, epoch=epoch, **settings.method_params)
        loss = torch.stack(cross_entropies).sum() + added
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            distance = feature_distance([m.detach() for m in maps], 0, 0)
            sums += torch.stack([loss, distance.cosine, distance.gaussian, *cross_entropies]).detach()
            correct += torch.stack([(output.argmax(1) == labels).sum() for output in logits])
    row = dict(zip(names, (sums / steps).tolist(), strict=True))
    row |= {f"train_accuracy_{m}": hits / len(train) for m, hits in enumerate(correct.tolist())}
    return {"epoch": epoch, **row}


def _autocast(settings: CellSettings, inputs: Tensor) -> torch.autocast:
    return torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=settings.autocast)


@torch.inference_mode()
def predict(
    settings: CellSettings, nets: Sequence[nn.Module], pixels: Tensor, meter: FeatureDistanceMeter | None = None
) -> Tensor:
    """Logits (M, N, C) in float32 of nets in evaluation mode; the meter sees the feature maps."""
    logits = []
    for part in pixels.split(EVALUATION_BATCH):
        inputs = to_input(part)
        with _autocast(settings, inputs):
            outputs = [net(inputs) for net in nets]
        logits.append(torch.stack([output[0].float() for output in outputs]))
        if meter:
            meter.add([output[1] for output in outputs])
    return torch.cat(logits, dim=1)


def load_members(settings: CellSettings, states: list[State], num_classes: int, device: str) -> list[nn.Module]:
    """The M nets in selected states, in evaluation mode."""
    nets = build_members(settings, num_classes, device)
    for net, state in zip(nets, states, strict=True):
        net.load_state_dict(state)
        net.eval()
    return nets


class _Selector:
    """Keeps, per selection rule, the states of the best epoch so far (DESIGN words: selection).

    A rule's score is a number of correct validation images; only a strictly higher one replaces.
    """

    def __init__(self, settings: CellSettings, data: CellData, result: Trained) -> None:
        self.settings, self.data, self.result = settings, data, result
        self.best: dict[str, list[int]] = {}
        # Training images without augmentation, for re-estimated batch-norm statistics.
        self.batches = [to_input(part) for part in data.train.pixels.split(settings.batch_size)]

    def validate(self, nets: list[nn.Module], epoch: int, *, last: bool) -> dict[str, float]:
        """Score this epoch; the validation columns of the history."""
        settings, validation = self.settings, self.data.validation
        with evaluation_statistics(nets, self.batches, settings.bn_statistics):
            right = predict(settings, nets, validation.pixels).argmax(-1) == validation.labels  # (M, N)
            for rule in settings.selections:
                self._select(rule, right, nets, epoch, last=last)
        self.result.validated.append(epoch)
        self.result.validation_correct.append(right.cpu())
        accuracies = right.double().mean(dim=1).tolist()
        return {f"validation_accuracy_{m}": value for m, value in enumerate(accuracies)}

    def _select(self, rule: str, right: Tensor, nets: list[nn.Module], epoch: int, *, last: bool) -> None:
        members = len(nets)
        if rule == "last":
            scores = [int(last)] * members
        elif rule == "own":
            scores = right.sum(dim=1).tolist()
        else:
            counted = {"sum": right, "sum3": right[:3], "sum-small": right[:, self.data.small]}[rule]
            scores = [int(counted.sum())] * members
        best = self.best.setdefault(rule, [0 if rule == "last" else -1] * members)
        states = self.result.states.setdefault(rule, [{}] * members)
        epochs = self.result.selected.setdefault(rule, [-1] * members)
        for member, net in enumerate(nets):
            if scores[member] > best[member]:
                best[member], epochs[member] = scores[member], epoch
                states[member] = {name: value.detach().clone() for name, value in net.state_dict().items()}


def _line(settings: CellSettings, row: dict[str, float]) -> str:
    def mean(name: str) -> float:
        return sum(row[f"{name}_{m}"] for m in range(settings.members)) / settings.members

    line = f"{settings.method} seed {settings.seed}: epoch {int(row['epoch']) + 1}/{settings.epochs}"
    line += f"  loss {row['loss']:.3f}  cosine {row['cosine']:.2f}  gaussian {row['gaussian']:.2f}"
    line += f"  train {mean('train_accuracy'):.1%}"
    return line + (f"  validation {mean('validation_accuracy'):.1%}" if "validation_accuracy_0" in row else "")
