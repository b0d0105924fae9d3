"""The authors' three VGG variants (docs/reference.md 1.3). None of them is VGG-16."""

from torch import nn

from fdl.models.layers import DenseBatchNorm, Dropout, batch_norm

# Blocks of (filters, convolutions, dropout after the pool).
BLOCKS = {
    "vgg-a": ((64, 2, 0.2), (128, 2, 0.3), (256, 2, 0.4)),
    "vgg-b": ((64, 2, 0.2), (128, 2, 0.3), (256, 3, 0.4)),
    "vgg-c": ((64, 2, 0.2), (128, 2, 0.3), (256, 3, 0.4), (512, 3, 0.5)),
}


def features(blocks: list[tuple[int, int, float]]) -> nn.Sequential:
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
