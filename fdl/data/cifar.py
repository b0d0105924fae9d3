"""Reads CIFAR-10 and CIFAR-100 as published: Python pickles, or binary files.

Both hold 32×32 images as red, green and blue planes of bytes (docs/datasets.md).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fdl.core.errors import InputError
from fdl.data import pickles
from fdl.data.images import ImageFiles, Record

SIZE = 32  # pixels
_VALUES = 3 * SIZE * SIZE
# The names of the files without their suffix.
_CIFAR10 = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
_CIFAR100 = ("train", "test")


def holds_cifar10_pickles(folder: Path) -> bool:
    """Whether the folder is `cifar-10-batches-py`."""
    return (folder / "batches.meta").is_file() or (folder / "data_batch_1").is_file()


def holds_cifar100_pickles(folder: Path) -> bool:
    """Whether the folder is `cifar-100-python`."""
    return (folder / "meta").is_file() and (folder / "train").is_file()


def holds_cifar10_binary(folder: Path) -> bool:
    """Whether the folder is `cifar-10-batches-bin`."""
    return (folder / "data_batch_1.bin").is_file()


def holds_cifar100_binary(folder: Path) -> bool:
    """Whether the folder is `cifar-100-binary`."""
    return (folder / "train.bin").is_file() and not (folder / "batches.meta.txt").exists()


def read_cifar10_pickles(folder: Path) -> ImageFiles:
    """The images of `data_batch_1` to `data_batch_5` and `test_batch`; names in `batches.meta`.

    Raises:
        InputError: a file is missing, damaged, or holds other arrays than CIFAR's.
    """
    return _read_pickles(folder, _CIFAR10, "batches.meta", "label_names", "labels")


def read_cifar100_pickles(folder: Path) -> ImageFiles:
    """The images of `train` and `test` with their fine labels; names in `meta`.

    Raises:
        InputError: a file is missing, damaged, or holds other arrays than CIFAR's.
    """
    return _read_pickles(folder, _CIFAR100, "meta", "fine_label_names", "fine_labels")


def read_cifar10_binary(folder: Path) -> ImageFiles:
    """The images of `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`; names in `batches.meta.txt`.

    Raises:
        InputError: a file is missing, cut short, or holds an unknown label.
    """
    return _read_binary(folder, _CIFAR10, "batches.meta.txt", labels=1)


def read_cifar100_binary(folder: Path) -> ImageFiles:
    """The images of `train.bin` and `test.bin` with their fine labels; names in `fine_label_names.txt`.

    Raises:
        InputError: a file is missing, cut short, or holds an unknown label.
    """
    return _read_binary(folder, _CIFAR100, "fine_label_names.txt", labels=2)


def _read_pickles(folder: Path, names: Sequence[str], meta: str, names_key: str, labels_key: str) -> ImageFiles:
    classes = _class_names(folder / meta, names_key)
    paths = {name: _present(folder / name) for name in names}
    records: list[Record] = []
    for name, path in paths.items():
        content = pickles.load(path)
        images = _pickled_images(content, path)
        labels = content.get(labels_key)
        if not isinstance(labels, list) or len(labels) != len(images):
            raise InputError(f"{path}: {labels_key!r} is not a list of {len(images)} labels; download it again")
        records += _records(name, path, labels, classes)

    def contents() -> Iterator[NDArray[np.uint8]]:
        for path in paths.values():
            yield from _pickled_images(pickles.load(path), path)

    return ImageFiles(classes, records, contents)


def _present(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: no such file; put the complete folder there")
    return path


def _class_names(path: Path, key: str) -> list[str]:
    names = pickles.load(_present(path)).get(key)
    if isinstance(names, list):
        names = [name.decode("latin-1") if isinstance(name, bytes) else name for name in names]
    return _distinct(names, path, key)


def _distinct(names: object, path: Path, what: str) -> list[str]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: {what!r} is not a list of class names; download it again")
    if len(set(names)) == len(names):
        return names
    raise InputError(f"{path}: {what!r} names a class twice; download it again")


def _pickled_images(content: dict[str, object], path: Path) -> NDArray[np.uint8]:
    """(N, 32, 32, 3)."""
    data = content.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _VALUES:
        held = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise InputError(f"{path}: 'data' is {held}, not uint8 (N, {_VALUES}); download it again")
    return _images(data)


def _images(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return planes.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)


def _records(name: str, path: Path, labels: list[object], classes: list[str]) -> list[Record]:
    pool = "test" if name in ("test", "test_batch") else "train"
    records = []
    for row, label in enumerate(labels):
        where = f"{path} row {row}"
        if type(label) is not int or not 0 <= label < len(classes):
            shown = label if type(label) is int else f"of type {type(label).__name__}"
            raise InputError(f"{where}: label {shown} is not one of 0 to {len(classes) - 1}; download it again")
        records.append(Record(pool, label, f"{name}#{row}", where))
    return records


def _read_binary(folder: Path, names: Sequence[str], meta: str, labels: int) -> ImageFiles:
    """Each image is `labels` bytes, the last of which counts, and the planes."""
    names_file = _present(folder / meta)
    try:
        classes = _distinct(names_file.read_text("ascii").split(), names_file, "the text")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{names_file}: not a list of class names; download it again") from None
    paths = {name: _present(folder / f"{name}.bin") for name in names}
    records: list[Record] = []
    for name, path in paths.items():
        records += _records(name, path, _rows(path, labels)[:, labels - 1].tolist(), classes)

    def contents() -> Iterator[NDArray[np.uint8]]:
        for path in paths.values():
            yield from _images(_rows(path, labels)[:, labels:])

    return ImageFiles(classes, records, contents)


def _rows(path: Path, labels: int) -> NDArray[np.uint8]:
    """(N, labels + 3,072)."""
    row = labels + _VALUES
    size = path.stat().st_size
    if not size or size % row:
        raise InputError(f"{path}: {size:,} bytes, not a number of images of {row:,} bytes each; download it again")
    return np.fromfile(path, np.uint8).reshape(-1, row)
