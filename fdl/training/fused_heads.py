"""Trains a head on a GPU: the members are called as one network, and steps are captured as CUDA graphs.

The results equal those of single members (`fdl.training.heads`) up to rounding. So far this has run on CPUs only.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fdl.core.console import Say
from fdl.core.randomness import Key
from fdl.models import Member
from fdl.models.fused import FusedNets
from fdl.training import convolution_choice
from fdl.training.adam import FlatAdam
from fdl.training.cuda_graph import Replays
from fdl.training.extent import count, evaluated_at_once, gpu_memory
from fdl.training.state import CellSettings, State

_ALIGNED = 64  # in a flat buffer every parameter begins at a multiple of so many elements


class FusedMembers:
    """The members of an ensemble in evaluation mode, called and trained as one network.

    Args:
        members: the nets, whose weights are copied.
        settings: those of their cell.
        images: number of images in an evaluation.
        say: takes a line for the log.
    """

    def __init__(self, members: Sequence[Member], settings: CellSettings, images: int, say: Say) -> None:
        device = next(members[0].parameters()).device.type
        self.nets = FusedNets(members, apart=device == "cpu")
        size = settings.image_size
        self.at_once = evaluated_at_once(count(members[0], size), len(members), images, gpu_memory())
        if device == "cuda":
            self.nets.back_ends = convolution_choice.choose(
                self.nets,
                size,
                {"training": settings.batch_size, "evaluation": self.at_once},
                autocast=settings.autocast,
                say=say,
            )

    def __call__(self, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W) → logits (B, C) and feature map (B, C', H', W') of every member."""
        logits, maps = self.nets(inputs)
        return list(zip(logits, maps.unbind(1), strict=True))

    def requires_grad_(self, wanted: bool) -> None:
        """Set whether the members are trained."""
        for parameter in self.nets.parameters.values():
            parameter.requires_grad_(wanted)

    def state_dict(self) -> State:
        """All that a training changes: the parameters. In evaluation mode batch-norm statistics stay as they are."""
        return {"flat": self.nets.flat}

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.nets.flat.copy_(state["flat"])


class ReplayedSteps:
    """Takes training steps with Adam; on a GPU they are replayed as CUDA graphs.

    The batch of each step is copied to tensors that stay at the same addresses, because graphs record addresses.

    Args:
        trained: the head, followed by its members if these are trained as well.
        learning_rate: constant over the whole training.
        device: "cpu" or "cuda".
        say: takes a line for the log.
    """

    def __init__(
        self, trained: Iterable[nn.Module | FusedMembers], learning_rate: float, device: str, say: Say
    ) -> None:
        self._optimisers = [FlatAdam(*_flat(part), learning_rate, say) for part in trained]
        self._replays = Replays(device, say)
        self._batches: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(
        self, inputs: Tensor, labels: Tensor, key: Tensor, work: Callable[[Tensor, Tensor, Key], None]
    ) -> None:
        """Take one step.

        Args:
            inputs, labels: the batch, (B, ...) and (B,).
            key: key of the dropout masks, 0-d.
            work: computes the gradients from inputs, labels and key, in the same way in every call.
        """
        size = len(labels)
        if size not in self._batches:
            self._batches[size] = torch.empty_like(inputs), torch.empty_like(labels), torch.empty_like(key)
        for place, value in zip(self._batches[size], (inputs, labels, key), strict=True):
            place.copy_(value)
        self._replays(f"head of {size} images", partial(self._step, work, size))

    def _step(self, work: Callable[[Tensor, Tensor, Key], None], size: int) -> None:
        for adam in self._optimisers:
            adam.gradient.zero_()
        work(*self._batches[size])
        for adam in self._optimisers:
            adam.step()


def _flat(part: nn.Module | FusedMembers) -> tuple[Tensor, Tensor]:
    """Move all parameters into one flat tensor and their gradients into another, of which they become views."""
    if isinstance(part, FusedMembers):
        return part.nets.flat, part.nets.gradient
    parameters = list(part.parameters())
    lengths = [-(-parameter.numel() // _ALIGNED) * _ALIGNED for parameter in parameters]
    values = parameters[0].new_zeros(sum(lengths))
    gradient = torch.zeros_like(values)
    for parameter, value, parameter_gradient in zip(
        parameters, values.split(lengths), gradient.split(lengths), strict=True
    ):
        view = value[: parameter.numel()].view_as(parameter)
        view.copy_(parameter.detach())
        parameter.data, parameter.grad = view, parameter_gradient[: parameter.numel()].view_as(parameter)
    return values, gradient
