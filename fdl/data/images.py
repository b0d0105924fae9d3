"""An image as its source holds it, and the one rule by which it becomes pixels."""

import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from fdl.core.errors import InputError

POOLS = ("train", "validation", "test")
# What cameras, microscopes and browsers write; training and prediction read the same. Not EPS and its like, which run
# programs.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")  # PIL's names of these
FULL = 65_535  # the largest value of 16 bits
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A file's bytes where the source encodes its images, else uint8 pixels: (H, W) or (H, W, 3).
Content = bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class Record:
    """One image of a source, before it is decoded."""

    pool: str  # of the file it comes from: "train", "validation", "test", or "all" where there is only one
    label: int  # index into the classes of the files
    identity: str  # the name that the source gives it
    where: str  # for messages: file and row


@dataclass(frozen=True)
class ImageFiles:
    """The images of a source in their published order."""

    classes: list[str]  # as the files name them, in the files' own order
    records: list[Record]
    contents: Callable[[], Iterator[Content]]  # in the order of `records`, a few in memory at a time


@dataclass(frozen=True)
class Picture:
    """An image at its own size, upright, in 8 bits and RGB, and what was done to make it so."""

    rgb: Image.Image
    peak: int | None = None  # the largest value, where the file holds 16 bits per channel
    pages: bool = False  # the file holds several, of which this is the first
    transparent: bool = False  # parts were transparent and are black now


def open_picture(content: Content, where: str, *, white: int = FULL) -> Picture:
    """Decode one image at its own size.

    The rule: EXIF orientation is applied, and no other tag is looked at; grey is replicated to three channels, a
    palette gives its colours, transparency is composited on black; 16-bit values are divided by white / 255, which
    is 257, and rounded. Of a file of several pages the first counts.

    Args:
        content: a file's bytes, or uint8 pixels (H, W) or (H, W, 3).
        white: the 16-bit value that becomes 255: below 65,535 where a camera fills only 10 or 12 bits.

    Raises:
        InputError: the bytes are no readable image of these formats, or of another colour mode (CMYK, …), or the
            image is larger than PIL takes (178 million pixels).
    """
    if not isinstance(content, bytes):
        return Picture(Image.fromarray(content).convert("RGB"))
    with _opened(content, where) as image:
        pages = image.format != "MPO" and bool(getattr(image, "is_animated", False))  # MPO: a camera's preview
        bits = _bits(image, content)
        image.load()
        deep = _deep_values(image, content) if bits == 16 else None
        turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image))  # of TIFF PIL has applied it
        if deep is None:
            rgb, transparent = _to_rgb(image, where)
        else:
            transparent = deep.ndim == 3 and deep.shape[2] == 4
            rgb = _deep_to_rgb(deep, white)
    upright = rgb if turn is None else rgb.transpose(turn)
    return Picture(upright, None if deep is None else int(_colours(deep).max()), pages, transparent)


def resized(picture: Picture, size: int, *, antialias: bool = False) -> NDArray[np.uint8]:
    """The pixels of a square of this size: uint8 RGB, (size, size, 3).

    An image of any other size, square or not, is resized by PIL's nearest neighbour, as the authors' Keras
    `load_img` did (docs/reference.md 4.1), or with `antialias` by PIL's bilinear filter, which averages over all
    pixels that fall into one when it shrinks.
    """
    rgb = picture.rgb
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR if antialias else Image.Resampling.NEAREST)
    return np.asarray(rgb)


@contextmanager
def _opened(content: bytes, where: str) -> Iterator[Image.Image]:
    """The image that a file's bytes hold; whatever is wrong with them becomes one line."""
    try:
        with warnings.catch_warnings():
            # PIL warns of odd tags, which are not read, and of images of 89 to 178 million pixels: photographs.
            warnings.simplefilter("ignore")
            shown, exif = _exif_hidden(content)
            with Image.open(BytesIO(shown), formats=FORMATS) as image:
                if exif is not None:
                    image.info["exif"] = exif
                yield image
    except InputError:
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"{where}: more than {limit:,} pixels, too many to read; shrink the image") from None
    except UnidentifiedImageError:
        problem = f"in none of the formats {', '.join(FORMATS)}" if content else "the file is empty"
        raise InputError(f"{where}: not a readable image ({problem}); replace or remove it") from None
    except Exception as error:  # a damaged file can fail in any way, and costs itself alone
        raise InputError(f"{where}: not a readable image ({first_line(error)}); replace or remove it") from None


def _exif_hidden(content: bytes) -> tuple[bytes, bytes | None]:
    """A JPEG without the name of its EXIF block, and the block: PIL looks for a resolution there, and may fail at it.

    Other files, and a JPEG without EXIF, are left as they are.
    """
    place = 2 if content.startswith(b"\xff\xd8") else len(content)
    while (
        place + 10 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA
    ):  # where the pixels start
        (length,) = struct.unpack_from(">H", content, place + 2)
        if content[place + 1] == 0xE1 and content[place + 4 : place + 10] == b"Exif\0\0":
            hidden = content[: place + 4] + b"EXIF\0\0" + content[place + 10 :]
            return hidden, content[place + 10 : place + 2 + length]
        place += 2 + length
    return content, None


def _orientation(image: Image.Image) -> int:
    """How an image must be turned, 1 to 8; PIL's own reader stops at the first odd tag, whichever it is.

    Where EXIF says nothing, XMP may, as in PIL.
    """
    block = image.info.get("exif")
    if block is None and isinstance(raw := image.info.get("Raw profile type exif"), str):
        try:
            block = bytes.fromhex("".join(raw.split("\n")[3:]))  # as ImageMagick puts it into PNG
        except ValueError:
            block = None
    if isinstance(block, bytes) and (value := _exif_orientation(block)) is not None:
        return value
    packet = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    text = packet.encode(errors="replace") if isinstance(packet, str) else bytes(packet)
    match = re.search(rb'tiff:Orientation(="|>)([0-9])', text)
    return int(match[2]) if match else 1


def _exif_orientation(block: bytes) -> int | None:
    """The orientation in the first directory of an EXIF block; of other tags not even the length is believed."""
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return None
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for place in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", block, place)
        if tag == _ORIENTATION:
            width = {1: "B", 3: "H", 4: "I"}.get(kind)  # bytes, short and long integers; the standard says short
            return struct.unpack_from(f"{order}{width}", block, place + 8)[0] if width and number == 1 else None
    return None


def _bits(image: Image.Image, content: bytes) -> int:
    """Bits per channel of a file that does not say itself which value is white (PPM does, below 16 bits)."""
    if image.format == "PNG":
        return content[24]
    if image.format == "TIFF":
        stated = getattr(image, "tag_v2", {}).get(0x0102, 8)
        return max(stated) if isinstance(stated, tuple) else int(stated)
    if image.format == "PPM" and isinstance(image, ImageFile):
        (tile,) = image.tile
        stated = tile.args[-1] if isinstance(tile.args, tuple) else tile.args
        return 16 if stated in ("I;16B", FULL) else 8
    return 8


def _deep_values(image: Image.Image, content: bytes) -> NDArray[np.uint16] | None:
    """The values of a file of 16 bits per channel, (H, W) or (H, W, 3 or 4); None: of no colour mode that is read.

    PIL reads such grey images as they are, but of colour only the upper eight bits: nothing of a 12-bit camera's.
    """
    if image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I"):
        return np.asarray(image).astype(np.uint16)
    if image.mode not in ("RGB", "RGBA", "LA"):
        return None
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # else it writes to the terminal by itself
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise ValueError("its 16 bits per channel cannot be read; save it with 8")
    channels = [2, 1, 0, 3] if values.shape[2] == 4 else [2, 1, 0]
    return values[..., channels].astype(np.uint16)


def _colours(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The values without a fourth channel, which is opacity."""
    return values[..., :3] if values.ndim == 3 else values


def _deep_to_rgb(values: NDArray[np.uint16], white: int) -> Image.Image:
    scaled = np.minimum(_colours(values), white) / (white / 255)
    if values.ndim == 3 and values.shape[2] == 4:
        scaled *= values[..., 3:] / FULL
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _to_rgb(image: Image.Image, where: str) -> tuple[Image.Image, bool]:
    """RGB on black, and whether parts were transparent."""
    if image.format == "PPM" and image.mode == "I":  # scaled by PIL from the white that the file states
        return _deep_to_rgb(np.asarray(image).astype(np.uint16), FULL), False
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise InputError(f"{where}: colour mode {image.mode} is not read; save the image as RGB or grey")
    transparent = image.has_transparency_data
    if transparent:
        rgba = image.convert("RGBA")
        transparent = rgba.getchannel("A").getextrema() != (255, 255)
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), rgba)
    return image.convert("RGB"), transparent


def stored_size(content: Content, where: str) -> tuple[int, int]:
    """Height and width of an image as its source holds it, from its header alone.

    Raises:
        InputError: the bytes are no readable image.
    """
    if not isinstance(content, bytes):
        return content.shape[0], content.shape[1]
    with _opened(content, where) as image:
        return image.height, image.width


def first_line(error: Any) -> str:
    """The first line of a library's message, with the name of the error where it says nothing else."""
    text = re.sub(r"\s*<[^<>]* object at 0x[0-9a-f]+>", "", str(error))  # such as PIL's own buffer
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]
