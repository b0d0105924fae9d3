"""Decodes all images of a source into one file, and notes what must be said of them."""

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fdl.core.console import Say
from fdl.core.errors import InputError, first_few
from fdl.data import own_images
from fdl.data.images import FULL, ImageFiles, open_picture, resized

_SAY_EVERY = 5.0  # seconds


@dataclass
class Seen:
    """What was seen while images were decoded."""

    digests: NDArray[np.uint64]
    peaks: dict[int, int]  # of the images with 16 bits per channel: the largest value
    white: int = FULL
    pages: list[str] = field(default_factory=list)  # files of several pages
    constant: list[str] = field(default_factory=list)  # of a single colour

    @property
    def notes(self) -> list[str]:
        """What must be said of it."""
        notes = []
        if self.white < FULL:
            notes.append(
                f"the files of 16 bits ({len(self.peaks):,}) hold values up to {max(self.peaks.values()):,}: "
                f"{self.white.bit_length()} bits are in use, {self.white:,} becomes white"
            )
        if self.pages:
            names = first_few(self.pages, own_images.NAMED)
            notes.append(f"files of several pages, of which the first counts: {len(self.pages):,}, {names}")
        if self.constant:
            notes.append(
                f"images of a single colour: {len(self.constant):,}, {first_few(self.constant, own_images.NAMED)}"
            )
        return notes


def decode_all(
    files: ImageFiles,
    path: Path,
    size: int,
    dataset: str,
    say: Say,
    folder: Path,
    *,
    antialias: bool,
    own: bool,
) -> Seen:
    """Decode all images into a file, one in memory at a time.

    Raises:
        InputError: images cannot be read; of the user's own, or where transparency left nothing, all of them.
    """
    count = len(files.records)
    read = Seen(np.empty(count, np.uint64), {})
    unreadable: list[str] = []
    invisible: list[str] = []
    said = time.monotonic()
    with path.open("wb") as file:
        shape = (count, size, size, 3)
        np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for index, (record, content) in enumerate(zip(files.records, files.contents(), strict=True)):
            try:
                picture = open_picture(content, record.where)
            except InputError as error:
                unreadable.append(str(error))
                continue
            image = resized(picture, size, antialias=antialias)
            if picture.peak is not None:
                read.peaks[index] = picture.peak
            if picture.pages:
                read.pages.append(record.identity)
            if own and (image == image[0, 0]).all():
                (invisible if picture.transparent else read.constant).append(record.identity)
            read.digests[index] = digests_of(image[None])[0]
            file.write(image.tobytes())
            if time.monotonic() - said >= _SAY_EVERY:
                say(f"{dataset}: {index + 1:,} of {count:,} images read")
                said = time.monotonic()
    if unreadable:
        raise InputError(first_few(unreadable, own_images.NAMED, "; "))
    own_images.check_transparency(invisible, folder)
    if own and read.peaks:
        read.white = own_images.white_of(max(read.peaks.values()))
    if read.white < FULL:
        _decode_again(files, path, size, read, antialias=antialias)
    return read


def _decode_again(files: ImageFiles, path: Path, size: int, read: Seen, *, antialias: bool) -> None:
    """Decode the images of 16 bits per channel once more: how many bits are in use is known after all were read."""
    images = np.lib.format.open_memmap(path, mode="r+")
    for index, (record, content) in enumerate(zip(files.records, files.contents(), strict=True)):
        if index in read.peaks:
            picture = open_picture(content, record.where, white=read.white)
            images[index] = resized(picture, size, antialias=antialias)
            read.digests[index] = digests_of(images[index][None])[0]
    images.flush()


def digests_of(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """8 bytes of BLAKE2b of each image's pixels."""
    hashed = [hashlib.blake2b(image.data, digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(hashed), "<u8").astype(np.uint64)
