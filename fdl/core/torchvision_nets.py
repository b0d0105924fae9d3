"""Torchvision's classifiers by name; nothing here imports torchvision or torch.

A backbone is written `torchvision:resnet18`, or `torchvision:resnet18@layer3` to name the layer whose
output is the feature map. In names of folders, and so everywhere inside, the colon is a dash.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from fdl.core.errors import InputError, did_you_mean
from fdl.core.files import file_hash
from fdl.core.protocol import BACKBONES, BackboneProtocol

_PREFIX = re.compile(r"torchvision[:-]")
# The authors have no constants for these nets: torch's own default rate of Adam, the loss weights that
# the authors use most, the heads of the preset `paper` (docs/deviations.md).
PROTOCOL = BackboneProtocol("torchvision", 1e-3, (1, 10), 1e-3, False)

# Why a classifier cannot be a member, by the beginning of its name.
_REFUSED = {
    "googlenet": "it is trained through auxiliary outputs, which a member does not have",
    "inception": "it is trained through auxiliary outputs, which a member does not have",
    "vit": "a vision transformer works on tokens and has no feature map",
}


@dataclass(frozen=True)
class PublishedNet:
    """One of torchvision's classifiers."""

    name: str  # of torchvision's function
    node: str | None  # whose output is the feature map; None: chosen (fdl.models.torchvision_member)


def parse(backbone: str) -> PublishedNet | None:
    """What a backbone's name says, in either spelling; None for one of the authors'."""
    prefix = _PREFIX.match(backbone)
    if not prefix:
        return None
    name, _, node = backbone[prefix.end() :].partition("@")
    return PublishedNet(name, node or None)


def checked(backbone: str) -> str:
    """The name that cells and folders bear: `alexnet`, `torchvision-resnet18@layer3`.

    Raises:
        InputError: there is no such backbone, or it cannot be a member of an ensemble.
    """
    net = parse(backbone)
    if net is None:
        if backbone not in BACKBONES:
            known = *BACKBONES, *(f"torchvision:{name}" for name in names())
            raise InputError(f"backbones: unknown {backbone!r}; {_hint(backbone, known)}")
        return backbone
    if net.name not in names():
        raise InputError(f"backbones: torchvision has no classifier {net.name!r}; {_hint(net.name, names())}")
    for start, reason in _REFUSED.items():
        if net.name.startswith(start):
            raise InputError(f"backbones: torchvision:{net.name}: {reason}; choose a convolutional net")
    if "@" in backbone and not re.fullmatch(r"[A-Za-z0-9_]+([.][A-Za-z0-9_]+)*", net.node or ""):
        raise InputError(f"backbones: {backbone}: name a layer after @, as in torchvision:{net.name}@layer3")
    return f"torchvision-{net.name}" + (f"@{net.node}" if net.node else "")


@cache
def names() -> tuple[str, ...]:
    """The functions that the installed torchvision registers as classifiers, read from its source."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise InputError("backbones: torchvision is not installed; `pip install torchvision`")
    registered = re.compile(r"^@register_model\(.*?^def (\w+)", re.MULTILINE | re.DOTALL)
    files = sorted((Path(spec.origin).parent / "models").glob("*.py"))
    return tuple(sorted(name for file in files for name in registered.findall(file.read_text(encoding="utf-8"))))


def weights_hash(file: str) -> str:
    """SHA-256 of a file of weights.

    Raises:
        InputError: it cannot be read.
    """
    try:
        status = Path(file).stat()
        return _hash(file, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise InputError(f"weights: {file} cannot be read: {error.strerror}") from None


@lru_cache
def _hash(file: str, changed: int, size: int) -> str:
    """Once per version of the file: every cell asks, and a file may hold half a gigabyte."""
    return file_hash(Path(file))


def _hint(name: str, known: Iterable[str]) -> str:
    prefixed = f"torchvision:{name}"
    others = f"there are: {', '.join(BACKBONES)}, torchvision:resnet18 and so on"
    return did_you_mean(prefixed if prefixed in known else name, known, others)


_FAMILIES = {
    "alexnet": "AlexNet",
    "convnext": "ConvNeXt",
    "densenet": "DenseNet",
    "efficientnet": "EfficientNet",
    "maxvit": "MaxViT",
    "mnasnet": "MNASNet",
    "mobilenet": "MobileNet",
    "regnet": "RegNet",
    "resnet": "ResNet",
    "resnext": "ResNeXt",
    "shufflenet": "ShuffleNet",
    "squeezenet": "SqueezeNet",
    "swin": "Swin",
    "vgg": "VGG",
    "wide_resnet": "Wide ResNet",
}


def title(net: PublishedNet) -> str:
    """The printed name: `torchvision ResNet-18`, with the layer where one is named."""
    family = next((start for start in _FAMILIES if net.name.startswith(start)), "")
    numbered = re.sub(r"(?<!\d)(\d)_(\d)", r"\1.\2", net.name.removeprefix(family))  # mnasnet0_75
    variant = re.sub(r"(?<=\d)_(?=\d)", "-", numbered).replace("_", " ")  # wide_resnet50_2
    dash = "-" if variant[:1].isdigit() and family else ""
    return f"torchvision {_FAMILIES.get(family, '')}{dash}{variant}" + (f" at {net.node}" if net.node else "")
