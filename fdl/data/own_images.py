"""Checks of a user's own images: unlike published ones, nobody has looked through them before."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.core import layout
from fdl.core.errors import InputError, first_few
from fdl.core.settings import Params
from fdl.data.folders import walk
from fdl.data.images import FULL, Record
from fdl.data.near_copies import NearCopy, Signatures, between_labels, between_pools

NAMED = 5  # of many images or classes


def fingerprint(folder: Path) -> str:
    """Hash of the names, sizes and times of all files in a folder: another one, and they are to be prepared again.

    Empty where there is no such folder.
    """
    if not folder.is_dir():
        return ""
    lines = []
    for path in walk(folder):
        about = path.stat() if path.exists() else path.lstat()  # a link to nowhere has no other
        lines.append(f"{str(path.relative_to(folder))!a} {about.st_size} {about.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def check_classes(classes: Sequence[str], folder: Path) -> None:
    """Refuse images of a single class."""
    if len(classes) < 2:
        raise InputError(
            f"{folder}: holds one class alone, {classes[0]!r}; there is nothing to tell apart: add a folder of images "
            "of another class, or, where the classes are folders within it, name a folder further down"
        )


def check_numbers(params: Params, dataset: str, classes: Sequence[str], images: Sequence[Record], folder: Path) -> None:
    """Refuse classes that are too small to be parted into the shots, a validation and a test set.

    Raises:
        InputError: with how many images each of these classes needs.
    """
    shots = max((bundle.shots for bundle in params.bundles() if bundle.dataset == dataset), default=1)
    pools = {image.pool for image in images}
    pool = "all" if "all" in pools else "train"
    if pool not in pools or (pool == "train" and "test" not in pools):
        return  # `assign` says which set of images is missing
    held = np.bincount([image.label for image in images if image.pool == pool], minlength=len(classes)).tolist()
    parts = {"all": ["test", "validation"], "train": [] if "validation" in pools else ["validation"]}[pool]
    needed = _needed(shots, len(parts))
    small = [f"{name!r} ({count})" for name, count in zip(classes, held, strict=True) if count < needed]
    if small:
        place = f"{folder}: " if pool == "all" else f"{folder}: of the {pool} images "
        wanted = ", ".join([f"{shots} shots", *(f"a {part} set" for part in parts)])
        raise InputError(
            f"{place}{first_few(small, NAMED)} {'has' if len(small) == 1 else 'have'} too few images: each class needs "
            f"{needed}, for {wanted}; add images or ask for fewer shots"
        )


def _needed(shots: int, parts: int) -> int:
    """The fewest images of a class of which that many are left after a fifth, at least one, was taken for each part."""
    count = shots
    while True:
        left = count
        for _ in range(parts):
            left -= max(1, left // 5)
        if left >= shots:
            return count
        count += 1


def check_labels(duplicates: Sequence[Sequence[dict[str, Any]]], folder: Path) -> None:
    """Refuse images that are there under two labels: what is right for one of them is wrong for the other."""
    twice = [copies for copies in duplicates if len({image["class"] for image in copies}) > 1]
    if twice:
        pairs = []
        for copies in twice:
            other = next(image for image in copies if image["class"] != copies[0]["class"])
            pairs.append(f"{copies[0]['id']} ({copies[0]['class']}) = {other['id']} ({other['class']})")
        raise InputError(
            f"{folder}: a contradiction: {len(twice):,} {'photograph lies' if len(twice) == 1 else 'photographs lie'} "
            f"there under two labels, {first_few(pairs, NAMED)}; remove each from the class that it does not belong to"
        )


def check_transparency(constant: Sequence[str], folder: Path) -> None:
    """Refuse images of which transparency left nothing: what is black on a transparent ground is black on black."""
    if constant:
        raise InputError(
            f"{folder}: of {len(constant):,} partly transparent images a single colour is left on the black that "
            f"transparency becomes ({first_few(constant, NAMED)}); flatten them on another colour first, e.g. "
            "`mogrify -background white -alpha remove -alpha off *.png`"
        )


def white_of(peak: int) -> int:
    """The value of 16-bit files that becomes white: all bits in use, at least eight, up to the largest value of all."""
    return min(FULL, (1 << max(8, peak.bit_length())) - 1)


def near_copies(
    images: NDArray[np.uint8],
    labels: NDArray[np.int16],
    pools: NDArray[np.int8],
    entries: Sequence[dict[str, Any]],
) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """Near-copies in the form of the exact ones, and what is to be said of them.

    Args:
        images, labels, pools, entries: of the images that are kept; an entry is what the list says of an image.
    """
    signatures = Signatures(images)
    pairs_by_kind = {
        "validation and test images that look like a copy (saved again, resized, mirrored or turned) of an image in an "
        "earlier pool": between_pools(signatures, pools),
        "images that look like a copy of one under another label": between_labels(signatures, labels),
    }
    all_pairs: list[NearCopy] = list(dict.fromkeys(pair for pairs in pairs_by_kind.values() for pair in pairs))
    notes = [f"{what}: {len(pairs):,}" for what, pairs in pairs_by_kind.items() if pairs]
    return [[entries[pair.other], entries[pair.image]] for pair in all_pairs], notes


def receipt(params: Params, dataset: str, photographs: str | None = None) -> Path:
    """The file that says which photographs are prepared: of others it is missing, and the workflow prepares again.

    Where their folder is not there, such as a share that is not mounted, what was prepared of it counts.

    Args:
        photographs: their fingerprint; None: of those that lie there now.
    """
    own, folder = params.own(dataset), layout.prepared_folder(params, dataset)
    assert own
    start = f"photographs-{hashlib.sha256(f'{own.folder} {own.like}'.encode()).hexdigest()[:8]}-"
    now = fingerprint(own.path) if photographs is None else photographs
    held = sorted(folder.glob(f"{start}*"))
    return held[0] if held and not now else folder / f"{start}{now or 'missing'}"


def changed(params: Params, dataset: str, prepared: str) -> str | None:
    """What to say where photographs were added, removed, renamed or replaced after they were prepared.

    Args:
        prepared: their fingerprint then.
    """
    own = params.own(dataset)
    now = fingerprint(own.path) if own else ""
    if own is None or not now or now == prepared:
        return None
    return (
        f"{own.folder}: the photographs there are not those that were prepared (other names, sizes or times); "
        f"run `python -m fdl data prepare {dataset}`"
    )
