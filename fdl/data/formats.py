"""Finds out in which published layout the images of a folder lie, and opens them.

What is looked for, by file names alone, in this order:

1. a published layout (`LAYOUTS`) in the folder itself; if the names of two fit, that is an error;
2. archives as downloaded (.tar, .tar.gz, .tgz, .zip, .rar): each is extracted once, into
   `<folder>/.extracted/<archive>/`, and looked into in the same way; they may hold one dataset only;
3. where the folder holds one folder and nothing else: what lies in that one;
4. folders of classes.

Files whose names start with a dot, and notes (README, LICENSE, TERMS, …), are passed over everywhere.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fdl.data import archives, cifar, folders, mini_imagenet, parquet, tex
from fdl.data.images import POOLS, Content, ImageFiles, Record, decode, stored_size
from fdl.errors import InputError

__all__ = ["LAYOUTS", "POOLS", "Content", "Expected", "ImageFiles", "Record", "decode", "open_images"]

_DEPTH = 4  # folders in folders, and archives, that are entered


@dataclass(frozen=True)
class Expected:
    """What the official files must hold; None where nothing is known."""

    classes: tuple[str, ...] | None = None  # as the files name them, in any order
    # Images per class in each pool, one number for all classes or one for each: {"train": 5000, "test": 1000},
    # {"all": {"N": 11_075, "P": 10_760}}.
    counts: Mapping[str, int | Mapping[str, int]] | None = None
    shape: tuple[int, int] | None = None  # height and width of every stored image
    total: int | None = None  # images in all files together


@dataclass(frozen=True)
class Layout:
    """One way in which a dataset is published."""

    name: str
    matches: Callable[[Path], bool]  # by the names in a folder alone
    read: Callable[[Path], ImageFiles]


LAYOUTS = (
    Layout("parquet files", lambda folder: bool(parquet.files_in(folder)), parquet.read),
    Layout("CIFAR-10 pickles", cifar.holds_cifar10_pickles, cifar.read_cifar10_pickles),
    Layout("CIFAR-100 pickles", cifar.holds_cifar100_pickles, cifar.read_cifar100_pickles),
    Layout("CIFAR-10 binary files", cifar.holds_cifar10_binary, cifar.read_cifar10_binary),
    Layout("CIFAR-100 binary files", cifar.holds_cifar100_binary, cifar.read_cifar100_binary),
    Layout("miniImageNet pickles", mini_imagenet.holds_pickles, mini_imagenet.read),
    Layout("TEX HDF5 files", tex.holds_hdf5, tex.read),
    Layout("images named by class and number", folders.holds_numbered, folders.read_numbered),
)
# What an archive holds where it is nothing else.
CLASS_FOLDERS = Layout(
    "class folders", lambda _: True, lambda folder: folders.read_classes(folders.only_folder(folder))
)


def open_images(folder: Path, expected: Expected | None = None) -> ImageFiles:
    """List the images of a folder in any of the published layouts, or in class folders (`folders.read_classes`).

    Args:
        expected: what the official files hold; the stored shape is checked as the images are read.

    Raises:
        InputError: the files are in no known layout or in two, cannot be read, a class is empty, or they
            are not what is expected.
    """
    files = _open(folder)
    if not files.records:
        raise InputError(f"{folder}: holds no images; download the files again")
    counts = np.bincount([record.label for record in files.records], minlength=len(files.classes))
    for name, count in zip(files.classes, counts, strict=True):
        if not count:
            raise InputError(f"{folder}: class {name!r} holds no images; add some or remove the class")
    return _checked(files, expected, folder) if expected else files


def _open(folder: Path) -> ImageFiles:
    places = _places(folder, _DEPTH)
    if len(places) > 1:
        found = " and ".join(f"{layout.name} ({place})" for layout, place in places)
        raise InputError(f"{folder}: holds {found}; keep one of them")
    for layout, place in places:
        return layout.read(place)
    return folders.read_classes(folder)


def _places(folder: Path, depth: int) -> list[tuple[Layout, Path]]:
    """The layouts in a folder, each with the folder that its files lie in."""
    found = [(layout, folder) for layout in LAYOUTS if layout.matches(folder)]
    if found or not depth:
        return found
    packed = [path for path in folders.visible(folder) if archives.is_archive(path)]
    if packed:
        inside = [archives.extract_once(path, folder / ".extracted" / path.name) for path in packed]
        return [place for unpacked in inside for place in _places(unpacked, depth - 1) or [(CLASS_FOLDERS, unpacked)]]
    entries = folders.visible(folder)
    return _places(entries[0], depth - 1) if len(entries) == 1 and entries[0].is_dir() else []


def _checked(files: ImageFiles, expected: Expected, folder: Path) -> ImageFiles:
    if expected.classes is not None and set(files.classes) != set(expected.classes):
        odd = sorted(set(files.classes) ^ set(expected.classes))[0]
        problem = "is not published" if odd in files.classes else "is missing"
        raise InputError(f"{folder}: class {odd!r} {problem} in this dataset; download the files again")
    if expected.counts is not None:
        _check_counts(files, expected.counts, folder)
    if expected.total is not None and len(files.records) != expected.total:
        raise InputError(
            f"{folder}: {len(files.records):,} images, but {expected.total:,} are published: "
            "another set of images, or a part; put the official files in its place"
        )
    if expected.shape is None:
        return files
    height, width = expected.shape

    def contents() -> Iterator[Content]:
        for record, content in zip(files.records, files.contents(), strict=True):
            if (stored := stored_size(content, record.where)) != expected.shape:
                raise InputError(
                    f"{record.where}: {stored[0]}×{stored[1]} pixels, but {height}×{width} are published: "
                    "this is another set of images; put the official files in its place"
                )
            yield content

    return replace(files, contents=contents)


def _check_counts(files: ImageFiles, counts: Mapping[str, int | Mapping[str, int]], folder: Path) -> None:
    held = {(record.pool, record.label): 0 for record in files.records}
    for record in files.records:
        held[record.pool, record.label] += 1
    for pool in sorted({record.pool for record in files.records} - set(counts)):
        raise InputError(f"{folder}: holds {pool} images, but only {', '.join(counts)} are published; remove them")
    for pool, published in counts.items():
        for label, name in enumerate(files.classes):
            wanted = published if isinstance(published, int) else published[name]
            if (count := held.get((pool, label), 0)) != wanted:
                place = "" if pool == "all" else f"{pool} "
                raise InputError(
                    f"{folder}: {count:,} {place}images of class {name!r}, but {wanted:,} are published; "
                    "download the files again"
                )
