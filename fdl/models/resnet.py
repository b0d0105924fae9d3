"""The authors' two ResNet variants (docs/reference.md 1.4): no stem, blocks of three convolutions."""

from functools import partial

from torch import Tensor, nn

from fdl.models.layers import batch_norm, he_normal
from fdl.models.variants import Sizes, Variant


def _leaky_relu() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.1, inplace=True)


class Block(nn.Module):
    """Three convolutions plus a 1×1 shortcut; the third activation comes before the addition."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (channels, filters, filters):
            layers += [nn.Conv2d(inputs, filters, 3, padding=1), batch_norm(filters), _leaky_relu()]
        self.main = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1), batch_norm(filters))
        self.activation = _leaky_relu()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, filters, H // 2, W // 2)."""
        pooled: Tensor = self.pool(self.activation(self.main(x) + self.shortcut(x)))
        return pooled


def features(filters: list[int]) -> nn.Sequential:
    """One block per number of filters. The leaky ReLU makes small negative values possible in the feature map."""
    return nn.Sequential(*(Block(inputs, outputs) for inputs, outputs in zip([3, *filters], filters, strict=False)))


def head(channels: int, num_classes: int) -> nn.Sequential:
    """Global average pooling and one dense layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def _build(filters: tuple[int, ...], sizes: Sizes) -> tuple[nn.Sequential, nn.Sequential]:
    scaled = [sizes.scaled(number) for number in filters]
    sizes.map_size(len(scaled))  # raises if the images are too small
    return features(scaled), head(scaled[-1], sizes.num_classes)


VARIANTS = {
    "resnet-3": Variant(partial(_build, (64, 128, 256)), he_normal, he_normal),
    "resnet-4": Variant(partial(_build, (64, 128, 256, 512)), he_normal, he_normal),
}
