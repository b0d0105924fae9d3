"""Finds out in which published layout the images of a folder lie, and opens them.

What is looked for, by file names alone, in this order:

1. a published layout (`LAYOUTS`) in the folder itself; if the names of two fit, that is an error;
2. archives as downloaded (.tar, .tar.gz, .tgz, .zip, .rar): each is extracted once, into a folder of its own, and
   looked into in the same way; they may hold one dataset only;
3. where the folder holds one folder and nothing else: what lies in that one;
4. folders of classes.

Every entry must belong to what was recognised, else the folder is refused with the name of the entry; only the
leftovers of `folders.is_passed_over` may lie anywhere.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fdl.core.errors import InputError
from fdl.data import archives, cifar, folders, mini_imagenet, parquet, tex
from fdl.data.images import Content, ImageFiles, stored_size

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
    names: str  # regular expression of what belongs to it in its folder, read or not


_CIFAR10, _CIFAR100 = r"data_batch_[1-5]|test_batch|batches\.meta", r"train|test|meta|file\.txt~"
_CIFAR10_BINARY = r"(data_batch_[1-5]|test_batch)\.bin|batches\.meta\.txt"
_CIFAR100_BINARY = r"(train|test)\.bin|(fine|coarse)_label_names\.txt"
_MINI = r"mini-imagenet-cache-(train|val|validation|test)\.pkl"
_TEX = r"(train|test)(64|32)\.(h5|csv)|matchingtDATASET_(train|test)_(64|32)\.h5"
LAYOUTS = (
    Layout("parquet files", lambda folder: bool(parquet.files_in(folder)), parquet.read, r"(?i:.*\.parquet)"),
    Layout("CIFAR-10 pickles", cifar.holds_cifar10_pickles, cifar.read_cifar10_pickles, _CIFAR10),
    Layout("CIFAR-100 pickles", cifar.holds_cifar100_pickles, cifar.read_cifar100_pickles, _CIFAR100),
    Layout("CIFAR-10 binary files", cifar.holds_cifar10_binary, cifar.read_cifar10_binary, _CIFAR10_BINARY),
    Layout("CIFAR-100 binary files", cifar.holds_cifar100_binary, cifar.read_cifar100_binary, _CIFAR100_BINARY),
    Layout("miniImageNet pickles", mini_imagenet.holds_pickles, mini_imagenet.read, _MINI),
    Layout("TEX HDF5 files", tex.holds_hdf5, tex.read, _TEX),
)
# For the published datasets alone: in a user's own folder names of files say nothing of classes. These two account
# for every entry themselves.
NUMBERED = Layout("images named by class and number", folders.holds_numbered, folders.read_numbered, ".*")
CLASS_FOLDERS = Layout("class folders", lambda _: True, folders.read_classes, ".*")


def open_images(
    folder: Path, expected: Expected | None = None, *, own: bool = False, unpacked: Path | None = None
) -> ImageFiles:
    """List the images of a folder in any of the published layouts, or in class folders (`folders.read_classes`).

    Args:
        expected: what the official files hold; the stored shape is checked as the images are read.
        own: the folder is the user's own: no class is made of the names of files.
        unpacked: where archives are extracted to; None: `<folder>/.extracted`.

    Raises:
        InputError: the files are in no known layout or in two, cannot be read, a class is empty, something lies
            there that belongs to no layout, or they are not what is expected.
    """
    search = _Search(LAYOUTS if own else (*LAYOUTS, NUMBERED), unpacked or folder / ".extracted")
    places = search.places(folder)
    if len(places) > 1:
        layouts = " and ".join(f"{layout.name} ({place})" for layout, place in places)
        raise InputError(f"{folder}: holds {layouts}; keep one of them")
    ((layout, place),) = places
    _account(layout, place)
    files = layout.read(place)
    if not files.records:
        raise InputError(f"{folder}: holds no images; download the files again")
    folders.check_distinct(files.classes, folder)
    counts = np.bincount([record.label for record in files.records], minlength=len(files.classes))
    for name, count in zip(files.classes, counts, strict=True):
        if not count:
            raise InputError(f"{folder}: class {name!r} holds no images; add some or remove the class")
    return _checked(files, expected, folder) if expected else files


@dataclass(frozen=True)
class _Search:
    """Looks for layouts in a folder, in its archives, and in the one folder that it holds."""

    layouts: tuple[Layout, ...]
    unpacked: Path

    def places(self, folder: Path) -> list[tuple[Layout, Path]]:
        """The layouts in a folder, each with the folder of its files; class folders where there is no other."""
        return self._places(folder, _DEPTH) or [(CLASS_FOLDERS, folder)]

    def _places(self, folder: Path, depth: int) -> list[tuple[Layout, Path]]:
        places = [(layout, folder) for layout in self.layouts if layout.matches(folder)]
        if places or not depth:
            return places
        entries = folders.visible(folder)
        packed = [path for path in entries if archives.is_archive(path)]
        if packed:
            for path in entries:
                if path not in packed:
                    raise InputError(
                        f"{packed[0]}: an archive beside {path.name!r}, and only one of them can be what is meant; "
                        "move the archive away, or the rest"
                    )
            inside = [archives.extract_once(path, self._folder_of(path)) for path in packed]
            return [
                place for content in inside for place in self._places(content, depth - 1) or [(CLASS_FOLDERS, content)]
            ]
        return self._places(entries[0], depth - 1) if len(entries) == 1 and entries[0].is_dir() else []

    def _folder_of(self, archive: Path) -> Path:
        """Where an archive is extracted to; one that came out of another archive lies in that one's folder already."""
        inside = archive.is_relative_to(self.unpacked)
        return (archive.parent / ".extracted" if inside else self.unpacked) / archive.name


def _account(layout: Layout, place: Path) -> None:
    """Whatever lies beside a layout's files would be passed over in silence: it is named instead."""
    entries = folders.visible(place)
    belong = [path.name for path in entries if re.fullmatch(layout.names, path.name)]
    for path in entries:
        if path.suffix.lower() == ".parquet" and path.is_file() and not parquet.is_named(path.name):
            raise InputError(f"{path}: {folders.no_class(path)}")
        if path.name not in belong:
            raise InputError(
                f"{path}: lies beside {layout.name} ({belong[0]}) but does not belong to them; move it away"
            )


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
