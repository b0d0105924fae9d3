"""Inputs and results of a training: images, settings, states of nets, history."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

EVALUATION_BATCH = 200
State = dict[str, Tensor]


@dataclass(frozen=True)
class Images:
    """The images of one split: pixels uint8 (N, 3, H, W), labels int64 (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class CellData:
    """The images of a cell, on the device: those of one k-shot draw, and the validation and test images."""

    train: Images
    validation: Images
    test: Images
    small: Tensor  # positions in `validation` of a subset no larger than `train`
    num_classes: int
    near_duplicates: Tensor | None = None  # (N,) booleans: `test` images that resemble a training image


@dataclass(frozen=True)
class CellSettings:
    """The settings of a cell: the parts of its key, and those of `Params.training_settings` that a training uses."""

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
    own_batches: bool = False  # every member has its own batches and its own best epoch (fdl.core.controls)
    weights: str | None = None  # file that the nets start from; None: random weights
    learning_rates: Sequence[float] = ()  # candidates, of which validation chooses one (fdl.training.tuning)
    autocast: bool = False

    @property
    def has_distance(self) -> bool:
        """Whether the distance between feature maps is defined: for several members that see the same images."""
        return self.members > 1 and not self.own_batches


@dataclass
class Trained:
    """The result of a training."""

    history: list[dict[str, float]]  # a row per epoch
    states: dict[str, list[State]]  # selection rule → a state per member
    selected: dict[str, list[int]]  # selection rule → epoch per member, 0-based
    validated: list[int] = field(default_factory=list)  # epochs with a validation
    validation_correct: list[Tensor] = field(default_factory=list)  # for each of them booleans (M, N)
    tuning: dict[str, Any] | None = None  # how the learning rate was chosen (fdl.training.tuning)
    # How it was computed: in the loop (fdl.training.engine), or in a program of several runs, whose number and forms of
    # the convolutions are named (fdl.training.together).
    layout: str = "loop"
    seconds: float | None = None  # its share of the time of a program; None in the loop, where the caller measures it


class Diverged(Exception):
    """A member's cross-entropy, the whole loss or a prediction is not finite."""

    def __init__(
        self,
        epoch: int,
        reason: str,
        history: list[dict[str, float]],
        layout: str = "loop",
        seconds: float | None = None,
    ) -> None:
        super().__init__(f"epoch {epoch}: {reason}")
        self.epoch, self.reason, self.history = epoch, reason, history
        self.layout, self.seconds = layout, seconds  # as in `Trained`
