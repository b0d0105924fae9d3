"""Reads a folder to the end, or says how it is refused."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fdl.core.errors import InputError
from fdl.data.formats import Expected, open_images
from fdl.data.images import Content, ImageFiles, open_picture, resized


def decode(content: Content, size: int, where: str, *, antialias: bool = False) -> NDArray[np.uint8]:
    """One image as `prepare` decodes it: uint8 RGB, (size, size, 3)."""
    return resized(open_picture(content, where), size, antialias=antialias)


def read_all(
    folder: Path, expected: Expected | None = None, *, size: int = 16
) -> tuple[ImageFiles, list[NDArray[np.uint8]]]:
    """The files of a folder, and all of its images decoded."""
    files = open_images(folder, expected)
    contents = zip(files.records, files.contents(), strict=True)
    return files, [decode(content, size, record.where) for record, content in contents]


def refusal(folder: Path, expected: Expected | None = None) -> str:
    """The one line that a folder is refused with: it names what lies there, and nothing has changed there."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError) as error:
        read_all(folder, expected)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500 + len(str(folder))
    assert message.startswith(str(folder))
    assert "; " in message, "says nothing about what to do"
    assert sorted(folder.rglob("*")) == before
    return message
