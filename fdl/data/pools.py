"""Which images are for training, which for validation, which for the test: the authors' rules, dataset by dataset.

Nothing here depends on a seed, the number of shots or the image size: every cell of a dataset has the
same pools. The rules and their sources are in docs/reference.md 4.1; where a folder holds fewer images
than were published, the same proportions apply.

- NEU without a test set of its own: by the number in the file's name, 180/60/60 of 300.
- CIFAR-10 and CIFAR-100 with their complete training file: the published pool and validation images
  (`fdl/data/published_splits/`), of which CIFAR-10 has two: one for all backbones, and one of the authors'
  VGG and ResNet alone.
- TEX (`validation_in_test`): validation is cut from the test file, its first 2,400 of 6,000 images per
  class, of which the authors' 400 are drawn; the test set is the rest of that file.
- miniImageNet, published by class (`parted_by_class`): the images of all files are pooled.
- One set of files, or files pooled: a fifth per class, at most the authors' number, is the test set,
  then a fifth of the rest, at most the authors' number, is the validation set; drawn, or for BSD the
  last in file order, as theirs were. What exceeds the authors' training pool is not used.
- Anything else keeps its train, validation and test files; a missing validation set is drawn from the
  training file by the same rule.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.core.errors import InputError
from fdl.core.protocol import DatasetProtocol, images_name
from fdl.data import sources
from fdl.data.images import POOLS, Record

TRAIN, VALIDATION, TEST = range(3)
UNUSED = -1


@dataclass(frozen=True)
class Assignment:
    """What every image of a source is for."""

    pools: NDArray[np.int8]  # (N,): 0 train, 1 validation, 2 test, -1 unused
    order: NDArray[np.int64]  # the images that are used: train, validation, test
    notes: list[str]  # for reports


def assign(
    dataset: str,
    protocol: DatasetProtocol,
    images: Sequence[Record],
    labels: NDArray[np.int16],
    groups: Sequence[str],
    folder: Path,
    own_pool: int | None = None,
) -> Assignment:
    """Give every image its pool, by the rules above.

    Images of one group (a BSD image and its rotated copies) are never parted.

    Args:
        labels: class of every image, in label order.
        groups: name of the group of every image.
        folder: for messages.
        own_pool: images per class in a backbone's own pool (`Params.pool_of`); None: the dataset's.

    Raises:
        InputError: there are no training or no test images, a name holds no number that must, or the
            backbone's own pool is wanted of anything but the complete training file.
    """
    present = {record.pool for record in images}
    entry = sources.SOURCES.get(dataset)
    if entry and entry.numbered and (len(present) == 1 or "test" not in present):
        numbers = _numbers(images)
        pools = _pools_by_number(numbers)
        return Assignment(pools, np.lexsort((numbers, labels, pools)), [])
    if "all" not in present and not {"train", "test"} <= present:
        raise _lacking(present, folder)
    pools = np.array([TRAIN if record.pool == "all" else POOLS.index(record.pool) for record in images], np.int8)
    if "validation" not in present and (published := _published(images_name(dataset, own_pool), pools, labels)):
        return _published_pools(published, pools, labels, own_pool)
    if own_pool:
        raise InputError(
            f"{folder}: the authors' pool of {own_pool:,} images per class can only be cut from the complete training "
            f"file of {dataset}; set cifar10_pools: shared, and all backbones draw from one pool"
        )
    if entry and entry.parted_by_class and _parted_by_class(pools, labels):
        pools[:] = TRAIN
        present = {"all"}
    notes = []
    if "all" in present:
        notes.append(_cut_all(pools, protocol, labels, groups, thinned=entry is not None))
    elif "validation" not in present and entry and entry.validation_in_test:
        notes.append(_cut_from_test_file(pools, protocol, labels))
    elif "validation" not in present:
        _cut(pools, VALIDATION, (protocol.validation,), labels, groups, in_order=False)
    order = np.argsort(pools, kind="stable")
    return Assignment(pools, order[pools[order] != UNUSED], notes)


def _lacking(present: set[str], folder: Path) -> InputError:
    missing = "train" if "train" not in present else "test"
    (alone, *others) = sorted(present)
    level = "" if others else f", or, to cut all pools from these images, name the folder one level down, {alone}"
    return InputError(
        f"{folder}: no {missing} images (found {', '.join(sorted(present))}); add the {missing} file{level}"
    )


def _numbers(images: Sequence[Record]) -> NDArray[np.int64]:
    numbers = np.zeros(len(images), np.int64)
    for index, record in enumerate(images):
        number = sources.file_number(record.identity)
        if number is None:
            raise InputError(f"{record.where}: the name {record.identity!r} holds no number, which decides the pool")
        numbers[index] = number
    return numbers


def _pools_by_number(numbers: NDArray[np.int64]) -> NDArray[np.int8]:
    last = numbers.max()
    return np.where(5 * numbers <= 3 * last, TRAIN, np.where(5 * numbers <= 4 * last, VALIDATION, TEST)).astype(np.int8)


def _published(name: str, pools: NDArray[np.int8], labels: NDArray[np.int16]) -> dict[str, Any] | None:
    """The published pools of CIFAR-10 or CIFAR-100, where the training file holds the published number per class."""
    path = Path(__file__).parent / "published_splits" / f"{name}.json"
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_bytes())
    counts = np.bincount(labels[pools == TRAIN], minlength=len(content["classes"]))
    return content if (counts == content["images"]).all() and len(counts) == len(content["classes"]) else None


def _published_pools(
    published: dict[str, Any], pools: NDArray[np.int8], labels: NDArray[np.int16], own_pool: int | None
) -> Assignment:
    """Rows in the published order: a draw of `splits.draw` then is a published one."""
    chosen: list[NDArray[np.int64]] = []
    trained = pools == TRAIN
    pools = np.where(trained, np.int8(UNUSED), pools)
    for pool, name in ((TRAIN, "pool"), (VALIDATION, "validation")):
        for label, ranks in enumerate(published[name]):
            images = np.flatnonzero(trained & (labels == label))[ranks]
            pools[images] = pool
            chosen.append(images)
    order = np.concatenate([*chosen, np.flatnonzero(pools == TEST)])
    notes = [f"VGG and ResNet draw from a pool of their own, {own_pool:,} images per class"] if own_pool else []
    return Assignment(pools, order, notes)


def _parted_by_class(pools: NDArray[np.int8], labels: NDArray[np.int16]) -> bool:
    """Whether no class is in two of the files."""
    classes = [set(labels[pools == pool].tolist()) for pool in range(3)]
    return sum(map(len, classes)) == len(set.union(*classes))


def _cut(
    pools: NDArray[np.int8],
    target: int,
    wanted: tuple[int, ...],
    labels: NDArray[np.int16],
    groups: Sequence[str],
    *,
    in_order: bool,
) -> None:
    """Move images from the training pool into another: whole groups, per class `wanted` but at most a fifth.

    They are the last in file order or drawn; a draw depends on the pool, the class and the number of
    images in the files, on nothing else.
    """
    for label in range(labels.max() + 1):
        candidates = np.flatnonzero((labels == label) & (pools == TRAIN)).tolist()
        members: dict[str, list[int]] = {}
        for index in candidates:
            members.setdefault(groups[index], []).append(index)
        chosen = list(members.values())
        if in_order:
            chosen.reverse()
        else:
            random.Random(f"{POOLS[target]} {label}").shuffle(chosen)
        room = min(wanted[label % len(wanted)], max(1, len(candidates) // 5))
        for indices in chosen:
            if len(indices) <= room:
                pools[indices] = target
                room -= len(indices)
            elif in_order:
                break


def _cut_all(
    pools: NDArray[np.int8],
    protocol: DatasetProtocol,
    labels: NDArray[np.int16],
    groups: Sequence[str],
    *,
    thinned: bool,
) -> str:
    """Cut test and validation from one set of files; thinned: keep the authors' number for training. Return a note."""
    in_order = protocol.first_k
    _cut(pools, TEST, protocol.test, labels, groups, in_order=in_order)
    _cut(pools, VALIDATION, (protocol.validation,), labels, groups, in_order=in_order)
    if thinned and protocol.pool:
        _leave_out(pools, TRAIN, protocol.pool, labels)
    return f"validation and test sets are {'the last images of' if in_order else 'drawn from'} the one set of files"


def _cut_from_test_file(pools: NDArray[np.int8], protocol: DatasetProtocol, labels: NDArray[np.int16]) -> str:
    """Draw validation from the first two fifths of each class of the test file; return what must be said of it."""
    for label in range(labels.max() + 1):
        images = np.flatnonzero((labels == label) & (pools == TEST))
        pools[images[: len(images) * 2 // 5]] = VALIDATION
    _leave_out(pools, VALIDATION, protocol.validation, labels)
    return (
        "the published training and test files are kept apart; the photographs that images were cut from "
        "are not recorded, so validation and test images may share some"
    )


def _leave_out(pools: NDArray[np.int8], pool: int, wanted: int, labels: NDArray[np.int16]) -> None:
    """Keep `wanted` images of every class of a pool, drawn; the others are not used."""
    for label in range(labels.max() + 1):
        images = np.flatnonzero((labels == label) & (pools == pool)).tolist()
        random.Random(f"{POOLS[pool]} kept {label}").shuffle(images)
        pools[images[wanted:]] = UNUSED
