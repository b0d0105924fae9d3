"""Reads image files from folders: a folder per class, or one folder of files named by class and number.

Every entry of a folder that is read is accounted for: it is read, or it is one of the few kinds that `visible`
leaves out, or the folder is refused with the entry's name.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from fdl.core.errors import InputError
from fdl.data.images import POOLS, SUFFIXES, ImageFiles, Record

# `Cr_17.bmp`, `rolled-in_scale_17.jpg`, `P (17).png`, `P (17)_.png` (a rotated copy), `color 17.png`
_NUMBERED = re.compile(r"(?P<name>.+?)(?:_| )\(?(?P<number>\d+)\)?_?")
# The authors exported TEX as one numbered row of PNG files, 72,000 of its train file and 36,000 of its test file
# (docs/reference.md 4.1); patches of one photograph overlap, so this border is kept.
_TEX_CLASSES = {"color", "cut", "good", "hole", "metal_contamination", "thread"}
_TEX_TRAIN_FILES = 72_000

# What operating systems and tools leave behind, besides all whose name begins with a dot (docs/my-images.md).
_LEFT_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
_LEFT_FOLDERS = frozenset(("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"))
# Notes are texts: never a folder, and never a file that may hold images or labels.
_NOTE = re.compile(r"(README|LICEN[CS]E|TERMS|CITATION)(?![a-z]).*", re.IGNORECASE)
_NOTE_SUFFIXES = ("", ".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".rtf", ".docx", ".bib", ".cff")
_OTHER_ARCHIVES = (".7z", ".gz", ".bz2", ".xz", ".zst", ".tbz2", ".txz", ".cab", ".iso")
# What a folder or a parquet file of a pool may be called, in any case.
POOL_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}


def is_passed_over(path: Path) -> bool:
    """Whether an entry is a leftover of an operating system or a tool, or a note."""
    name = path.name.casefold()
    if name.startswith("."):
        return True
    if path.is_dir():
        return name in _LEFT_FOLDERS
    return name in _LEFT_FILES or bool(_NOTE.fullmatch(path.name) and path.suffix.lower() in _NOTE_SUFFIXES)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without what `is_passed_over`.

    Raises:
        InputError: there is no such folder, or a name in it cannot be stored.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; put the images there")
    paths = [path for path in folder.iterdir() if not is_passed_over(path)]
    for path in paths:
        check_name(path)
    return sorted(paths, key=lambda path: natural(path.name))


def walk(folder: Path) -> Iterator[Path]:
    """All files in a folder and in its folders, sorted, without what `is_passed_over`; links are followed once."""
    entered: set[Path] = set()
    for place, inside, files in os.walk(folder, followlinks=True):
        here = Path(place)
        if here.resolve() in entered:
            inside.clear()
            continue
        entered.add(here.resolve())
        inside[:] = sorted(name for name in inside if not is_passed_over(here / name))
        yield from sorted(path for name in files if not is_passed_over(path := here / name))


def check_name(path: Path) -> None:
    """Names go into JSON files, tables and lines of text.

    Raises:
        InputError: the name is not UTF-8, or holds a line break or another control character.
    """
    shown = str(path.parent).encode(errors="backslashreplace").decode()
    if any("\udc80" <= letter <= "\udcff" for letter in path.name):
        raw = str(os.fsencode(path.name))[2:-1]
        raise InputError(
            f"{shown}: the name '{raw}' in it is not UTF-8 (of an old Windows archive?); rename it, "
            "or all of them with `convmv -f cp1252 -t utf8 -r --notest`"
        )
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in path.name):
        raise InputError(f"{shown}: the name {path.name!a} in it holds a control character; rename it")


def pool_named(name: str) -> str | None:
    """The pool that a folder's or file's name means; None: it is not one of `POOL_WORDS`."""
    return POOL_WORDS.get(name.casefold())


def wrapped(folder: Path) -> Path:
    """The folder below the folders that hold one folder and nothing else; a pool's folder is no wrapper."""
    entries = visible(folder)
    while (
        len(entries) == 1
        and entries[0].is_dir()
        and not pool_named(entries[0].name)
        and any(entry.is_dir() for entry in visible(entries[0]))
    ):
        folder, entries = entries[0], visible(entries[0])
    return folder


def check_distinct(names: Sequence[str], where: Path) -> None:
    """Refuse names that some file systems, or a reader, take for the same.

    Raises:
        InputError: two names differ only in case or in how Unicode writes their letters.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()
        other = seen.setdefault(key, name)
        if other != name:
            if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name):
                shown = f"{other!r} is there twice, as {other!a} and {name!a}: only Unicode's way to write it differs"
            else:
                shown = f"{other!r} and {name!r} differ only in case, width or spaces"
            raise InputError(f"{where}: {shown}; rename one of them, or join them")


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts `P (2)` before `P (10)`; names that differ in leading zeros only have one order too."""
    parts = (part for part in re.split(r"(\d+)", name) if part)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name


def read_classes(folder: Path) -> ImageFiles:
    """The images of class folders: `<pool>/<class>/*`, or `<class>/*` where one folder holds all.

    Classes and files are in natural order. Folders that hold one folder and nothing else are entered, above the
    pools and below them.

    Raises:
        InputError: the folder holds anything else, or a class is empty.
    """
    folder = wrapped(folder)
    entries = visible(folder)
    if not entries:
        raise InputError(f"{folder}: holds no images; {_EXPECTED}")
    for entry in entries:
        if not entry.is_dir():
            raise InputError(f"{entry}: {no_class(entry)}")
    pools = _pools(folder, entries)
    places = [(pool, wrapped(pools[pool])) for pool in POOLS if pool in pools] or [("all", folder)]
    names = {pool: [entry.name for entry in _class_folders(place)] for pool, place in places}
    classes = sorted({name for pool in names for name in names[pool]}, key=natural)
    check_distinct(classes, folder)
    pictures = [
        (pool, label, path)
        for pool, place in places
        for label, name in enumerate(classes)
        for path in _images(place / name)
    ]
    return _files(folder, classes, pictures)


_EXPECTED = "expected a folder per class, or the folders train, validation and test with a folder per class in each"


def _pools(folder: Path, entries: list[Path]) -> dict[str, Path]:
    """The folders of the pools; none where there is a folder per class."""
    pools: dict[str, Path] = {}
    for entry in entries:
        if pool := pool_named(entry.name):
            if pool in pools:
                raise InputError(
                    f"{folder}: {pools[pool].name!r} and {entry.name!r} both mean {pool} images; join them"
                )
            pools[pool] = entry
    other = next((entry for entry in entries if not pool_named(entry.name)), None)
    if pools and other:
        word = next(iter(pools.values())).name
        raise InputError(
            f"{other}: lies beside {word!r}, a word reserved for the images of one pool ({', '.join(POOL_WORDS)}); "
            f"if {word!r} is a class, rename it, if not, move {other.name!r} into the pools"
        )
    return pools


def _class_folders(place: Path) -> list[Path]:
    entries = visible(place)
    for entry in entries:
        if not entry.is_dir():
            raise InputError(f"{entry}: {no_class(entry)}")
    if not entries:
        raise InputError(f"{place}: holds no class folders; {_EXPECTED}")
    return entries


def no_class(path: Path) -> str:
    """What is wrong with a file where class folders are expected, and what to do."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return "an image that lies in no class folder; labels come from folders: put each class's images into its own"
    if suffix == ".parquet":
        return "not called train, validation or test (.parquet, or -00000-of-00001.parquet); rename it or move it away"
    if suffix in _OTHER_ARCHIVES:
        return "an archive of a kind that is not read; unpack it into a folder of its own and move it away"
    return f"no class folder, and no labels are read from it; move it away ({_EXPECTED})"


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, but the class {folder.name!r} has one elsewhere; add its images")
    for path in (paths := visible(folder)):
        if path.is_dir():
            raise InputError(
                f"{path}: a folder within the class {folder.name!r}; put its images one level up, or, where the "
                "classes are these folders, name a folder further down"
            )
        if not path.is_file():
            what = "a link to nothing" if path.is_symlink() else "no file"
            raise InputError(f"{path}: {what}; replace it by an image or remove it")
        if path.suffix.lower() not in SUFFIXES:
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
        if place.is_dir()
        for path in visible(place)
    )


def _numbered_places(folder: Path) -> list[Path]:
    """The folders that hold such images, where nothing else lies beside them than belongs to the published set."""
    entries = visible(folder)
    names = {path.name for path in entries}
    if names == {"IMAGES", "ANNOTATIONS"}:
        return [folder / "IMAGES"]
    pools = [folder / pool for pool in ("train", "validation")]
    if names == {pool.name for pool in pools} and all((pool / "images").is_dir() for pool in pools):
        beside = [path for pool in pools for path in visible(pool) if path.name not in ("images", "annotations")]
        return [] if beside else [name for pool in pools for name in visible(pool / "images")]
    return [] if any(path.is_dir() for path in entries) else [folder]


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
    pictures = [(pools[number >= _TEX_TRAIN_FILES], labels[name], path) for name, number, path in rows]
    return _files(folder, classes, pictures)


def _files(folder: Path, classes: list[str], pictures: list[tuple[str, int, Path]]) -> ImageFiles:
    records = [Record(pool, label, path.relative_to(folder).as_posix(), str(path)) for pool, label, path in pictures]
    return ImageFiles(classes, records, lambda: (path.read_bytes() for _, _, path in pictures))
