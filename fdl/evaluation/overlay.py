"""Drawing class activation maps on their test images, and choosing the images to show."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS, ALPHA = "inferno", 0.6
SIDE = 196  # width and height in pixels of a drawn image
IMAGES = 3  # images per figure, one of each of the first classes; as many as fit on a page
Record = Mapping[str, NDArray[Any]]  # the arrays of a cell's `cam.npz`


def shown_images(records: Sequence[Record], classes: int = IMAGES) -> list[int]:
    """Choose one image of each of the first classes; returns their positions in the records' arrays.

    The image of a class is the first one that the soft votes of all records classify correctly, or else the first one
    of the class. An image that only one method classifies correctly would flatter that method. Older records hold one
    image of each class and no votes.

    Args:
        records: `cam.npz` of several cells, with maps of the same images.
        classes: number of classes.
    """
    labels: NDArray[np.int64] = records[0]["labels"]
    voted = all("voted" in record for record in records)
    correct = votes_right(records) if voted else np.zeros(len(labels), bool)
    of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)[:classes]]
    return [int([*images[correct[images]], *images][0]) for images in of_class]


def votes_right(records: Sequence[Record]) -> NDArray[np.bool_]:
    """Whether the soft votes of all records classify each image correctly, (n,); records without votes are ignored."""
    correct = np.ones(len(records[0]["labels"]), bool)
    for record in records:
        if "voted" in record:
            correct &= record["voted"] == record["labels"]
    return correct


def image_shown(record: Record, image: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of the test image with this position; plain grey if the record has no images."""
    pixels: NDArray[np.uint8] = record["pixels"][image] if "pixels" in record else np.full((32, 32, 3), 128, np.uint8)
    return pixels


def enlarged(pixels: NDArray[Any], side: int = SIDE) -> NDArray[Any]:
    """The image (H, W, 3), uint8, enlarged to (side, side, 3) without smoothing."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST))


def on_grey(pixels: NDArray[np.uint8], values: NDArray[np.floating], side: int = SIDE) -> NDArray[np.uint8]:
    """Draw a map on the image in grey, so that all colour comes from the map.

    Args:
        pixels: (H, W, 3).
        values: the map (H', W') in [0, 1]; it is enlarged by bilinear interpolation.
        side: width and height of the result in pixels.

    Returns:
        (side, side, 3).
    """
    from PIL import Image

    smooth = np.asarray(Image.fromarray(values.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))
    coloured = Image.fromarray((smooth.clip(0, 1) * 255).round().astype(np.uint8))
    coloured.putpalette(_palette())
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.NEAREST))
    blended = np.float32(ALPHA) * np.asarray(coloured.convert("RGB")) + np.float32(1 - ALPHA) * grey[..., None]
    return blended.round().astype(np.uint8)  # Pillow's own blending would truncate


@cache
def _palette() -> bytes:
    """Red, green and blue of the 256 colours, as Pillow's `putpalette` takes them."""
    from matplotlib import colormaps

    colours: bytes = colormaps[COLOURS](np.arange(256), bytes=True)[:, :3].tobytes()
    return colours
