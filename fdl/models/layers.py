"""Layers that behave as the authors' Keras layers (docs/reference.md 1.1, 10)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fdl.core.randomness import Key, absorb, kept, uniform

# Keras' batch norm has momentum 0.99, which is the weight of the old average; in torch it is that of the new value.
MOMENTUM, _EPSILON = 0.01, 1e-3


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Keras' default batch norm after a convolution."""
    return nn.BatchNorm2d(channels, momentum=MOMENTUM, eps=_EPSILON)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding of one axis, (before, after); an odd number has the extra pixel after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Same(nn.Module):
    """Pads images as TensorFlow's "same" padding of the following layer would; `kernel` and `stride` are its own."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H + pad, W + pad)."""
        top, bottom = same_padding(x.shape[-2], self.kernel, self.stride)
        left, right = same_padding(x.shape[-1], self.kernel, self.stride)
        return functional.pad(x, (left, right, top, bottom))


class MaxPool32(nn.Module):
    """3×3 max pool of stride 2 with TensorFlow's "same" padding.

    A side of odd length is padded by a pixel before and one after. On a side of even length the last window reaches
    one pixel beyond the edge, which is what torch's `ceil_mode` does.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, ⌈H / 2⌉, ⌈W / 2⌉)."""
        pooled: Tensor = functional.max_pool2d(x, 3, 2, padding=(x.shape[-2] % 2, x.shape[-1] % 2), ceil_mode=True)
        return pooled


class DenseBatchNorm(nn.BatchNorm1d):
    """Batch norm after a dense layer, as in Keras: the moving variance is the *biased* one of the batch.

    A batch of one image is allowed, as in Keras (torch's own raises).
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, momentum=MOMENTUM, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) → (B, F)."""
        if not self.training:
            return super().forward(x)
        # In float32 or better, like torch's own batch norm, even if the input is bfloat16.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, var = x.mean(dim=0), x.var(dim=0, unbiased=False)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(var.detach().to(self.running_var.dtype), self.momentum)
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias


class Dropout(nn.Module):
    """Element-wise dropout whose mask is a function of a key (`fdl.core.randomness`), set by `set_dropout_key`.

    Without a key (outside this project's training) the mask is drawn from torch's global generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.key: Key | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; zeroes an element with probability p and divides the others by 1 - p."""
        if not self.training or self.p == 0:
            return x
        if self.key is None:
            return functional.dropout(x, self.p)
        return x * kept(self.key, x, self.p) / (1 - self.p)


def set_dropout_key(model: nn.Module, key: Key | None) -> None:
    """Give every dropout layer of a model the key of its mask, derived from `key`; None: no keys."""
    layers = (module for module in model.modules() if isinstance(module, Dropout))
    for index, layer in enumerate(layers):
        layer.key = None if key is None else absorb(key, index)


# Keras' initialisers, computed from keyed uniform numbers in float64. The normal distribution is truncated at two
# standard deviations, which leaves this standard deviation; dividing by it restores the intended one.
_TRUNCATION = 0.87962566103423978


def he_normal(weight: Tensor, key: Key) -> None:
    """Truncated normal of standard deviation √(2 / fan-in)."""
    low, high = (torch.special.ndtr(torch.tensor(edge, dtype=torch.float64)) for edge in (-2.0, 2.0))
    u = uniform(key, tuple(weight.shape), dtype=torch.float64)
    z = torch.special.ndtri(low + u * (high - low))
    _fill(weight, z * math.sqrt(2 / _fan_in(weight)) / _TRUNCATION)


def he_uniform(weight: Tensor, key: Key) -> None:
    """Uniform on ±√(6 / fan-in)."""
    _fill_uniform(weight, key, math.sqrt(6 / _fan_in(weight)))


def glorot_uniform(weight: Tensor, key: Key) -> None:
    """Uniform on ±√(6 / (fan-in + fan-out)), for dense layers."""
    _fill_uniform(weight, key, math.sqrt(6 / (weight.shape[0] + weight.shape[1])))


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel()


def _fill_uniform(weight: Tensor, key: Key, limit: float) -> None:
    _fill(weight, (2 * uniform(key, tuple(weight.shape), dtype=torch.float64) - 1) * limit)


def _fill(weight: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(values)
