"""Several implementations ("forms") of the same convolution of many nets, which differ in speed and in rounding.

Which one is fastest depends on the GPU, its libraries and the layer, see `fdl.training.convolution_choice`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

# A form takes
# - the inputs (B, S · C, H, W), channels last, of S groups of nets; the nets of a group share their inputs,
# - the weights (G, O, C, h, w) and the biases (G, O) of G nets, ordered by group,
# - the layer of a single net, for kernel size, stride and padding,
# and returns (B, G · O, H', W').
BackEnd = Callable[[Tensor, Tensor, Tensor, nn.Conv2d], Tensor]


def grouped(x: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d) -> Tensor:
    """A single grouped convolution."""
    padding = _padding(layer)
    groups = x.shape[1] // layer.in_channels
    return functional.conv2d(x, weight.flatten(0, 1), bias.flatten(), layer.stride, padding, layer.dilation, groups)


def grouped_channels_first(x: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d) -> Tensor:
    """A single grouped convolution on contiguous (channels-first) tensors."""
    output = grouped(x.contiguous(), weight.contiguous(), bias, layer)
    return output.contiguous(memory_format=torch.channels_last)


def loop(x: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d) -> Tensor:
    """A plain convolution for each group, one after another."""
    groups = x.shape[1] // layer.in_channels
    parts = zip(x.chunk(groups, dim=1), weight.chunk(groups), bias.chunk(groups), strict=True)
    return torch.cat([grouped(*part, layer) for part in parts], dim=1)


def unfolded(x: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d) -> Tensor:
    """A batched matrix product over groups, in which each window of an image is a row (im2col)."""
    groups, (height, width) = x.shape[1] // layer.in_channels, layer.kernel_size
    vertical, horizontal = _padding(layer)
    padded = functional.pad(x, (horizontal, horizontal, vertical, vertical)).unflatten(1, (groups, -1))
    windows = padded.unfold(3, height, layer.stride[0]).unfold(4, width, layer.stride[1])  # (B, S, C, H', W', h, w)
    batch, _, _, rows, columns, _, _ = windows.shape
    # The dimensions are in the order in which weights and images are stored in memory.
    matrix = windows.permute(1, 0, 3, 4, 5, 6, 2).flatten(1, 3).flatten(2)  # (S, B · H' · W', h · w · C)
    group_weights = weight.permute(0, 1, 3, 4, 2).reshape(groups, -1, matrix.shape[2])
    product = torch.baddbmm(bias.view(groups, 1, -1), matrix, group_weights.mT)
    return product.view(groups, batch, rows, columns, -1).permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


BACK_ENDS: dict[str, BackEnd] = {
    "grouped": grouped,
    "grouped, channels first": grouped_channels_first,
    "loop": loop,
    "unfolded": unfolded,
}


def window_elements(layer: nn.Conv2d, images: int, height: int, width: int) -> int:
    """Number of elements of the matrix that `unfolded` makes of one net's inputs (images, C, height, width)."""
    vertical, horizontal = _padding(layer)
    rows = (height + 2 * vertical - layer.kernel_size[0]) // layer.stride[0] + 1
    columns = (width + 2 * horizontal - layer.kernel_size[1]) // layer.stride[1] + 1
    return images * rows * columns * layer.in_channels * math.prod(layer.kernel_size)


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    assert not isinstance(layer.padding, str)
    assert layer.dilation == (1, 1)
    return layer.padding[0], layer.padding[1]
