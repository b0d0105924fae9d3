"""The authors' three VGG variants (docs/reference.md 1.3). None of them is VGG-16."""

from functools import partial

from torch import nn

from fdl.models.layers import DenseBatchNorm, Dropout, batch_norm, glorot_uniform, he_normal, he_uniform
from fdl.models.variants import Sizes, Variant

Blocks = tuple[tuple[int, int, float], ...]  # of (filters, convolutions, dropout after the pool)
_A: Blocks = ((64, 2, 0.2), (128, 2, 0.3), (256, 2, 0.4))
_B: Blocks = ((64, 2, 0.2), (128, 2, 0.3), (256, 3, 0.4))
_C: Blocks = (*_B, (512, 3, 0.5))


def features(blocks: Blocks) -> nn.Sequential:
    """Blocks of convolutions; the feature map is the last pool's output, *before* its dropout."""
    layers: list[nn.Module] = []
    channels = 3
    for index, (filters, convolutions, dropout) in enumerate(blocks):
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), batch_norm(filters), nn.ReLU(inplace=True)]
            channels = filters
        layers.append(nn.MaxPool2d(2))
        if index < len(blocks) - 1:
            layers.append(Dropout(dropout))
    return nn.Sequential(*layers)


def head(flat: int, hidden: int, num_classes: int, dropout: float) -> nn.Sequential:
    """The last pool's dropout, then dense → batch norm → ReLU → dropout → dense."""
    return nn.Sequential(
        *(Dropout(dropout), nn.Flatten(), nn.Linear(flat, hidden), DenseBatchNorm(hidden), nn.ReLU(inplace=True)),
        *(Dropout(0.5), nn.Linear(hidden, num_classes)),
    )


def _build(full: Blocks, sizes: Sizes) -> tuple[nn.Sequential, nn.Sequential]:
    blocks = tuple((sizes.scaled(filters), convolutions, dropout) for filters, convolutions, dropout in full)
    filters, _, dropout = blocks[-1]
    flat = filters * sizes.map_size(len(blocks)) ** 2
    return features(blocks), head(flat, sizes.hidden_units, sizes.num_classes, dropout)


VARIANTS = {
    "vgg-a": Variant(partial(_build, _A), he_uniform, he_uniform, he_uniform),
    "vgg-b": Variant(partial(_build, _B), he_normal, glorot_uniform),
    "vgg-c": Variant(partial(_build, _C), he_normal, glorot_uniform),
}
