"""The authors' AlexNet variant (docs/reference.md 1.2)."""

from torch import nn

from fdl.models.layers import Dropout, MaxPool32, Same, batch_norm, glorot_uniform
from fdl.models.variants import Sizes, Variant


def features(channels: tuple[int, ...], stride: int) -> nn.Sequential:
    """Five convolutions with the given numbers of output channels; only the first two are followed by batch norm."""
    a, b, c, d, e = channels
    return nn.Sequential(
        *(Same(3, stride), nn.Conv2d(3, a, 3, stride), batch_norm(a), nn.ReLU(inplace=True), MaxPool32()),
        *(nn.Conv2d(a, b, 3, padding=1), batch_norm(b), nn.ReLU(inplace=True), MaxPool32()),
        *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(d, e, 3, padding=1), nn.ReLU(inplace=True), MaxPool32()),
    )


def head(flat: int, hidden: int, num_classes: int) -> nn.Sequential:
    """One hidden dense layer, no batch norm."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(inplace=True), Dropout(0.5), nn.Linear(hidden, num_classes)
    )


def _build(sizes: Sizes) -> tuple[nn.Sequential, nn.Sequential]:
    channels = tuple(sizes.scaled(c) for c in (96, 256, 384, 384, 256))
    size = sizes.map_size(3 + (sizes.conv1_stride == 2), up=True)
    return (
        features(channels, sizes.conv1_stride),
        head(channels[-1] * size**2, sizes.hidden_units, sizes.num_classes),
    )


VARIANTS = {"alexnet": Variant(_build, glorot_uniform, glorot_uniform)}
