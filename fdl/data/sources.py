"""What a dataset's entry says of its files: the names of its classes, what belongs together, notes for reports."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from fdl.core.errors import InputError, first_few
from fdl.core.places import Publication
from fdl.core.protocol import DATASETS
from fdl.data.images import Record

SOURCES: dict[str, Publication] = {name: protocol.source for name, protocol in DATASETS.items()}


def label_order(dataset: str, names: Sequence[str], *, synthetic: bool, where: Path) -> tuple[list[str], list[int]]:
    """The dataset's classes in label order, and the label of each of the files' classes.

    Classes are matched by name, never by the order of the files (docs/reference.md 4.1). A synthetic
    twin may have only the first of the protocol's classes; the user's own are sorted by name.

    Args:
        names: the class names in the files.

    Raises:
        InputError: a class is unknown, missing or there twice.
    """
    if dataset not in SOURCES:
        classes = sorted(names)
        return classes, [classes.index(name) for name in names]
    entry, protocol_classes = SOURCES[dataset], DATASETS[dataset].classes
    own = [entry.class_names.get(name, name) for name in names]
    if synthetic:
        classes = list(protocol_classes[: len(names)])
    elif entry.sorted_names:
        classes = sorted(own)
        if len(set(own)) != len(protocol_classes):
            raise InputError(
                f"{where}: {len(set(own))} classes, but {dataset} has {len(protocol_classes)}; complete the files"
            )
    else:
        classes = list(protocol_classes)
    for name, known in zip(names, own, strict=True):
        if known not in classes:
            allowed = first_few(classes, 12)
            raise InputError(f"{where}: unknown class {name!r} for {dataset}; its classes are {allowed}")
    for name in classes:
        if own.count(name) != 1:
            problem = "is missing" if name not in own else "is there twice"
            raise InputError(f"{where}: class {name!r} of {dataset} {problem}; correct the files")
    return classes, [classes.index(name) for name in own]


def file_number(identity: str) -> int | None:
    """The last number in a file's name: 17 for `crazing_17.jpg`."""
    numbers = re.findall(r"\d+", PurePath(identity).stem)
    return int(numbers[-1]) if numbers else None


def group(dataset: str, identity: str) -> str:
    """What an image must not be parted from when pools are drawn: for BSD, the original of a rotated copy."""
    if dataset not in SOURCES or not SOURCES[dataset].rotated_copies:
        return identity
    path = PurePath(identity)
    return str(path.with_name(path.stem.rstrip("_") + path.suffix)) if path.stem.rstrip("_") else identity


def content_notes(dataset: str, records: Sequence[Record]) -> list[str]:
    """What must be said because of what the files hold: their type, and how many were published."""
    if dataset not in SOURCES:
        return []
    entry = SOURCES[dataset]
    suffixes = {PurePath(record.identity).suffix.lower().replace(".jpeg", ".jpg") for record in records}
    notes = [entry.note] if entry.note else []
    notes += [note for suffix, note in entry.suffix_notes.items() if suffixes == {suffix}]
    missing = []
    for files, published in entry.published.items():
        per_class = Counter(
            record.label for record in records if files == "all" or (record.pool == "test") == (files == "test")
        )
        held = max(per_class.values(), default=0)
        if held < published:
            kind = {"train": "training ", "test": "test ", "all": ""}[files]
            missing.append(f"{held:,} of {published:,} {kind}")
    if missing:
        notes.append(f"subset: {'and '.join(missing)}images per class")
        notes += [entry.subset_note] if entry.subset_note else []
    return notes
