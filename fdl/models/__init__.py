"""Builds members of ensembles: the authors' networks, initialised as theirs (docs/reference.md 1), or torchvision's."""

from importlib import import_module
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fdl.core import torchvision_nets
from fdl.core.errors import InputError
from fdl.core.protocol import DATASETS
from fdl.core.randomness import derive
from fdl.models.variants import Sizes, Variant

if TYPE_CHECKING:
    from fdl.models.torchvision_member import PublishedMember


class Member(nn.Module):
    """One net of an ensemble: `features` computes the feature map, `head` the logits from it."""

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
    """Build one member on the CPU in float32: the authors' network for this dataset, or a torchvision classifier.

    Args:
        backbone: alexnet, vgg or resnet, whose variant depends on the dataset (docs/reference.md 1.5, 1.6); or a
            name such as torchvision:resnet18, see `fdl.models.torchvision_member`.
        dataset: a key of `fdl.core.protocol.DATASETS`.
        num_classes: number of outputs; None: that of the dataset.
        image_size: side of the square images in pixels; None: the authors'.
        width: factor on all channel and hidden-unit counts; ignored for torchvision's networks.
        init_seed, member: seed of the ensemble's initial weights, and number of the member.
        weights: file with the initial weights of a torchvision network; None: random weights.

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
    sizes = Sizes(
        f"{dataset} {backbone}",
        image_size=size,
        num_classes=num_classes,
        hidden_units=max(1, round(protocol.hidden_units * width)),
        conv1_stride=protocol.conv1_stride,
        width=width,
    )
    variant = _variant(protocol.backbones[backbone].variant)
    net = Member(*variant.build(sizes))
    _initialise(net, variant, init_seed, member)
    return net


def _variant(name: str) -> Variant:
    """The variant with a name such as `vgg-a`, from the module of this package with the first part of the name."""
    variants: dict[str, Variant] = import_module(f"{__name__}.{name.partition('-')[0]}").VARIANTS
    return variants[name]


def _initialise(net: Member, variant: Variant, init_seed: int, member: int) -> None:
    """Set Keras' initial weights; the random key of a layer includes its place in forward order."""
    weighted = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for index, module in enumerate(weighted):
        dense = variant.output_weights if index == len(weighted) - 1 else variant.hidden_weights
        initialise = variant.conv_weights if isinstance(module, nn.Conv2d) else dense
        initialise(module.weight, derive(init_seed, "weights", member, index))
        assert module.bias is not None
        nn.init.zeros_(module.bias)
