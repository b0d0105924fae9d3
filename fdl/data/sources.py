"""Where each dataset's files lie, what its classes are called there, and what reports must say about it."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from filelock import FileLock

from fdl import layout
from fdl.data.formats import Record
from fdl.errors import InputError
from fdl.params import Params
from fdl.reference.protocol import DATASETS


@dataclass(frozen=True)
class Entry:
    """One dataset as its publishers name and count it (docs/datasets.md)."""

    folders: tuple[str, ...]  # names below the data folder; the first that exists is read
    published: dict[str, int]  # images per class in the "train" and "test" files, or in "all" of them
    class_names: dict[str, str] = field(default_factory=dict)  # what files call a class: what the protocol calls it
    sorted_names: bool = False  # labels are the files' own class names in sorted order
    numbered: bool = False  # the number in a file's name decides its pool and its place
    rotated_copies: bool = False  # "name_.png" is a rotated copy of "name.png"
    note: str = ""  # always said
    folder_notes: dict[str, str] = field(default_factory=dict)  # said when this folder is read
    suffix_notes: dict[str, str] = field(default_factory=dict)  # said when the images are of this file type
    subset_note: str = ""  # said when the files hold fewer images than were published


SOURCES: dict[str, Entry] = {
    "cifar10": Entry(("cifar10",), {"train": 5000, "test": 1000}),
    "cifar100": Entry(
        ("cifar100",),
        {"train": 500, "test": 100},
        class_names={"cra": "crab"},  # as the Hugging Face mirror spells it
        subset_note="own split",
    ),
    "miniimagenet": Entry(
        ("miniimagenet",), {"all": 600}, sorted_names=True, note="own split: the authors' lists are not published"
    ),
    "neu": Entry(
        ("neu",),
        {"all": 300},
        class_names={
            "Cr": "crazing",
            "In": "inclusion",
            "Pa": "patches",
            "PS": "pitted_surface",
            "RS": "rolled-in_scale",
            "Sc": "scratches",
        },
        numbered=True,
        suffix_notes={".jpg": "NEU-DET JPG copy, not the authors' BMP files"},
    ),
    "bsd": Entry(
        ("bsd", "bsd_crops"),
        {"all": 10_760},
        class_names={"N": "no pitting", "P": "pitting"},
        rotated_copies=True,
        folder_notes={"bsd_crops": "crops around pitting, not the BSD classification set"},
    ),
    "tex": Entry(("tex",), {"all": 18_000}),
}


@dataclass(frozen=True)
class Located:
    """The folder that a dataset is read from, and what reports must say because of it."""

    folder: Path
    notes: tuple[str, ...] = ()


def locate(params: Params, dataset: str) -> Located:
    """The folder with a dataset's files; the synthetic twin is written first if it is not there.

    Raises:
        InputError: the local source has no such folder.
    """
    if params.source == "synthetic":
        return Located(_synthetic_folder(dataset), ("synthetic images",))
    root = params.data_dir or os.environ.get("FDL_DATA_DIR")
    if not root:
        raise InputError(
            f"{dataset}: no folder of images is named; set data_dir in params.yaml or the environment's FDL_DATA_DIR"
        )
    folders = [Path(root).expanduser() / name for name in SOURCES[dataset].folders]
    for folder in folders:
        if folder.is_dir():
            note = SOURCES[dataset].folder_notes.get(folder.name)
            return Located(folder, (note,) if note else ())
    raise InputError(
        f"{folders[0]}: no such folder; put the images of {dataset} there, "
        "or point data_dir in params.yaml (or the environment's FDL_DATA_DIR) to the folder above them"
    )


def _synthetic_folder(dataset: str) -> Path:
    from fdl.data.synthetic import write_twin

    folder = layout.RAW / "synthetic" / dataset
    with lock(folder):
        if not folder.is_dir():
            temporary = folder.with_name(f".{dataset}.partial")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write_twin(dataset, temporary)
            os.replace(temporary, folder)
    return folder


def lock(folder: Path) -> FileLock:
    """Held while a folder is written, so that two processes do not write it at once."""
    locks = layout.SCRATCH / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{'-'.join(folder.parts)}.lock")


def label_order(dataset: str, names: Sequence[str], *, synthetic: bool, where: Path) -> tuple[list[str], list[int]]:
    """The dataset's classes in label order, and the label of each of the files' classes.

    Classes are matched by name, never by the order of the files (docs/reference.md 4.1). A synthetic
    twin may have only the first of the protocol's classes.

    Args:
        names: the class names in the files.

    Raises:
        InputError: a class is unknown, missing or there twice.
    """
    entry, expected = SOURCES[dataset], DATASETS[dataset].classes
    own = [entry.class_names.get(name, name) for name in names]
    if synthetic:
        classes = list(expected[: len(names)])
    elif entry.sorted_names:
        classes = sorted(own)
        if len(set(own)) != len(expected):
            raise InputError(f"{where}: {len(set(own))} classes, but {dataset} has {len(expected)}; complete the files")
    else:
        classes = list(expected)
    for name, known in zip(names, own, strict=True):
        if known not in classes:
            allowed = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
            raise InputError(f"{where}: unknown class {name!r} for {dataset}; its classes are {allowed}")
    for name in classes:
        if own.count(name) != 1:
            problem = "is missing" if name not in own else "is there twice"
            raise InputError(f"{where}: class {name!r} of {dataset} {problem}; correct the files")
    return classes, [classes.index(name) for name in own]


def file_number(identity: str) -> int | None:
    """The last number in a file's name: 17 for `crazing_17.jpg`."""
    found = re.findall(r"\d+", PurePath(identity).stem)
    return int(found[-1]) if found else None


def group(dataset: str, identity: str) -> str:
    """What an image must not be parted from when pools are drawn: for BSD, the original of a rotated copy."""
    if not SOURCES[dataset].rotated_copies:
        return identity
    path = PurePath(identity)
    return str(path.with_name(path.stem.rstrip("_") + path.suffix)) if path.stem.rstrip("_") else identity


def content_notes(dataset: str, records: Sequence[Record]) -> list[str]:
    """What must be said because of what the local files hold: their type, and how many were published."""
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
