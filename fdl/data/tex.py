"""Reads TEX: grey patches of carpet in HDF5 files, in either of the two layouts published (docs/datasets.md).

The file knows no photograph, only train and test; patches of one photograph overlap, so this border is kept.
Images are read a few at a time: the larger file holds 72,000 of 64×64 as floats, 1.2 GB.
"""

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.core.errors import InputError
from fdl.data.images import ImageFiles, Record, first_line

_SIZES = (64, 32)  # pixels; the authors used 64
_FILES = ("train", "test")
_BATCH = 256  # images in memory at a time
_STORED_CHUNK = 256 << 20  # bytes that HDF5 may have to unpack to give one image
_MAX_SIDE, _MAX_IMAGES = 1024, 1_000_000  # a larger file does not hold such patches
_COLUMNS = ("index", "indication_type", "indication_value")


def holds_hdf5(folder: Path) -> bool:
    """Whether one of the published HDF5 files is there."""
    return any(_table(folder, size).exists() or _grouped(folder, size).exists() for size in _SIZES)


def _table(folder: Path, size: int, file: str = "train") -> Path:
    return folder / f"{file}{size}.h5"


def _grouped(folder: Path, size: int, file: str = "train") -> Path:
    return folder / f"matchingtDATASET_{file}_{size}.h5"


def read(folder: Path) -> ImageFiles:
    """The images of a train and a test file.

    `train64.h5`: dataset `images` (N, 64, 64, 1), labelled by `train64.csv` with the columns index (row),
    angle, indication_type (class), indication_value (its number), split. `matchingtDATASET_train_64.h5`:
    a group per class, in it an entry per angle with its images. Floats in 0 to 1 become 0 to 255, rounded.

    All of them hold the same patches, so where several lie there, 64 pixels go before 32 and the table
    before the groups.

    Raises:
        InputError: a file is missing, damaged, refers to others, or holds other arrays or labels.
    """
    for size in _SIZES:
        for path_of, read_file in ((_table, _read_table), (_grouped, _read_groups)):
            if path_of(folder, size).exists():
                return _joined([(file, path_of(folder, size, file)) for file in _FILES], read_file)
    raise InputError(f"{folder}: no {_table(folder, 64).name}; put the published files there")


@dataclass(frozen=True)
class _Part:
    """Images of one HDF5 dataset."""

    path: Path
    name: str  # of the dataset in the file
    classes: list[str]  # of each image


def _joined(paths: list[tuple[str, Path]], read_file: Callable[[Path], list[_Part]]) -> ImageFiles:
    for _, path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file; the train and the test file belong together")
    parts = [(file, part) for file, path in paths for part in read_file(path)]
    classes = list(dict.fromkeys(name for _, part in parts for name in part.classes))
    labels = {name: label for label, name in enumerate(classes)}
    records = [
        Record(file, labels[name], f"{part.path.name}/{part.name}#{row}", f"{part.path} {part.name} row {row}")
        for file, part in parts
        for row, name in enumerate(part.classes)
    ]

    def contents() -> Iterator[NDArray[np.uint8]]:
        for _, part in parts:
            yield from _pixels(part)

    return ImageFiles(classes, records, contents)


def _read_table(path: Path) -> list[_Part]:
    with _opened(path) as file:
        count = len(_images(file, "images", path))
    return [_Part(path, "images", _labels(path.with_suffix(".csv"), count, path))]


def _labels(table: Path, count: int, images: Path) -> list[str]:
    """The class of every row of the images."""
    if not table.is_file():
        raise InputError(f"{table}: no such file; it holds the labels of {images.name} and belongs beside it")
    classes: list[str] = [""] * count
    values: dict[str, str] = {}
    again = f"download {table.name} and {images.name} again"
    try:
        # A spreadsheet program that saved the table may have put a byte-order mark and semicolons into it.
        with table.open(newline="", encoding="utf-8-sig") as text:
            delimiter = ";" if ";" in text.readline() else ","
            text.seek(0)
            reader = csv.DictReader(text, strict=True, delimiter=delimiter)
            for column in _COLUMNS:
                if column not in (reader.fieldnames or ()):
                    raise InputError(f"{table}: no column {column!r}; download it again")
            for line, row in enumerate(reader, start=2):
                where, index, name = f"{table} line {line}", row["index"] or "", row["indication_type"]
                if not re.fullmatch(r"\d{1,9}", index) or int(index) >= count or classes[int(index)]:
                    raise InputError(f"{where}: index {index[:20]!r} is not one of 0 to {count - 1} once; {again}")
                if not name or values.setdefault(name, row["indication_value"]) != row["indication_value"]:
                    raise InputError(f"{where}: class {(name or '')[:40]!r} has another number than above; {again}")
                classes[int(index)] = name
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a readable table ({first_line(error)}); download it again") from None
    if len(set(values.values())) < len(values):
        raise InputError(f"{table}: two of the classes {', '.join(values)} have one number; download it again")
    if "" in classes:
        raise InputError(f"{table}: no line for image {classes.index('')} of {images.name}; {again}")
    return classes


def _read_groups(path: Path) -> list[_Part]:
    parts = []
    with _opened(path) as file:
        for name in file:
            group = _own(file, name, path)
            if not hasattr(group, "keys"):
                raise InputError(f"{path}: {name!r} is not a group of angles; download it again")
            for angle in sorted(group, key=lambda key: (int(key) if key.isdecimal() else -1, key)):
                place = f"{name}/{angle}"
                entry = _own(file, place, path)
                if hasattr(entry, "keys"):
                    if len(entry) != 1:
                        raise InputError(f"{path}: {place!r} holds {len(entry)} arrays, not one; download it again")
                    place += f"/{next(iter(entry))}"
                parts.append(_Part(path, place, [name] * len(_images(file, place, path))))
    return parts


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An HDF5 file; what h5py says about a bad one becomes one line."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path}: not a readable HDF5 file ({first_line(error)}); download it again") from None


def _own(file: Any, place: str, path: Path) -> Any:
    """What a name in a file stands for, if it lies in this file."""
    import h5py

    link = file.get(place, getlink=True)
    if link is None:
        held = ", ".join(list(file)[:8]) or "nothing"
        raise InputError(f"{path}: no {place!r} (it has {held}); download it again")
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path}: {place!r} is a link; delete the file and download it from its publisher")
    return file[place]


def _images(file: Any, place: str, path: Path) -> Any:
    """The HDF5 dataset `place`: (N, H, W, 1) or (N, H, W), floats or bytes."""
    images = _own(file, place, path)
    shape = getattr(images, "shape", None)
    kind = getattr(images, "dtype", np.dtype(object))
    if not shape or len(shape) not in (3, 4) or shape[3:] not in ((), (1,)) or not all(shape):
        raise InputError(f"{path}: {place!r} is not an array of grey images (N, H, W, 1); download it again")
    if kind.kind != "f" and kind != np.uint8:
        raise InputError(f"{path}: {place!r} holds {kind}, not floats or bytes; download it again")
    if images.is_virtual or images.external:
        raise InputError(f"{path}: {place!r} lies in another file; delete the file and download it from its publisher")
    unpacked = int(np.prod(images.chunks or (0,), dtype=object)) * kind.itemsize
    if shape[0] > _MAX_IMAGES or max(shape[1:3]) > _MAX_SIDE or unpacked > _STORED_CHUNK:
        raise InputError(f"{path}: {place!r} has the absurd size {shape}; delete the file and download it again")
    return images


def _pixels(part: _Part) -> Iterator[NDArray[np.uint8]]:
    """(H, W) each."""
    for start in range(0, len(part.classes), _BATCH):
        with _opened(part.path) as file:
            batch = np.asarray(file[part.name][start : start + _BATCH])
        batch = batch.reshape(batch.shape[:3])
        if batch.dtype != np.uint8:
            if not (batch >= 0).all() or not (batch <= 1).all():  # False for NaN too
                row = start + int(np.argmin(((batch >= 0) & (batch <= 1)).all(axis=(1, 2))))
                raise InputError(f"{part.path} {part.name} row {row}: holds values outside 0 to 1; download it again")
            batch = np.rint(batch * 255).astype(np.uint8)
        yield from batch
