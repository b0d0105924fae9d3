"""How things are written in tables, figures and pages."""

from fdl.core import torchvision_nets
from fdl.core.method_sources import registered
from fdl.core.protocol import BACKBONES

BASELINE, METHOD = "classical", "fdl"

SYNTHETIC = "Synthetic images: the numbers say nothing about the method."


def signed(points: float) -> str:
    """One decimal, with a true minus sign, and no sign on what rounds to zero."""
    rounded = round(points, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def signed_interval(points: float, interval: tuple[float, float] | None) -> str:
    """`+1.2 [−0.3, +2.7]`; without an interval the points alone."""
    return signed(points) + (f" [{signed(interval[0])}, {signed(interval[1])}]" if interval else "")


def dataset_title(title: str, *, synthetic: bool) -> str:
    """A dataset's printed name, of that in its protocol; synthetic twins never go under the real name."""
    return f"{title} (synthetic)" if synthetic else title


def backbone_title(backbone: str) -> str:
    """A backbone's printed name."""
    published = torchvision_nets.parse(backbone)
    return torchvision_nets.title(published) if published else BACKBONES.get(backbone, backbone)


def method_title(method: str) -> str:
    """A method's printed name; plug-ins keep the name that they are registered by."""
    entry = registered().get(method)
    return entry.title if entry else method
