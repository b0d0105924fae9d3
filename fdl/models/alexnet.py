"""The authors' AlexNet variant (docs/reference.md 1.2)."""

from torch import nn

from fdl.models.layers import Dropout, MaxPool32, Same, batch_norm


def features(channels: tuple[int, ...], stride: int) -> nn.Sequential:
    """Five convolutions; batch norm after the first two only. `channels`: of the five."""
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
