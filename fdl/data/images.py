"""An image as its source holds it, and the one rule by which it becomes pixels."""

import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fdl.errors import InputError

POOLS = ("train", "validation", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_PIL_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
# What PIL raises on damaged bytes, and on images so large that they must be an attack or a mistake.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, TypeError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)

# A file's bytes where the source encodes its images, else uint8 pixels: (H, W) or (H, W, 3).
Content = bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class Record:
    """One image of a source, before it is decoded."""

    pool: str  # the file it stands in: "train", "validation", "test", or "all" where there is only one
    label: int  # index into the classes of the files
    identity: str  # the name that the source gives it
    where: str  # for messages: file and row


@dataclass(frozen=True)
class ImageFiles:
    """The images of a source in their published order."""

    classes: list[str]  # as the files name them, in the files' own order
    records: list[Record]
    contents: Callable[[], Iterator[Content]]  # in the order of `records`, a few in memory at a time


def decode(
    content: Content, size: int, where: str, *, antialias: bool = False, formats: Sequence[str] = _PIL_FORMATS
) -> NDArray[np.uint8]:
    """Decode one image: uint8 RGB, (size, size, 3).

    The rule: EXIF orientation is applied; grey is replicated to three channels, a palette gives its
    colours, transparency is composited on black, 16-bit grey is divided by 257 and rounded; then an
    image of any other size, square or not, is resized by PIL's nearest neighbour, as the authors'
    Keras `load_img` did (docs/reference.md 4.1), or with `antialias` by PIL's bilinear filter, which
    averages over all pixels that fall into one when it shrinks.

    Args:
        content: a file's bytes, or uint8 pixels (H, W) or (H, W, 3).
        formats: PIL's names of those that are read; by default what datasets are published in.

    Raises:
        InputError: the bytes are no readable image of these formats, or of another colour mode (CMYK, …).
    """
    rgb = _decoded(content, where, formats) if isinstance(content, bytes) else Image.fromarray(content).convert("RGB")
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR if antialias else Image.Resampling.NEAREST)
    return np.asarray(rgb)


def _decoded(content: bytes, where: str, formats: Sequence[str]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=tuple(formats)) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
    except UNREADABLE as error:
        raise InputError(f"{where}: not a readable image ({one_line(error)}); replace or remove it") from None
    return _to_rgb(upright, where)


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        if image.has_transparency_data:
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, image.convert("RGBA"))
        return image.convert("RGB")
    raise InputError(f"{where}: colour mode {image.mode} is not read; save the image as RGB or grey")


def stored_size(content: Content, where: str) -> tuple[int, int]:
    """Height and width of an image as its source holds it, from its header alone.

    Raises:
        InputError: the bytes are no readable image.
    """
    if not isinstance(content, bytes):
        return content.shape[0], content.shape[1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `decode` refuses it
            with Image.open(BytesIO(content), formats=_PIL_FORMATS) as image:
                return image.height, image.width
    except UNREADABLE as error:
        raise InputError(f"{where}: not a readable image ({one_line(error)}); replace or remove it") from None


def one_line(error: Any) -> str:
    """The first line of a library's message, with the name of the error where it says nothing else."""
    text = re.sub(r"\s*<[^<>]* object at 0x[0-9a-f]+>", "", str(error))  # such as PIL's own buffer
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]
