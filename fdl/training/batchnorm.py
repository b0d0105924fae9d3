"""Which batch-norm statistics an evaluation uses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def evaluation_statistics(nets: Sequence[nn.Module], batches: Sequence[Tensor], rule: str) -> Iterator[None]:
    """Put nets into evaluation mode with the statistics of a rule, and back into training afterwards.

    `moving` uses the moving averages (momentum 0.01), which need many hundred steps to settle.
    `reestimate` temporarily replaces them by the averages over `batches`, the training images without
    augmentation and dropout; each batch is weighted by its number of images.

    Args:
        nets: the members.
        batches: inputs of the nets, float tensors (B, 3, H, W).
        rule: "moving" or "reestimate".
    """
    layers = [m for net in nets for m in net.modules() if isinstance(m, _BatchNorm)]
    saved = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
    for net in nets:
        net.eval()
    if rule == "reestimate":
        _reestimate(nets, layers, batches)
    try:
        yield
    finally:
        for layer, buffers in zip(layers, saved, strict=True):
            for name, buffer in layer.named_buffers():
                buffer.copy_(buffers[name])
        for net in nets:
            net.train()


@torch.no_grad()
def _reestimate(nets: Sequence[nn.Module], layers: Sequence[_BatchNorm], batches: Sequence[Tensor]) -> None:
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.train()
    images_seen = 0
    for batch in batches:
        images_seen += len(batch)
        for layer in layers:
            # Makes it a running mean over images; the first batch overwrites the previous values.
            layer.momentum = len(batch) / images_seen
        for net in nets:
            net(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
