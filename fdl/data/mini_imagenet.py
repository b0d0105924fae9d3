"""Reads miniImageNet's pickles: 64, 16 and 20 classes with 600 images each, 84×84 (docs/datasets.md)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.core.errors import InputError
from fdl.data import pickles
from fdl.data.images import ImageFiles, Record

# The second name of the validation file is that of the copies at Kaggle and Google Drive.
_FILES = (("train",), ("validation", "val"), ("test",))


def holds_pickles(folder: Path) -> bool:
    """Whether one of `mini-imagenet-cache-{train,validation,test}.pkl` is there."""
    return any(_path(folder, name).is_file() for names in _FILES for name in names)


def _path(folder: Path, name: str) -> Path:
    return folder / f"mini-imagenet-cache-{name}.pkl"


def read(folder: Path) -> ImageFiles:
    """The images of the three files, as one pool: the files part classes, not the images of a class.

    Classes (WordNet ids) are in the order of the files, images in the order of their arrays.

    Raises:
        InputError: a file is missing or damaged, holds other arrays, or an image without a class or with two.
    """
    paths = []
    for names in _FILES:
        twins = [path for name in names if (path := _path(folder, name)).is_file()]
        if len(twins) != 1:
            what = "is missing" if not twins else f"is there twice, {twins[1].name} too"
            raise InputError(f"{_path(folder, names[0])}: {what}; put exactly the three published files there")
        paths += twins
    classes: list[str] = []
    records: list[Record] = []
    for path in paths:
        content = pickles.load(path)
        labels, names_here = _labels(content.get("class_dict"), len(_images(content, path)), path)
        for name in set(names_here) & set(classes):
            raise InputError(f"{path}: class {name!r} is in another file too; put the three published files there")
        first = len(classes)
        classes += names_here
        records += [
            Record("all", first + int(label), f"{path.name}#{row}", f"{path} row {row}")
            for row, label in enumerate(labels)
        ]
        del content  # before the next file of up to 0.8 GB is read

    def contents() -> Iterator[NDArray[np.uint8]]:
        for path in paths:
            yield from _images(pickles.load(path), path)

    return ImageFiles(classes, records, contents)


def _images(content: dict[str, Any], path: Path) -> NDArray[np.uint8]:
    """(N, H, W, 3)."""
    images = content.get("image_data")
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] != 3
        or not images.size
    ):
        held = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputError(f"{path}: 'image_data' is {held}, not uint8 (N, 84, 84, 3); download it again")
    return images


def _labels(class_dict: object, count: int, path: Path) -> tuple[NDArray[np.int64], list[str]]:
    """The class of every image, and the names of the classes."""
    if not isinstance(class_dict, dict) or not class_dict:
        raise InputError(f"{path}: 'class_dict' is not a dictionary of classes; download it again")
    labels = np.full(count, -1)
    for label, (name, rows) in enumerate(class_dict.items()):
        listed = rows.tolist() if isinstance(rows, np.ndarray) else rows
        if not isinstance(listed, list) or not all(type(row) is int and 0 <= row < count for row in listed):
            raise InputError(f"{path}: class {name!r} does not list rows 0 to {count - 1}; download it again")
        indices = np.array(listed, np.int64)
        if (labels[indices] >= 0).any() or len(np.unique(indices)) < len(indices):
            raise InputError(f"{path}: class {name!r} lists an image twice or one of another class; download it again")
        labels[indices] = label
    if (labels < 0).any():
        raise InputError(f"{path} row {int(np.argmin(labels))}: no class lists this image; download the file again")
    return labels, list(class_dict)
