"""Heads: small nets that combine the outputs of all members into one prediction.

The head `fusion` reads the members' feature maps, `stacking` their probabilities (docs/reference.md 6). A head is
trained in two stages, of which each gives a combiner: first alone on frozen members, then, starting from the best
frozen head, together with the members at a small learning rate (the tuned form). In both stages the members are in
evaluation mode, as in the authors' code: their batch norm keeps its statistics and their dropout is off. Only the head
is in training mode.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fdl.core.console import Say
from fdl.core.errors import one_line
from fdl.core.protocol import HEADS
from fdl.core.randomness import Key, absorb, derive, permutation
from fdl.evaluation.parts import in_parts, release_gpu_memory
from fdl.models import Member
from fdl.models.layers import DenseBatchNorm, Dropout, glorot_uniform, set_dropout_key
from fdl.training.adam import Adam
from fdl.training.batchnorm import evaluation_statistics
from fdl.training.cuda_graph import own_stream
from fdl.training.engine import epoch_batches, to_input
from fdl.training.fused_heads import FusedMembers, ReplayedSteps
from fdl.training.state import EVALUATION_BATCH, CellData, CellSettings

if TYPE_CHECKING:
    from fdl.core.head_settings import HeadSettings


@dataclass(frozen=True)
class Outputs:
    """The members' outputs for the images of a split, from `fdl.training.engine.predict`."""

    logits: Tensor  # (M, N, C), float32
    maps: list[Tensor] | None  # M feature maps (N, C', H', W'); None: they were too large to keep


@dataclass
class TrainedHead:
    """The result of one stage of a head."""

    logits: dict[str, Tensor]  # "validation", "test" → (N, C) float32, on the CPU
    epoch: int  # the selected epoch, 0-based
    history: list[dict[str, float]]  # a row per epoch


def train_head(
    name: str,
    cell: CellSettings,
    settings: "HeadSettings",
    members: Sequence[nn.Module],
    data: CellData,
    *,
    epoch_done: Say = print,
    outputs: Mapping[str, Outputs] | None = None,
) -> dict[str, TrainedHead]:
    """Train one head, first on frozen members and then together with them.

    As for the members, the selected epoch is the one with the best validation accuracy, the first of equals; with the
    selection `last` it is the last epoch, and with `sum-small` the small validation set decides. A head that
    diverges returns logits that are not finite.

    Args:
        name: a key of `HEADS`.
        cell: settings of the members' cell; its first selection is used.
        settings: settings of the heads.
        members: M nets in evaluation mode, which are not changed.
        data: the cell's images, on the members' device.
        epoch_done: takes one line per epoch.
        outputs: the members' outputs for "validation" and "test"; missing ones are computed.

    Returns:
        A result per combiner: "fusion" and "fusion-tuned" for the head "fusion".
    """
    device = data.train.labels.device.type

    def trained(fused: bool) -> dict[str, TrainedHead]:
        with own_stream(device):
            run = _HeadRun(name, cell, settings, members, data, epoch_done, outputs or {}, fused=fused)
            stages = {name: run.frozen()}
            if settings.tuning_epochs:
                stages[f"{name}-tuned"] = run.tuned()
        return stages

    if not is_fused(members, device):
        return trained(fused=False)
    try:
        return trained(fused=True)
    except RuntimeError as error:  # includes exhausted memory; single members need a little less
        epoch_done(f"{name}: not on fused members ({one_line(error)[:200]}); again in the loop, slower")
    release_gpu_memory()
    return trained(fused=False)


def is_fused(members: Sequence[nn.Module], device: str) -> bool:
    """Whether the members are called as one network: on a GPU, if they are the authors' networks."""
    return device == "cuda" and all(isinstance(member, Member) for member in members)


def build_head(name: str, inputs: int, units: int, num_classes: int, seed: int) -> nn.Sequential:
    """A head with its initial weights (Keras' Glorot uniform, biases 0).

    Args:
        name: a key of `HEADS`, which says what lies between the two dense layers.
        inputs: length of the input vector: all elements of all feature maps, or M·C probabilities.
        units: size of the hidden layer.
        num_classes: number of outputs.
        seed: seed of the weights.
    """
    kind = HEADS[name]
    norm = [DenseBatchNorm(units)] if kind.batch_norm else []
    dropout = [Dropout(kind.dropout)] if kind.dropout else []
    # `skip_init` would avoid torch's initial weights, but imports sympy, which takes seconds in every bundle's process.
    dense = nn.Linear(inputs, units), nn.Linear(units, num_classes)
    for index, layer in enumerate(dense):
        glorot_uniform(layer.weight, derive(seed, "head", _head_number(name), 0, index))
        nn.init.zeros_(layer.bias)
    return nn.Sequential(dense[0], *norm, nn.ReLU(), *dropout, dense[1])


def _head_number(name: str) -> int:
    """The number of a head, which is part of the random keys of its weights and dropout."""
    return list(HEADS).index(name)


class _HeadRun:
    """Trains one head on its own copy of the members: `frozen` first, then `tuned`."""

    def __init__(
        self,
        name: str,
        cell: CellSettings,
        settings: "HeadSettings",
        members: Sequence[nn.Module],
        data: CellData,
        epoch_done: Say,
        outputs: Mapping[str, Outputs],
        *,
        fused: bool,
    ) -> None:
        self.name, self.settings, self.data, self.epoch_done, self.outputs = name, settings, data, epoch_done, outputs
        self.reads = HEADS[name].reads
        self.device = data.train.labels.device
        self.fused: FusedMembers | None = None
        self.members: list[nn.Module | FusedMembers]  # what is trained when tuning
        self.outputs_of: Callable[[Tensor], list[tuple[Tensor, Tensor]]]  # logits and map of every member
        if fused:
            self.fused = FusedMembers(cast(Sequence[Member], members), cell, len(data.validation), epoch_done)
            self.members, self.outputs_of, self.at_once = [self.fused], self.fused, self.fused.at_once
        else:
            copies = copy.deepcopy(list(members))
            self.members, self.at_once = [*copies], EVALUATION_BATCH
            self.outputs_of = lambda inputs: [member(inputs) for member in copies]
        # Sums over the images of an epoch so far, on the device.
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.correct = torch.zeros((), device=self.device)
        self.cell = replace(cell, augment=settings.augment)
        # Training images without augmentation, for features of frozen members and to re-estimate batch-norm statistics.
        self.plain = list(data.train.pixels.split(cell.batch_size))
        self.rule = cell.selections[0]

    def frozen(self) -> TrainedHead:
        """Train the head on frozen members."""
        for member in self.members:
            member.requires_grad_(False)
        # Frozen members give the same outputs in every epoch, so they are computed once.
        train = self._representations(self.plain)
        with torch.no_grad():
            validation = list(self._frozen("validation"))
        units = self.settings.units[self.name]
        head = build_head(self.name, train[0].shape[1], units, self.data.num_classes, self.cell.seed)
        self.head = head.to(self.device)
        labels = self.data.train.labels.split(self.cell.batch_size)

        def batches(epoch: int) -> Iterator[tuple[int, Tensor, Tensor]]:
            if self.settings.augment:
                yield from epoch_batches(self.cell, self.data.train, epoch)
                return
            order = permutation(derive(self.cell.seed, "order", epoch), len(train))
            for step, chunk in enumerate(order.tolist()):
                yield step, train[chunk], labels[chunk]

        return self._fit(
            self.name,
            [self.head],
            batches,
            self._represent if self.settings.augment else None,
            first_epoch=self.cell.epochs,
            epochs=self.settings.epochs,
            learning_rate=self.settings.learning_rates[self.name],
            representations=lambda: (train, validation),
            test=lambda: self._frozen("test"),
        )

    def tuned(self) -> TrainedHead:
        """Train head and members together, starting from the best frozen head."""
        for member in self.members:
            member.requires_grad_(True)

        return self._fit(
            f"{self.name}-tuned",
            [self.head, *self.members],
            partial(epoch_batches, self.cell, self.data.train),
            self._represent,
            first_epoch=self.cell.epochs + self.settings.epochs,
            epochs=self.settings.tuning_epochs,
            learning_rate=self.settings.tuning_learning_rate,
            representations=lambda: (
                self._representations(self.plain) if self.cell.bn_statistics == "reestimate" else [],
                self._validation(),
            ),
            test=lambda: self._of_images(self.data.test.pixels),
        )

    def _fit(
        self,
        combiner: str,
        nets: list[nn.Module | FusedMembers],
        batches: Callable[[int], Iterator[tuple[int, Tensor, Tensor]]],
        represent: Callable[[Tensor], Tensor] | None,
        *,
        first_epoch: int,
        epochs: int,
        learning_rate: float,
        representations: Callable[[], tuple[list[Tensor], list[Tensor]]],
        test: Callable[[], Iterator[Tensor]],
    ) -> TrainedHead:
        """Train `nets`, restore their state of the selected epoch, and predict with it.

        Args:
            combiner: name of the stage, for the progress lines.
            nets: the nets to train: the head, followed by the members when tuning.
            batches: returns the batches of an epoch: step, inputs, labels (B,).
            represent: turns these inputs into the head's inputs (B, F); None: they are the head's inputs.
            first_epoch: number of the first epoch in random keys. It continues the numbers of earlier stages, so that
                no random number is used twice.
            epochs, learning_rate: those of this stage.
            representations: returns the head's inputs for training and validation images from the current members.
            test: the same for the test images, part by part.
        """
        step = self._steps(nets, represent, learning_rate)
        history: list[dict[str, float]] = []
        best, chosen, states = -1, epochs - 1, [net.state_dict() for net in nets]
        for epoch in range(epochs):
            row = {"epoch": epoch, **self._train_epoch(step, batches, first_epoch + epoch)}
            history.append(row)
            if self.rule != "last":
                with evaluation_statistics([self.head], (inputs := representations())[0], self.cell.bn_statistics):
                    correct = self._logits(inputs[1]).argmax(dim=1) == self.data.validation.labels
                row["validation_accuracy"] = float(correct.double().mean())
                counted = int((correct[self.data.small] if self.rule == "sum-small" else correct).sum())
                if counted > best:
                    best, chosen = counted, epoch
                    states = [{key: value.clone() for key, value in net.state_dict().items()} for net in nets]
            self.epoch_done(f"{combiner}: epoch {epoch + 1}/{epochs}  loss {row['cross_entropy']:.3f}")
            if not math.isfinite(row["cross_entropy"]):
                break  # the caller notices it by the logits
        for net, state in zip(nets, states, strict=True):
            net.load_state_dict(state)
        train, validation = representations()
        with torch.no_grad(), evaluation_statistics([self.head], train, self.cell.bn_statistics):
            logits = {"validation": self._logits(validation), "test": self._logits(test())}
        return TrainedHead({split: values.cpu() for split, values in logits.items()}, chosen, history)

    def _steps(
        self, nets: list[nn.Module | FusedMembers], represent: Callable[[Tensor], Tensor] | None, learning_rate: float
    ) -> Callable[[Tensor, Tensor, int, int], None]:
        """A function that takes a training step, given inputs, labels, and the numbers of epoch and step."""

        def gradients(inputs: Tensor, labels: Tensor, key: Key) -> None:
            set_dropout_key(self.head, key)
            logits = self.head(represent(inputs) if represent else inputs)
            loss = functional.cross_entropy(logits, labels)
            loss.backward()
            self.loss.add_(loss.detach() * len(labels))
            self.correct.add_((logits.argmax(dim=1) == labels).sum())

        purpose = partial(derive, self.cell.seed, "head", _head_number(self.name), 1)
        if self.fused:
            replayed = ReplayedSteps(nets, learning_rate, self.device.type, self.epoch_done)
            number = torch.zeros((), dtype=torch.int64, device=self.device)

            def fused_step(inputs: Tensor, labels: Tensor, epoch: int, step: int) -> None:
                replayed(inputs, labels, absorb(purpose(epoch), number.fill_(step)), gradients)

            return fused_step
        optimiser = Adam(cast(list[nn.Module], nets), learning_rate)

        def single_step(inputs: Tensor, labels: Tensor, epoch: int, step: int) -> None:
            optimiser.zero_grad()
            gradients(inputs, labels, purpose(epoch, step))
            _no_gradient_is_zero(optimiser.parameters)
            optimiser.step()

        return single_step

    def _train_epoch(
        self,
        step: Callable[[Tensor, Tensor, int, int], None],
        batches: Callable[[int], Iterator[tuple[int, Tensor, Tensor]]],
        epoch: int,
    ) -> dict[str, float]:
        """One pass over the training images; mean loss and accuracy over images."""
        self.head.train()
        self.loss.zero_()
        self.correct.zero_()
        for number, inputs, labels in batches(epoch):
            step(inputs, labels, epoch, number)
        images = len(self.data.train)
        return {"cross_entropy": float(self.loss) / images, "train_accuracy": float(self.correct) / images}

    @torch.no_grad()
    def _logits(self, inputs: Iterable[Tensor]) -> Tensor:
        return torch.cat([self.head(part).float() for part in inputs])

    @torch.no_grad()
    def _representations(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return [self._represent(to_input(part)) for part in parts]

    @torch.no_grad()
    def _validation(self) -> list[Tensor]:
        return list(self._of_images(self.data.validation.pixels))

    def _of_images(self, pixels: Tensor) -> Iterator[Tensor]:
        """The head's inputs for many images (N, 3, H, W), part by part; each part is computed when it is asked for."""
        return in_parts(lambda part: self._represent(to_input(part)), pixels, self.at_once)

    def _frozen(self, split: str) -> Iterator[Tensor]:
        """The head's inputs for validation or test images from the frozen members, part by part."""
        outputs = self.outputs.get(split)
        if outputs and self.reads == "probabilities":
            return (_probabilities(part.unbind()) for part in outputs.logits.split(EVALUATION_BATCH, dim=1))
        if outputs and outputs.maps:
            return (_features(parts) for parts in zip(*(m.split(EVALUATION_BATCH) for m in outputs.maps), strict=True))
        return self._of_images(self.data.validation.pixels if split == "validation" else self.data.test.pixels)

    def _represent(self, inputs: Tensor) -> Tensor:
        """The head's inputs for images (B, 3, H, W): the members' outputs as one float32 vector per image, (B, F)."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.cell.autocast):
            outputs = self.outputs_of(inputs)
        if self.reads == "probabilities":
            return _probabilities([logits for logits, _ in outputs])
        return _features([feature_map for _, feature_map in outputs])


def _probabilities(logits: Sequence[Tensor]) -> Tensor:
    """M logits (B, C) → (B, M·C)."""
    return torch.cat([values.float().softmax(dim=1) for values in logits], dim=1)


def _features(maps: Sequence[Tensor]) -> Tensor:
    """M feature maps (B, C', H', W') → (B, M·C'·H'·W')."""
    return torch.cat([feature_map.float() for feature_map in maps], dim=1).flatten(1)


def _no_gradient_is_zero(parameters: Sequence[Tensor]) -> None:
    """Set missing gradients to zero, which makes Adam leave a parameter as it is.

    Fusion does not use the members' own dense layers, so these have no gradient.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
