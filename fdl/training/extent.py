"""How much of a GPU the nets of a program fill, and how many of them and of their images it takes at a time.

Every bound is a property of the nets and the card, never of what is free at the moment: the numbers of a program may
depend on how its work was cut, and must be the same bits when it is started again.
"""

import copy
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from fdl.models import Member, build

# Elements of one tensor: beyond, cuDNN's batch norm refuses (pytorch#51776), and older pools count in 32 bits.
ELEMENTS = 2**31 - 1
# An evaluation holds at most this share of the card in so many of its largest tensors: what a layer reads and writes,
# and the two paths of a residual block.
_SHARE, _TENSORS = 1 / 8, 4
# Numbers per parameter that a program holds, in float32: value, gradient, and the two moments of Adam.
_STATE = 4


def gpu_memory() -> float:
    """Bytes of the card that this process uses, free or not; without limit where there is none."""
    return torch.cuda.get_device_properties().total_memory if torch.cuda.is_available() else math.inf


@dataclass(frozen=True)
class Extent:
    """Of one net, per image."""

    largest: int  # elements of the largest output
    kept: int  # elements of all outputs: at most what a training step keeps for the way back
    parameters: int


@cache
def extent(backbone: str, dataset: str, image_size: int, width: float) -> Extent:
    """Count the outputs of a net of the authors on one image."""
    net = build(backbone, dataset, None, image_size, width)
    assert isinstance(net, Member)
    return count(net, image_size)


def count(net: nn.Module, image_size: int) -> Extent:
    """The same of a net that is there; it is left as it is."""
    passed = copy.deepcopy(net).eval()
    outputs = noted_outputs(passed)
    pass_one_image(passed, image_size)
    return Extent(max(outputs), sum(outputs), sum(parameter.numel() for parameter in net.parameters()))


@torch.no_grad()
def pass_one_image(net: nn.Module, image_size: int) -> None:
    """Call a net for its hooks. Not on the device "meta", whose convolutions import the compiler, in seconds."""
    like = next(net.parameters())
    net(like.new_zeros(1, 3, image_size, image_size))


def noted_outputs(net: nn.Module) -> list[int]:
    """A list to which every later pass through a net adds the elements of each layer's output."""
    outputs: list[int] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        outputs.append(output.numel())

    for module in net.modules():
        if not list(module.children()) and not isinstance(module, nn.Flatten):  # which is a view
            module.register_forward_hook(note)
    return outputs


def runs_at_once(net: Extent, members: int, batch_size: int, *, bytes_each: int, memory: float) -> int:
    """How many ensembles a program may train; 0: not even one, and they are trained in the loop.

    Args:
        net: of which they are made.
        members: nets of an ensemble.
        batch_size: images of a step.
        bytes_each: of an element of an output: 4, or 2 in bfloat16.
        memory: bytes of the card.
    """
    fit = ELEMENTS // (members * batch_size * net.largest)
    bytes_of_a_run = members * (batch_size * net.kept * bytes_each + _STATE * 4 * net.parameters)
    # What does not fit alone is tried all the same: the count is a high one.
    return min(fit, max(1, int(min(memory / bytes_of_a_run, ELEMENTS))))


def evaluated_at_once(net: Extent, nets: int, images: int, memory: float) -> int:
    """How many images all nets of a program evaluate at a time: as many as may be, in parts of one size, or nearly.

    Args:
        net: of which the program is made.
        nets: how many.
        images: there are.
        memory: bytes of the card.
    """
    elements = min(ELEMENTS, memory * _SHARE / _TENSORS / 4)
    most = max(1, int(elements / (nets * net.largest)))
    return math.ceil(images / math.ceil(images / most))
