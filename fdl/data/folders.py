"""Reads image files from folders: a folder per class, or one folder of files named by class and number."""

import re
from pathlib import Path

from fdl.data.images import POOLS, SUFFIXES, ImageFiles, Record
from fdl.errors import InputError

# `Cr_17.bmp`, `rolled-in_scale_17.jpg`, `P (17).png`, `P (17)_.png` (a rotated copy), `color 17.png`
_NUMBERED = re.compile(r"(?P<name>.+?)(?:_| )\(?(?P<number>\d+)\)?_?")
# The authors exported TEX as one numbered row of PNG files, 72,000 of its train file and 36,000 of its test file
# (docs/reference.md 4.1); patches of one photograph overlap, so this border is kept.
_TEX_CLASSES = {"color", "cut", "good", "hole", "metal_contamination", "thread"}
_TEX_TRAIN_FILES = 72_000
_NOTES = re.compile(r"(README|LICEN[CS]E|TERMS|CITATION)\b.*|Thumbs\.db|desktop\.ini|__MACOSX", re.IGNORECASE)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without notes and the files that desktops leave behind.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; put the images there")
    paths = (path for path in folder.iterdir() if not path.name.startswith(".") and not _NOTES.fullmatch(path.name))
    return sorted(paths, key=lambda path: natural(path.name))


def only_folder(folder: Path) -> Path:
    """The folder below the folders that hold one folder and nothing else."""
    entries = visible(folder)
    while len(entries) == 1 and entries[0].is_dir() and any(entry.is_dir() for entry in visible(entries[0])):
        folder, entries = entries[0], visible(entries[0])
    return folder


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts `P (2)` before `P (10)`; names that differ in leading zeros only have one order too."""
    parts = (part for part in re.split(r"(\d+)", name) if part)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name


def read_classes(folder: Path) -> ImageFiles:
    """The images of class folders: `<pool>/<class>/*`, or `<class>/*` where one folder holds all.

    Classes and files are in natural order; files are png, jpg, jpeg, bmp or webp.

    Raises:
        InputError: the folder holds anything else, or a class is empty.
    """
    entries = visible(folder)
    pools = [entry for entry in entries if entry.name in POOLS]
    if not entries or not all(entry.is_dir() for entry in entries) or (pools and len(pools) < len(entries)):
        odd = next((entry for entry in entries if not entry.is_dir() or entry.name not in POOLS), None)
        raise InputError(
            f"{folder}: expected parquet files, or only the folders {'/'.join(POOLS)} with a folder per class, "
            f"or only a folder per class{f', found {odd.name}' if odd else ''}; arrange the images so"
        )
    places = [(pool.name, pool) for pool in sorted(pools, key=lambda pool: POOLS.index(pool.name))] or [("all", folder)]
    classes = sorted({entry.name for _, place in places for entry in visible(place)}, key=natural)
    found = [
        (pool, label, path)
        for pool, place in places
        for label, name in enumerate(classes)
        for path in _images(place / name)
    ]
    return _files(folder, classes, found)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with the images of this class; add it or move the file away")
    for path in (paths := visible(folder)):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise InputError(f"{path}: not one of {', '.join(SUFFIXES)} files; convert it or move it away")
    if not paths:
        raise InputError(f"{folder}: the class holds no images; add some or remove the class")
    return paths


def holds_numbered(folder: Path) -> bool:
    """Whether images named by class and number lie in the folder: NEU, BSD and the exported TEX.

    Either in the folder itself, or in `IMAGES` beside `ANNOTATIONS` (NEU-DET), or in `train/images` and
    `validation/images` (NEU-DET as Kaggle has it).
    """
    return any(
        path.suffix.lower() in SUFFIXES and _NUMBERED.fullmatch(path.stem)
        for place in _numbered_places(folder)
        for path in visible(place)
    )


def _numbered_places(folder: Path) -> list[Path]:
    present = {path.name for path in visible(folder) if path.is_dir()}
    if {"IMAGES", "ANNOTATIONS"} <= present:
        return [folder / "IMAGES"]
    kaggle = [folder / pool / "images" for pool in ("train", "validation")]
    if all(place.is_dir() for place in kaggle):
        return [name for place in kaggle for name in visible(place) if name.is_dir()]
    return [] if present else [folder]


def read_numbered(folder: Path) -> ImageFiles:
    """Images named `<class>_17`, `<class> 17` or `<class> (17)`, by class and number, as one pool.

    NEU's pools are drawn by these numbers later (docs/reference.md 4.1), so the two folders of Kaggle's
    copy count for nothing; the complete TEX has the pools of its files. A trailing `_` marks BSD's rotated
    copies and stays in the identity.

    Raises:
        InputError: another file lies there, or a name is there twice.
    """
    named: dict[str, tuple[str, int, Path]] = {}
    for path in (path for place in _numbered_places(folder) for path in visible(place)):
        match = _NUMBERED.fullmatch(path.stem)
        if path.suffix.lower() not in SUFFIXES or not path.is_file() or not match:
            raise InputError(f"{path}: not an image named by class and number like its neighbours; move it away")
        if path.stem in named:
            raise InputError(f"{path}: {path.stem} is there twice; keep one of the files")
        named[path.stem] = match["name"], int(match["number"]), path
    classes = sorted({name for name, _, _ in named.values()}, key=natural)
    labels = {name: label for label, name in enumerate(classes)}
    whole_tex = set(classes) == _TEX_CLASSES and any(number >= _TEX_TRAIN_FILES for _, number, _ in named.values())
    pools = ("train", "test") if whole_tex else ("all", "all")
    rows = sorted(named.values(), key=lambda row: (labels[row[0]], natural(row[2].stem)))
    found = [(pools[number >= _TEX_TRAIN_FILES], labels[name], path) for name, number, path in rows]
    return _files(folder, classes, found)


def _files(folder: Path, classes: list[str], found: list[tuple[str, int, Path]]) -> ImageFiles:
    records = [Record(pool, label, path.relative_to(folder).as_posix(), str(path)) for pool, label, path in found]
    return ImageFiles(classes, records, lambda: (path.read_bytes() for _, _, path in found))
