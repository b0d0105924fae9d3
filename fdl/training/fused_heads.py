"""Trains a head on a GPU: the members as one network, and steps that CUDA captures once and replays.

The numbers are those of `fdl.training.heads` without it, up to rounding. So far this has run on CPUs only.
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

_ALIGNED = 64  # elements: where a parameter begins in a flat buffer


class FusedMembers:
    """The members of an ensemble in evaluation mode, called and trained as one network.

    Args:
        members: their weights are copied.
        settings: of their cell.
        images: how many are evaluated.
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
        """Logits (B, C) and feature map (B, C', H', W') of every member."""
        logits, maps = self.nets(inputs)
        return list(zip(logits, maps.unbind(1), strict=True))

    def requires_grad_(self, wanted: bool) -> None:
        """Whether the members are trained."""
        for parameter in self.nets.parameters.values():
            parameter.requires_grad_(wanted)

    def state_dict(self) -> State:
        """What a training changes: in evaluation mode no statistics."""
        return {"flat": self.nets.flat}

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Put it back."""
        self.nets.flat.copy_(state["flat"])


class ReplayedSteps:
    """Adam's steps over a head, or a head and its members, on tensors that stay where they are.

    Args:
        trained: the head, and its members if they are trained, too.
        learning_rate: constant.
        device: "cpu" or "cuda".
        say: takes a line for the log.
    """

    def __init__(
        self, trained: Iterable[nn.Module | FusedMembers], learning_rate: float, device: str, say: Say
    ) -> None:
        self._adams = [FlatAdam(*_flat(part), learning_rate, say) for part in trained]
        self._replays = Replays(device, say)
        self._places: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(
        self, inputs: Tensor, labels: Tensor, key: Tensor, work: Callable[[Tensor, Tensor, Key], None]
    ) -> None:
        """One step.

        Args:
            inputs, labels: (B, ...) and (B,).
            key: of the dropout, 0-d.
            work: computes gradients of such inputs, labels and key, and does the same in every call.
        """
        size = len(labels)
        if size not in self._places:
            self._places[size] = torch.empty_like(inputs), torch.empty_like(labels), torch.empty_like(key)
        for place, value in zip(self._places[size], (inputs, labels, key), strict=True):
            place.copy_(value)
        self._replays(f"head of {size} images", partial(self._step, work, size))

    def _step(self, work: Callable[[Tensor, Tensor, Key], None], size: int) -> None:
        for adam in self._adams:
            adam.gradient.zero_()
        work(*self._places[size])
        for adam in self._adams:
            adam.step()


def _flat(part: nn.Module | FusedMembers) -> tuple[Tensor, Tensor]:
    """All parameters in one tensor, and their gradients in another: they become views of these."""
    if isinstance(part, FusedMembers):
        return part.nets.flat, part.nets.gradient
    parameters = list(part.parameters())
    lengths = [-(-parameter.numel() // _ALIGNED) * _ALIGNED for parameter in parameters]
    values = parameters[0].new_zeros(sum(lengths))
    gradient = torch.zeros_like(values)
    for parameter, own, of_own in zip(parameters, values.split(lengths), gradient.split(lengths), strict=True):
        view = own[: parameter.numel()].view_as(parameter)
        view.copy_(parameter.detach())
        parameter.data, parameter.grad = view, of_own[: parameter.numel()].view_as(parameter)
    return values, gradient
