"""Maps drawn on the test images that they are of, and which images are drawn."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS, ALPHA = "inferno", 0.6
SIDE = 196  # dots of an image that a map is drawn on
IMAGES = 3  # of a figure, of the first classes: what fits on a page
Record = Mapping[str, NDArray[Any]]  # content of a record's `cam.npz`


def shown_images(records: Sequence[Record], classes: int = IMAGES) -> list[int]:
    """Positions of an image per class, of the first classes, in records that hold maps of the same images.

    The first that the soft votes of all records get right, or else the first of all: an image that only one method
    gets right would flatter it. Older records hold one image of each class, and no votes.
    """
    labels: NDArray[np.int64] = records[0]["labels"]
    voted = all("voted" in record for record in records)
    correct = votes_right(records) if voted else np.zeros(len(labels), bool)
    of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)[:classes]]
    return [int([*images[correct[images]], *images][0]) for images in of_class]


def votes_right(records: Sequence[Record]) -> NDArray[np.bool_]:
    """Which images all soft votes get right, of the records that hold votes."""
    correct = np.ones(len(records[0]["labels"]), bool)
    for record in records:
        if "voted" in record:
            correct &= record["voted"] == record["labels"]
    return correct


def image_shown(record: Record, image: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of a test image that maps are drawn on; plain grey where the record came without images."""
    pixels: NDArray[np.uint8] = record["pixels"][image] if "pixels" in record else np.full((32, 32, 3), 128, np.uint8)
    return pixels


def enlarged(pixels: NDArray[Any], side: int = SIDE) -> NDArray[Any]:
    """An image (H, W, 3) as a square of `side` pixels, its own kept as squares."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST))


def on_grey(pixels: NDArray[np.uint8], values: NDArray[np.floating], side: int = SIDE) -> NDArray[np.uint8]:
    """A map in [0, 1] on the image in grey, (side, side, 3): so all colour is the map's."""
    from PIL import Image

    smooth = np.asarray(Image.fromarray(values.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))
    coloured = Image.fromarray((smooth.clip(0, 1) * 255).round().astype(np.uint8))
    coloured.putpalette(_palette())
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.NEAREST))
    blended = np.float32(ALPHA) * np.asarray(coloured.convert("RGB")) + np.float32(1 - ALPHA) * grey[..., None]
    return blended.round().astype(np.uint8)  # Pillow's own blending cuts off


@cache
def _palette() -> bytes:
    """Red, green and blue of 256 values."""
    from matplotlib import colormaps

    colours: bytes = colormaps[COLOURS](np.arange(256), bytes=True)[:, :3].tobytes()
    return colours
