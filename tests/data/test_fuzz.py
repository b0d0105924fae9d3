"""Damaged files: an image or one line, never a traceback, and never a picture turned wrongly.

A few of each in the suite; `FDL_FUZZ=100 python -m pytest -n 0 tests/data/test_fuzz.py` takes 10,000 EXIF blocks and
2,000 files of every format.
"""

import io
import os
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from fdl.core.errors import InputError
from fdl.data.images import stored_size
from tests.data.published import encoded, pixels
from tests.data.reading import decode

TIMES = int(os.environ.get("FDL_FUZZ", "1"))
BLOCKS, FILES = 100 * TIMES, 20 * TIMES
SIZE = 16
PICTURE = pixels(7, SIZE)
DEEP = np.random.default_rng(1).integers(0, 4096, (SIZE, SIZE, 3), dtype=np.uint16)
TURNS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image),
}
ENTRY, ORIENTATION = 12, 0x0112


def exif_block(generator, orientation):
    """An EXIF block whose other tags are of any type, length and place; and where its orientation's entry stands."""
    order = "<>"[generator.integers(2)]
    numbers = generator.choice(np.array([0x010E, 0x010F, 0x0110, 0x011A, 0x0128, 0x0132, 0x8769, 0x8825]), 4, False)
    numbers = sorted({int(number) for number in numbers} | {ORIENTATION})
    entries, position = [], 0
    for place, number in enumerate(numbers):
        if number == ORIENTATION:
            position = 10 + ENTRY * place
            entries.append(struct.pack(f"{order}HHIHH", number, 3, 1, orientation, 0))
        else:
            kind, count = int(generator.integers(0, 14)), int(generator.choice([0, 1, 2, 5, 300, 2**31, 2**32 - 1]))
            value = int(generator.choice([0, 1, 8, 70, 5000, 2**32 - 1]))
            entries.append(struct.pack(f"{order}HHII", number, kind, count, value))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(numbers))
    values = generator.bytes(int(generator.integers(0, 80)))
    return bytearray(head + b"".join(entries) + struct.pack(f"{order}I", 0) + values), position


def with_exif(block):
    """The same picture as JPEG, PNG and WEBP, with this block."""
    block = b"Exif\0\0" + bytes(block)
    return {
        kind: encoded(PICTURE, kind, exif=block, **({"lossless": True} if kind == "WEBP" else {}))
        for kind in ("JPEG", "PNG", "WEBP")
    }


@pytest.fixture(scope="module")
def upright():
    """The picture as each format gives it back without EXIF."""
    plain = {kind: encoded(PICTURE, kind) for kind in ("JPEG", "PNG")}
    plain["WEBP"] = encoded(PICTURE, "WEBP", lossless=True)
    return {kind: decode(content, SIZE, "x") for kind, content in plain.items()}


def test_odd_tags_beside_the_orientation_change_nothing(upright):
    generator = np.random.default_rng(3)
    for number in range(BLOCKS):
        orientation = 1 + number % 8
        block, position = exif_block(generator, orientation)
        for _ in range(int(generator.integers(0, 6))):  # damage that spares what the orientation is found by
            place = int(generator.integers(10, len(block)))
            if not position <= place < position + ENTRY and (place - 10) % ENTRY > 1:
                block[place] ^= 1 << int(generator.integers(8))
        block = block[: int(generator.integers(position + ENTRY, len(block) + 1))]
        for kind, content in with_exif(block).items():
            turned = decode(content, SIZE, "x")
            np.testing.assert_array_equal(turned, TURNS[orientation](upright[kind]), err_msg=f"{number} {kind}")


def test_exif_damaged_anywhere_leaves_the_picture_in_one_of_its_eight_turns(upright):
    generator = np.random.default_rng(4)
    for number in range(BLOCKS):
        block, _ = exif_block(generator, 1 + number % 8)
        for place in generator.integers(0, len(block), int(generator.integers(1, 9))):
            block[place] ^= 1 << int(generator.integers(8))
        block = block[: int(generator.integers(1, len(block) + 1))]
        for kind, content in with_exif(block).items():
            got = decode(content, SIZE, "x")
            assert any(np.array_equal(got, turn(upright[kind])) for turn in TURNS.values()), f"{number} {kind}"


def deep(suffix, values=DEEP):
    return cv2.imencode(suffix, values)[1].tobytes()


def animation(kind):
    frames = [Image.fromarray(pixels(seed, SIZE)) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


KINDS = {
    **{kind: encoded(PICTURE, kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")},
    "progressive JPEG": encoded(PICTURE, "JPEG", progressive=True),
    "JPEG with EXIF": with_exif(exif_block(np.random.default_rng(0), 6)[0])["JPEG"],
    "LZW TIFF": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    "deflated TIFF": encoded(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "PNG of 16 bits": deep(".png"),
    "grey PNG of 16 bits": deep(".png", DEEP[..., 0]),
    "TIFF of 16 bits": deep(".tif"),
    "PPM of 16 bits": deep(".ppm"),
    "PGM of 16 bits": deep(".pgm", DEEP[..., 0]),
    "transparent PNG": encoded(np.dstack([PICTURE, PICTURE[..., :1]])),
    "PNG with a palette": encoded(Image.fromarray(PICTURE).convert("P")),
    **{f"animated {kind}": animation(kind) for kind in ("GIF", "PNG", "WEBP", "TIFF")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_an_image_or_one_line(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # a flipped bit in a size costs seconds otherwise
    generator, refused = np.random.default_rng(5), 0
    for number in range(FILES):
        content = bytearray(KINDS[kind])
        if number % 2:
            content = content[: int(generator.integers(0, len(content)))]
        else:
            for place in generator.integers(0, len(content), int(generator.integers(1, 9))):
                content[place] ^= 1 << int(generator.integers(8))
        for read in (lambda content: decode(content, SIZE, "b.png").shape == (SIZE, SIZE, 3), size_is_stated):
            try:
                assert read(bytes(content))
            except InputError as error:
                message = str(error)
                assert message.startswith("b.png: ")
                assert "\n" not in message
                assert "_io." not in message
                refused += 1
    assert refused, "nothing was damaged"


def size_is_stated(content):
    return min(stored_size(content, "b.png")) > 0
