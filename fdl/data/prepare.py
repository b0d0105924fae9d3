"""Turns a dataset's published files into arrays: pixels, labels, pools; the same bytes for the same files."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.core import files, layout
from fdl.core.console import Say, plain
from fdl.core.errors import InputError
from fdl.core.settings import Params
from fdl.data import formats, own_images, sources
from fdl.data.decoding import decode_all, digests_of
from fdl.data.folder_lock import folder_lock
from fdl.data.images import FULL, POOLS, ImageFiles
from fdl.data.locate import Located, locate
from fdl.data.pools import TEST, VALIDATION, assign

_CHUNK = 256  # images copied at a time
_REBUILD = "delete the folder and run `python -m fdl data prepare`"


@dataclass(frozen=True)
class Prepared:
    """A dataset's arrays; rows are in the order train, validation, test, each in file order."""

    folder: Path
    dataset: str
    source: str
    synthetic: bool
    notes: list[str]  # what reports must say about these images
    classes: list[str]  # in label order
    images: NDArray[np.uint8]  # (N, H, W, 3), memory-mapped
    labels: NDArray[np.int16]  # (N,)
    pools: NDArray[np.int8]  # (N,): 0 train, 1 validation, 2 test
    ids: NDArray[np.str_]  # (N,): the source's names
    digests: NDArray[np.uint64]  # (N,): of each image's pixels
    hash: str  # of pixels, labels, pools, classes, size
    white: int = FULL  # the value of 16-bit files that became white
    files: str = ""  # fingerprint of the user's own photographs

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read images into memory: (n, H, W, 3).

        Raises:
            InputError: the pixels are not those that were prepared.
        """
        images = np.ascontiguousarray(self.images[rows])
        damaged = np.flatnonzero(digests_of(images) != self.digests[rows])
        if damaged.size:
            row = int(rows[damaged[0]])
            raise InputError(f"{self.folder / 'images.npy'}: image {row} ({self.ids[row]}) is damaged; {_REBUILD}")
        return images


def prepare(params: Params, dataset: str, pool: int | None = None, *, say: Say = plain) -> Path:
    """Read a dataset's files into `images.npy`, `index.npz` and, last, `dataset.json`; an older copy is replaced.

    Args:
        pool: prepare the dataset with this backbone's own training pool (`Params.pool_of`); None: its usual one.

    Returns:
        The folder, `layout.prepared_folder`.

    Raises:
        InputError: a file is missing, unreadable or in the wrong layout.
    """
    located = locate(params, dataset)
    folder = layout.prepared_folder(params, dataset, pool)
    with folder_lock(folder), files.replacing(folder) as temporary:
        _write(params, dataset, pool, located, temporary, say)
    return folder


def _write(params: Params, dataset: str, pool: int | None, located: Located, folder: Path, say: Say) -> None:
    source = params.source_of(dataset)
    synthetic, own = source == "synthetic", source == "own"
    fingerprint = own_images.fingerprint(located.folder) if own else ""
    opened = _open(params, dataset, located, own=own)
    classes, label_of = sources.label_order(dataset, opened.classes, synthetic=synthetic, where=located.folder)
    labels = np.array([label_of[record.label] for record in opened.records], np.int16)
    groups = [sources.group(dataset, record.identity) for record in opened.records]
    assigned = assign(dataset, params.protocol(dataset), opened.records, labels, groups, located.folder, pool)
    pools, order = assigned.pools, assigned.order

    decoded = folder / "decoded.npy"
    size, antialias = params.image_size_of(dataset), params.antialias_of(dataset)
    seen = decode_all(opened, decoded, size, dataset, say, located.folder, antialias=antialias, own=own)
    kept = order[_first_kept(seen.digests[order], pools[order])]
    removed = {POOLS[pool]: int((pools[order] == pool).sum() - (pools[kept] == pool).sum()) for pool in range(3)}
    _copy_rows(decoded, folder / "images.npy", kept)
    decoded.unlink()

    ids = np.array([record.identity for record in opened.records])
    duplicates = _duplicates(seen.digests, order, ids, [classes[label] for label in labels], pools, set(kept.tolist()))
    if own:
        own_images.check_labels(duplicates, located.folder)
    labels, pools, digests, ids = labels[kept], pools[kept], seen.digests[kept], ids[kept]
    names = {"ids": ids, "groups": np.array(groups)[kept]}
    np.savez_compressed(folder / "index.npz", allow_pickle=False, labels=labels, pools=pools, digests=digests, **names)
    counts = _counts(labels, pools, classes, located.folder, duplicates)
    notes = [*located.notes, *assigned.notes, *seen.notes]
    if source == "official" or not located.notes:  # twins and crops are no subset of what was opened
        notes += sources.content_notes(dataset, opened.records)
    if any(removed.values()):
        notes.append(f"left out as exact duplicates: {removed['validation']} validation, {removed['test']} test images")
    extra: dict[str, Any] = {}
    if own:
        images = np.load(folder / "images.npy", mmap_mode="r")
        places = [_place(ids[row], classes[labels[row]], int(pools[row])) for row in range(len(ids))]
        copies, warnings = own_images.near_copies(images, labels, pools, places)
        notes += warnings
        (folder / own_images.receipt(params, dataset, fingerprint).name).touch()
        extra = {"files": fingerprint, "white": seen.white, "near_copies": copies}
    content = {
        "dataset": dataset,
        "source": source,
        "synthetic": synthetic,
        "notes": notes,
        "classes": classes,
        "size": size,
        "resize": "antialiased" if antialias else "nearest neighbour",
        "counts": counts,
        "unused": len(opened.records) - len(order),
        "duplicates_removed": {name: removed[name] for name in ("validation", "test")},
        "duplicates": duplicates,
        "hash": _content_hash(digests, labels, pools, classes, size),
        **extra,
    }
    files.write_atomically(folder / "dataset.json", files.to_json(content))
    _say_what_is_there(content, layout.prepared_folder(params, dataset, pool) / "dataset.json", say)


def _open(params: Params, dataset: str, located: Located, *, own: bool) -> ImageFiles:
    """The image files of a dataset, unread; of the user's own, checked."""
    with folder_lock(layout.RAW / params.source_of(dataset) / dataset):  # another job may be extracting the archive
        unpacked = layout.extracted_folder(params, dataset)
        opened = formats.open_images(located.folder, located.expected, own=own, unpacked=unpacked)
    if own:
        own_images.check_classes(opened.classes, located.folder)
        own_images.check_numbers(params, dataset, opened.classes, opened.records, located.folder)
    return opened


def _say_what_is_there(content: dict[str, Any], path: Path, say: Say) -> None:
    """One line of a prepared dataset; `path`: where its `dataset.json` will stand."""
    totals = ", ".join(f"{sum(content['counts'][name].values()):,} {name}" for name in POOLS)
    notes = list(content["notes"])
    if content["duplicates"]:
        notes.append(f"images that occur more than once: {len(content['duplicates']):,}, listed in {path}")
    if content.get("near_copies"):
        notes.append(f"near-copies are listed in {path}")
    about = f"{content['dataset']}: {totals} images of {content['size']} px in {len(content['classes'])} classes"
    say("; ".join([about, *notes]))


def _place(identity: str, name: str, pool: int) -> dict[str, Any]:
    return {"id": str(identity), "class": name, "pool": POOLS[pool]}


def _duplicates(
    digests: NDArray[np.uint64],
    order: NDArray[np.int64],
    ids: NDArray[np.str_],
    classes: Sequence[str],
    pools: NDArray[np.int8],
    kept: set[int],
) -> list[list[dict[str, Any]]]:
    """Images with equal pixels, after resizing: a list for every image that occurs more than once."""
    _, numbers, counts = np.unique(digests[order], return_inverse=True, return_counts=True)
    copies: dict[int, list[dict[str, Any]]] = {}
    for number, index in zip(numbers.tolist(), order.tolist(), strict=True):
        if counts[number] > 1:
            place = _place(ids[index], classes[index], int(pools[index]))
            copies.setdefault(number, []).append(place | {"kept": index in kept})
    return list(copies.values())


def _counts(
    labels: NDArray[np.int16],
    pools: NDArray[np.int8],
    classes: Sequence[str],
    folder: Path,
    duplicates: list[list[dict[str, Any]]],
) -> dict[str, dict[str, int]]:
    """Images per pool and class, duplicates left out; every class must be in every pool."""
    left_out = [image for copies in duplicates for image in copies if not image["kept"]]
    counts: dict[str, dict[str, int]] = {name: {} for name in POOLS}
    for pool, pool_name in enumerate(POOLS):
        for label, name in enumerate(classes):
            count = int(((labels == label) & (pools == pool)).sum())
            if not count:
                copies = [image["id"] for image in left_out if (image["pool"], image["class"]) == (pool_name, name)]
                if copies:
                    raise InputError(
                        f"{folder}: all {pool_name} images of class {name!r} equal images of an earlier pool "
                        f"({len(copies):,}, the first {copies[0]!r}); replace them by other images"
                    )
                raise InputError(f"{folder}: no {pool_name} image of class {name!r}; add images of it")
            counts[pool_name][name] = count
    return counts


def _first_kept(digests: NDArray[np.uint64], pools: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which images stay: a validation or test image equal to one of an earlier pool goes."""
    kept = np.ones(len(pools), bool)
    for pool in (VALIDATION, TEST):
        kept &= (pools != pool) | ~np.isin(digests, digests[pools < pool])
    return kept


def _copy_rows(source: Path, target: Path, rows: NDArray[np.int64]) -> None:
    shape = (len(rows), *np.load(source, mmap_mode="r").shape[1:])
    np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape).flush()
    # Maps are opened chunk by chunk: their pages count as this process's memory until they are closed.
    for start in range(0, len(rows), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        np.lib.format.open_memmap(target, mode="r+")[chunk] = np.load(source, mmap_mode="r")[rows[chunk]]


def _content_hash(
    digests: NDArray[np.uint64], labels: NDArray[np.int16], pools: NDArray[np.int8], classes: list[str], size: int
) -> str:
    content = hashlib.sha256(json.dumps([classes, size], ensure_ascii=False).encode())
    for array, kind in ((digests, "<u8"), (labels, "<i2"), (pools, "i1")):
        content.update(np.ascontiguousarray(array, kind).tobytes())
    return content.hexdigest()


def load(folder: Path) -> Prepared:
    """Open a prepared dataset; pixels stay on disk and are checked when they are read.

    Raises:
        InputError: it was not prepared, or a file is damaged.
    """
    try:
        about: dict[str, Any] = json.loads((folder / "dataset.json").read_bytes())
        with (folder / "index.npz").open("rb") as file, np.load(file, allow_pickle=False) as index:
            labels, pools, ids, digests = (index[name] for name in ("labels", "pools", "ids", "digests"))
        size, classes = about["size"], about["classes"]
        if about["hash"] != _content_hash(digests, labels, pools, classes, size):
            raise ValueError("its hash does not fit its content")
        images = _mapped(folder / "images.npy", (len(labels), size, size, 3))
        return Prepared(
            folder, about["dataset"], about["source"], about["synthetic"], about["notes"],
            classes, images, labels, pools, ids, digests, about["hash"],
            about.get("white", FULL), about.get("files", ""),
        )  # fmt: skip
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; run `python -m fdl data prepare`") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{folder}: damaged ({str(error) or type(error).__name__}); {_REBUILD}") from None


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The pixels of `images.npy`; numpy's own words on a file that was cut short name neither it nor a way out."""
    try:
        images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise InputError(
            f"{path}: cut short, or no array of pixels ({path.stat().st_size:,} bytes); {_REBUILD}"
        ) from None
    if images.shape != shape or images.dtype != np.uint8:
        raise InputError(f"{path}: holds {images.dtype} {images.shape}, not uint8 {shape}; {_REBUILD}")
    return images
