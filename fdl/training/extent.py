"""How many ensembles a program trains at once on a GPU, and how many images it evaluates at once.

A program trains several ensembles as one network (`fdl.training.fused`). Both limits are computed from the nets and
from the total memory of the card, never from the memory that is free at the moment: a program's rounding may depend
on them, and a restarted program must compute the same bits.
"""

import copy
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from fdl.models import Member, build

# Most elements of one tensor: cuDNN's batch norm rejects larger ones (pytorch#51776), and pooling kernels of older
# versions overflow their 32-bit indices.
ELEMENTS = 2**31 - 1
# In an evaluation at most this share of the card's memory is filled by so many tensors of the largest size: input and
# output of a layer, and the two paths of a residual block.
_MEMORY_SHARE, _TENSORS = 1 / 8, 4
# float32 numbers that a program holds per parameter: value, gradient, and the two moments of Adam.
_NUMBERS_PER_PARAMETER = 4


def gpu_memory() -> float:
    """Total memory in bytes of the GPU that this process uses; infinite without a GPU."""
    return torch.cuda.get_device_properties().total_memory if torch.cuda.is_available() else math.inf


@dataclass(frozen=True)
class Extent:
    """Size of one net and of its activations for one image."""

    largest: int  # elements of the largest output of a layer
    kept: int  # elements of all outputs, an upper bound for what a training step keeps for the backward pass
    parameters: int  # number of trainable parameters


@cache
def extent(backbone: str, dataset: str, image_size: int, width: float) -> Extent:
    """The extent of one of the authors' networks."""
    net = build(backbone, dataset, None, image_size, width)
    assert isinstance(net, Member)
    return count(net, image_size)


def count(net: nn.Module, image_size: int) -> Extent:
    """The extent of a given net, which is not changed."""
    copied = copy.deepcopy(net).eval()
    outputs = record_output_sizes(copied)
    pass_one_image(copied, image_size)
    return Extent(max(outputs), sum(outputs), sum(parameter.numel() for parameter in net.parameters()))


@torch.no_grad()
def pass_one_image(net: nn.Module, image_size: int) -> None:
    """Run a forward pass on one image, for the net's hooks.

    The device "meta" would need no arithmetic, but its convolutions import torch's compiler, which takes seconds.
    """
    parameter = next(net.parameters())
    net(parameter.new_zeros(1, 3, image_size, image_size))


def record_output_sizes(net: nn.Module) -> list[int]:
    """A list to which every later forward pass of a net appends the number of elements of each layer's output."""
    outputs: list[int] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        outputs.append(output.numel())

    for module in net.modules():
        if not list(module.children()) and not isinstance(module, nn.Flatten):  # its output is a view
            module.register_forward_hook(note)
    return outputs


def runs_at_once(net: Extent, members: int, batch_size: int, *, bytes_each: int, memory: float) -> int:
    """How many ensembles a program may train at once; 0 if they must be trained one by one in the plain loop.

    Args:
        net: extent of a member.
        members: number of nets in an ensemble.
        batch_size: number of images in a step.
        bytes_each: bytes per element of a layer's output: 4, or 2 in bfloat16.
        memory: total memory of the card in bytes.
    """
    fit = ELEMENTS // (members * batch_size * net.largest)
    bytes_of_a_run = members * (batch_size * net.kept * bytes_each + _NUMBERS_PER_PARAMETER * 4 * net.parameters)
    # A single run is tried even if it does not seem to fit, because `kept` overestimates the memory.
    return min(fit, max(1, int(min(memory / bytes_of_a_run, ELEMENTS))))


def evaluated_at_once(net: Extent, nets: int, images: int, memory: float) -> int:
    """How many images all nets of a program evaluate at once: few parts of nearly equal size.

    Args:
        net: extent of one of the nets.
        nets: number of nets in the program.
        images: number of images to evaluate.
        memory: total memory of the card in bytes.
    """
    elements = min(ELEMENTS, memory * _MEMORY_SHARE / _TENSORS / 4)
    limit = max(1, int(elements / (nets * net.largest)))
    return math.ceil(images / math.ceil(images / limit))
