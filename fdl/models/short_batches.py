"""Batch norm that ignores some images of a batch: those that fill up a short batch to the size of the others."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, share: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm with the statistics of only those images that count.

    For the backward pass it stores its input but no other tensor of that size, like torch's own batch norm: in
    bfloat16, a float32 copy of every layer's input would double the memory of a step.

    Args:
        x: (B, C, H, W).
        weight, bias: (C,).
        share: (B, C), weight of each element of an image in the mean of a channel; 0 for images that do not count.
        eps: added to the variance.

    Returns:
        All images normalised, in the type of `x`; mean and biased variance (C,) in the type of `share`, as constants
        without a gradient.
    """
    normalised, mean, var = _BatchNorm.apply(x, weight, bias, share, eps)
    return normalised, mean, var


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, share: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = (x.sum(dim=(2, 3), dtype=share.dtype) * share).sum(dim=0)
        var = (_centred(x, mean).square_().sum(dim=(2, 3)) * share).sum(dim=0)
        normalised = functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, share, mean, torch.rsqrt(var + eps))
        ctx.mark_non_differentiable(mean, var)
        return normalised, mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, share, mean, inverse = ctx.saved_tensors
        gradient, scale = gradients[0], weight * inverse
        bias_gradient = gradient.sum(dim=(2, 3), dtype=share.dtype).sum(dim=0)
        scale_gradient = _centred(x, mean).mul_(gradient).sum(dim=(2, 3)).sum(dim=0)
        # The gradient by x through the variance, through x itself, and through the mean.
        x_gradient = _centred(x, mean).mul_(_per_channel(-share * scale * inverse.square() * scale_gradient))
        x_gradient.addcmul_(gradient, _per_channel(scale[None]))
        x_gradient -= _per_channel(share * scale * bias_gradient)
        return x_gradient.to(x.dtype), scale_gradient * inverse, bias_gradient, None, None


def _centred(x: Tensor, mean: Tensor) -> Tensor:
    return x - _per_channel(mean[None])


def _per_channel(values: Tensor) -> Tensor:
    """(B, C) → (B, C, 1, 1)."""
    return values[..., None, None]
