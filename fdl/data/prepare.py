"""Turns a dataset's published files into arrays: pixels, labels, pools; the same bytes for the same files."""

import hashlib
import json
import os
import random
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl import layout, records
from fdl.data import formats, sources
from fdl.errors import InputError
from fdl.params import Params
from fdl.reference.protocol import DATASETS

POOLS = formats.POOLS
TRAIN, VALIDATION, TEST = range(3)
_CHUNK = 256  # images copied at a time
_REBUILD = "delete the folder and run `python -m fdl data prepare`"

Say = Callable[[str], None]
_print = partial(print, flush=True)


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

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read images into memory: (n, H, W, 3).

        Raises:
            InputError: the pixels are not those that were prepared.
        """
        images = np.ascontiguousarray(self.images[rows])
        damaged = np.flatnonzero(_digests(images) != self.digests[rows])
        if damaged.size:
            row = int(rows[damaged[0]])
            raise InputError(f"{self.folder / 'images.npy'}: image {row} ({self.ids[row]}) is damaged; {_REBUILD}")
        return images


def prepare(params: Params, dataset: str, *, say: Say = _print) -> Path:
    """Read a dataset's files into `images.npy`, `index.npz` and, last, `dataset.json`; an older copy is replaced.

    Returns:
        The folder, `layout.prepared_folder`.

    Raises:
        InputError: a file is missing, unreadable or in the wrong layout.
    """
    located = sources.locate(params, dataset)
    folder = layout.prepared_folder(params, dataset)
    temporary = folder.with_name(f".{folder.name}.partial")
    with sources.lock(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
        temporary.mkdir(parents=True)
        try:
            _write(params, dataset, located, temporary, say)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write(params: Params, dataset: str, located: sources.Located, folder: Path, say: Say) -> None:
    size, synthetic = params.image_size_of(dataset), params.source == "synthetic"
    files = formats.open_images(located.folder)
    classes, label_of = sources.label_order(dataset, files.classes, synthetic=synthetic, where=located.folder)
    labels = np.array([label_of[record.label] for record in files.records], np.int16)
    groups = [sources.group(dataset, record.identity) for record in files.records]
    pools, pool_notes = _pools(dataset, files.records, labels, groups, located.folder)
    order = _row_order(dataset, files.records, labels, pools)

    decoded = folder / "decoded.npy"
    digests = _decode(files, decoded, size, f"{dataset}: ", say)
    kept = order[_first_kept(digests[order], pools[order])]
    removed = {POOLS[pool]: int((pools[order] == pool).sum() - (pools[kept] == pool).sum()) for pool in range(3)}
    _copy_rows(decoded, folder / "images.npy", kept)
    decoded.unlink()

    labels, pools, digests = labels[kept], pools[kept], digests[kept]
    counts = _counts(labels, pools, classes, located.folder)
    notes = [*located.notes, *pool_notes]
    if not located.notes:  # twins and crops are no subset of what was published
        notes += sources.content_notes(dataset, files.records)
    if any(removed.values()):
        notes.append(f"left out as exact duplicates: {removed['validation']} validation, {removed['test']} test images")
    ids = np.array([files.records[index].identity for index in kept])
    names = {"ids": ids, "groups": np.array([groups[index] for index in kept])}
    np.savez_compressed(folder / "index.npz", allow_pickle=False, labels=labels, pools=pools, digests=digests, **names)
    content = {
        "dataset": dataset,
        "source": params.source,
        "synthetic": synthetic,
        "notes": notes,
        "classes": classes,
        "size": size,
        "counts": counts,
        "duplicates_removed": {name: removed[name] for name in ("validation", "test")},
        "hash": _content_hash(digests, labels, pools, classes, size),
    }
    records.write_atomically(folder / "dataset.json", records.to_json(content))
    totals = ", ".join(f"{sum(counts[name].values()):,} {name}" for name in POOLS)
    say(f"{dataset}: {totals} images of {size} px in {len(classes)} classes" + "".join(f"; {note}" for note in notes))


def _counts(
    labels: NDArray[np.int16], pools: NDArray[np.int8], classes: Sequence[str], folder: Path
) -> dict[str, dict[str, int]]:
    """Images per pool and class; every class must be in every pool."""
    counts: dict[str, dict[str, int]] = {name: {} for name in POOLS}
    for pool, pool_name in enumerate(POOLS):
        for label, name in enumerate(classes):
            count = int(((labels == label) & (pools == pool)).sum())
            if not count:
                raise InputError(f"{folder}: no {pool_name} image of class {name!r}; add images of it")
            counts[pool_name][name] = count
    return counts


def _pools(
    dataset: str, images: Sequence[formats.Record], labels: NDArray[np.int16], groups: Sequence[str], folder: Path
) -> tuple[NDArray[np.int8], list[str]]:
    """The pool of every image.

    Files of their own for train, validation and test are kept. Without a validation file the
    validation set is drawn per class from the training file: the authors' number, but at most 20 % of
    it. One file with numbered names (NEU) is cut by number in the authors' proportions 180/60/60;
    class folders without pools give 20 % (at most the authors' number) to the test set first. Draws
    are the same for every seed, number of shots and image size.

    Returns:
        0 train, 1 validation, 2 test per image; and notes for the report.
    """
    present = {record.pool for record in images}
    if sources.SOURCES[dataset].numbered and len(present) == 1:
        return _pools_by_number(images), []
    if "all" not in present and not {"train", "test"} <= present:
        missing = "train" if "train" not in present else "test"
        raise InputError(f"{folder}: no {missing} images (found {', '.join(sorted(present))}); add the {missing} file")
    pools = np.array([TRAIN if record.pool == "all" else POOLS.index(record.pool) for record in images], np.int8)
    protocol, notes = DATASETS[dataset], []
    if "all" in present:
        _draw_pool(pools, TEST, protocol.test, labels, groups)
        notes.append("test set drawn from the one set of files")
    if "validation" not in present:
        _draw_pool(pools, VALIDATION, (protocol.validation,), labels, groups)
    return pools, notes


def _pools_by_number(images: Sequence[formats.Record]) -> NDArray[np.int8]:
    numbers = np.zeros(len(images), np.int64)
    for index, record in enumerate(images):
        number = sources.file_number(record.identity)
        if number is None:
            raise InputError(f"{record.where}: the name {record.identity!r} holds no number, which decides the pool")
        numbers[index] = number
    return np.where(
        5 * numbers <= 3 * numbers.max(), TRAIN, np.where(5 * numbers <= 4 * numbers.max(), VALIDATION, TEST)
    ).astype(np.int8)


def _draw_pool(
    pools: NDArray[np.int8], pool: int, wanted: tuple[int, ...], labels: NDArray[np.int16], groups: Sequence[str]
) -> None:
    """Move images from the training pool into another: whole groups, per class `wanted` but at most a fifth.

    The draw depends on the pool, the class and the number of images in the files, on nothing else.
    """
    for label in range(labels.max() + 1):
        candidates = np.flatnonzero((labels == label) & (pools == TRAIN)).tolist()
        members: dict[str, list[int]] = {}
        for index in candidates:
            members.setdefault(groups[index], []).append(index)
        shuffled = list(members.values())
        random.Random(f"{POOLS[pool]} {label}").shuffle(shuffled)
        room = min(wanted[label % len(wanted)], max(1, len(candidates) // 5))
        for indices in shuffled:
            if len(indices) <= room:
                pools[indices] = pool
                room -= len(indices)


def _row_order(
    dataset: str, images: Sequence[formats.Record], labels: NDArray[np.int16], pools: NDArray[np.int8]
) -> NDArray[np.int64]:
    """Train, validation, test, each in file order; numbered names by class and number."""
    if not sources.SOURCES[dataset].numbered:
        return np.argsort(pools, kind="stable")
    numbers = np.array([sources.file_number(record.identity) or 0 for record in images])
    return np.lexsort((numbers, labels, pools))


def _decode(
    files: formats.ImageFiles, path: Path, size: int, prefix: str, say: Say, seconds: float = 5.0
) -> NDArray[np.uint64]:
    """Decode all images into a file, one in memory at a time; return their digests."""
    count = len(files.records)
    digests = np.empty(count, np.uint64)
    said = time.monotonic()
    with path.open("wb") as file:
        shape = (count, size, size, 3)
        np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for index, (record, content) in enumerate(zip(files.records, files.contents(), strict=True)):
            image = formats.decode(content, size, record.where)
            digests[index] = _digests(image[None])[0]
            file.write(image.tobytes())
            if time.monotonic() - said >= seconds:
                say(f"{prefix}{index + 1:,} of {count:,} images read")
                said = time.monotonic()
    return digests


def _digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """8 bytes of BLAKE2b of each image's pixels."""
    hashed = [hashlib.blake2b(image.data, digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(hashed), "<u8").astype(np.uint64)


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
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        size, classes = about["size"], about["classes"]
        if about["hash"] != _content_hash(digests, labels, pools, classes, size):
            raise ValueError("its hash does not fit its content")
        if images.shape != (len(labels), size, size, 3) or images.dtype != np.uint8:
            raise ValueError(f"images.npy holds {images.dtype} {images.shape}")
        return Prepared(
            folder, about["dataset"], about["source"], about["synthetic"], about["notes"],
            classes, images, labels, pools, ids, digests, about["hash"],
        )  # fmt: skip
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; run `python -m fdl data prepare`") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{folder}: damaged ({str(error) or type(error).__name__}); {_REBUILD}") from None
