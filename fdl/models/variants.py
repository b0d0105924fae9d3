"""What a network is built of: the sizes that are asked for, its layers, its initial weights."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from fdl.core.errors import InputError
from fdl.core.randomness import Key
from fdl.models import layers

Initialiser = Callable[[Tensor, Key], None]


@dataclass(frozen=True)
class Sizes:
    """What is asked of a network."""

    name: str  # for messages
    image_size: int  # side of the square images in pixels
    num_classes: int
    hidden_units: int  # of the dense layer, already scaled
    conv1_stride: int  # of AlexNet
    width: float  # factor on the numbers of channels

    def scaled(self, channels: int) -> int:
        """A number of channels at this width."""
        return max(1, round(channels * self.width))

    def map_size(self, halvings: int, *, up: bool = False) -> int:
        """Side of the feature map after so many layers of stride 2 (`up`: "same" padding rounds up).

        Raises:
            InputError: nothing is left of the images.
        """
        size = self.image_size
        for _ in range(halvings):
            size = (size + up) // 2
        if size < 1:
            raise InputError(f"{self.name}: images of {self.image_size} pixels vanish in its pools; use 16 or more")
        return size


@dataclass(frozen=True)
class Variant:
    """A network: a module of this package has its variants in `VARIANTS`, by the name of `BackboneProtocol.variant`."""

    build: Callable[[Sizes], tuple[nn.Sequential, nn.Sequential]]  # → features, head
    hidden_weights: Initialiser  # of the hidden dense layer, where there is one
    output_weights: Initialiser  # of the last dense layer
    conv_weights: Initialiser = layers.he_normal
