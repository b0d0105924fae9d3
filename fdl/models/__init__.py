"""The members: the authors' networks, built and initialised as theirs (docs/reference.md 1), or torchvision's."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fdl.core import torchvision_nets
from fdl.core.errors import InputError
from fdl.core.protocol import DATASETS
from fdl.core.randomness import derive
from fdl.models import alexnet, layers, resnet, vgg

if TYPE_CHECKING:
    from fdl.models.torchvision_member import PublishedMember


class Member(nn.Module):
    """One net of an ensemble."""

    def __init__(self, features: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] → logits (B, num_classes), feature map (B, C', H', W')."""
        feature_map = self.features(x)
        return self.head(feature_map), feature_map


def build(
    backbone: str,
    dataset: str,
    num_classes: int | None = None,
    image_size: int | None = None,
    width: float = 1.0,
    *,
    init_seed: int = 0,
    member: int = 0,
    weights: str | None = None,
) -> "Member | PublishedMember":
    """Build one member as the authors did for this dataset, or one of torchvision's classifiers; on the CPU, float32.

    Args:
        backbone: alexnet, vgg or resnet; the variant depends on the dataset (docs/reference.md 1.5, 1.6). Or
            torchvision:resnet18 and so on, see `fdl.models.torchvision_member`.
        dataset: one of `fdl.core.protocol.DATASETS`.
        num_classes: None: the dataset's.
        image_size: side of the square images in pixels; None: the authors'.
        width: factor on all channel and hidden-unit counts; torchvision's have their own.
        init_seed, member: the keys of the initial weights.
        weights: file that a net of torchvision starts from; None: random weights.

    Raises:
        InputError: an unknown dataset or backbone, images too small for the backbone, or weights that do not fit.
    """
    if dataset not in DATASETS:
        raise InputError(f"unknown dataset {dataset!r}; known: {', '.join(DATASETS)}")
    protocol = DATASETS[dataset]
    num_classes = num_classes or len(protocol.classes)
    size = image_size or protocol.image_size
    if published := torchvision_nets.parse(torchvision_nets.checked(backbone)):
        from fdl.models.torchvision_member import build as build_published  # torchvision takes its time to import

        return build_published(published, num_classes, size, init_seed=init_seed, member=member, weights=weights)
    variant = protocol.backbones[backbone].variant

    def scaled(channels: int) -> int:
        return max(1, round(channels * width))

    hidden = scaled(protocol.hidden_units)
    if variant == "alexnet":
        channels = tuple(scaled(c) for c in (96, 256, 384, 384, 256))
        size = _halved(size, times=3 + (protocol.conv1_stride == 2), up=True)
        net = Member(
            alexnet.features(channels, protocol.conv1_stride), alexnet.head(channels[-1] * size**2, hidden, num_classes)
        )
    elif variant.startswith("vgg"):
        blocks = [(scaled(filters), convolutions, p) for filters, convolutions, p in vgg.BLOCKS[variant]]
        size = _halved(size, times=len(blocks))
        filters, _, dropout = blocks[-1]
        net = Member(vgg.features(blocks), vgg.head(filters * size**2, hidden, num_classes, dropout))
    else:
        filters_per_block = [scaled(filters) for filters in resnet.FILTERS[variant]]
        size = _halved(size, times=len(filters_per_block))
        net = Member(resnet.features(filters_per_block), resnet.head(filters_per_block[-1], num_classes))
    if size < 1:
        raise InputError(f"{dataset} {backbone}: images of {image_size} pixels vanish in its pools; use 16 or more")
    _initialise(net, variant, init_seed, member)
    return net


def _halved(size: int, *, times: int, up: bool = False) -> int:
    """Side of the feature map after that many layers of stride 2 (`up`: "same" padding rounds up)."""
    for _ in range(times):
        size = (size + up) // 2
    return size


def _initialise(net: Member, variant: str, init_seed: int, member: int) -> None:
    """Keras' initial weights; the layer's place in forward order is part of its key."""
    conv = layers.he_uniform if variant == "vgg-a" else layers.he_normal
    # (hidden dense, output dense), docs/reference.md 1.2 to 1.4
    dense = {
        "alexnet": (layers.glorot_uniform, layers.glorot_uniform),
        "vgg-a": (layers.he_uniform, layers.he_uniform),
        "vgg-b": (layers.he_normal, layers.glorot_uniform),
        "vgg-c": (layers.he_normal, layers.glorot_uniform),
        "resnet-3": (layers.he_normal, layers.he_normal),
        "resnet-4": (layers.he_normal, layers.he_normal),
    }[variant]
    weighted = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for index, module in enumerate(weighted):
        is_output = index == len(weighted) - 1
        initialise = conv if isinstance(module, nn.Conv2d) else dense[is_output]
        initialise(module.weight, derive(init_seed, "weights", member, index))
        assert module.bias is not None
        nn.init.zeros_(module.bias)
