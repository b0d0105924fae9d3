"""The description of one of the authors' networks: requested sizes, how its layers are built, initialisers."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from fdl.core.errors import InputError
from fdl.core.randomness import Key
from fdl.models import layers

Initialiser = Callable[[Tensor, Key], None]


@dataclass(frozen=True)
class Sizes:
    """The requested sizes of a network."""

    name: str  # dataset and backbone, for messages
    image_size: int  # side of the square images in pixels
    num_classes: int
    hidden_units: int  # of the hidden dense layer, already multiplied by the width
    conv1_stride: int  # stride of the first convolution; only AlexNet uses it
    width: float  # factor on the numbers of channels

    def scaled(self, channels: int) -> int:
        """A number of channels at this width."""
        return max(1, round(channels * self.width))

    def map_size(self, halvings: int, *, up: bool = False) -> int:
        """Side of the feature map after `halvings` layers of stride 2; `up`: whether they round up ("same" padding).

        Raises:
            InputError: the side would be 0.
        """
        size = self.image_size
        for _ in range(halvings):
            size = (size + up) // 2
        if size < 1:
            raise InputError(f"{self.name}: images of {self.image_size} pixels vanish in its pools; use 16 or more")
        return size


@dataclass(frozen=True)
class Variant:
    """A network. The dictionary `VARIANTS` of its module holds it under its name, see `BackboneProtocol.variant`."""

    build: Callable[[Sizes], tuple[nn.Sequential, nn.Sequential]]  # → features, head
    hidden_weights: Initialiser  # of the hidden dense layer, where there is one
    output_weights: Initialiser  # of the last dense layer
    conv_weights: Initialiser = layers.he_normal
