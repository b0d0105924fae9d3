"""Reads image files as they are published: Hugging Face parquet, or folders of classes; decodes them by one rule."""

import json
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fdl.errors import InputError

POOLS = ("train", "validation", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# The second names are those of the Hugging Face mirrors of CIFAR-10 and CIFAR-100.
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")
_PIL_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_BATCH = 256  # rows of a parquet file in memory at a time
# What PIL raises on damaged bytes, and on images so large that they must be an attack or a mistake.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, TypeError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


@dataclass(frozen=True)
class Record:
    """One image of a source, before it is decoded."""

    pool: str  # the file it stands in: "train", "validation", "test", or "all" where there is only one
    label: int  # index into the classes of the files
    identity: str  # the name that the source gives it
    where: str  # for messages: file and row


@dataclass(frozen=True)
class ImageFiles:
    """The images of a source in their published order."""

    classes: list[str]  # as the files name them, in the files' own order
    records: list[Record]
    contents: Callable[[], Iterator[bytes]]  # encoded images, in the order of `records`, a few in memory at a time


def open_images(folder: Path) -> ImageFiles:
    """List the images of a folder: parquet files, or class folders.

    Parquet: `train.parquet`, `validation.parquet`, `test.parquet` (or shards `train-00000-of-00002.parquet`),
    columns `image` (or `img`) struct{bytes, path} and `label` (or `fine_label`) int64, class names in the
    schema's `huggingface` metadata.
    Folders: `<pool>/<class>/*`, or `<class>/*` where one folder holds all; png, jpg, jpeg, bmp, webp.

    Raises:
        InputError: the files are in no such layout, cannot be read, or a class is empty.
    """
    parquet = [
        (pool, path)
        for pool in POOLS
        for path in sorted(folder.glob(f"{pool}*.parquet"))
        if re.fullmatch(rf"{pool}(-\d+-of-\d+)?", path.stem)
    ]
    files = _open_parquet(parquet) if parquet else _open_folders(folder)
    counts = np.bincount([record.label for record in files.records], minlength=len(files.classes))
    for name, count in zip(files.classes, counts, strict=True):
        if not count:
            raise InputError(f"{folder}: class {name!r} holds no images; add some or remove the class")
    return files


def _open_parquet(paths: list[tuple[str, Path]]) -> ImageFiles:
    classes: list[str] = []
    records: list[Record] = []
    for pool, path in paths:
        with _readable(path):
            names, rows = _parquet_index(path)
        if classes and names != classes:
            raise InputError(f"{path}: its class names differ from those of {paths[0][1].name}; use files of one set")
        classes = names
        for row, (label, name) in enumerate(rows):
            where = f"{path} row {row}"
            if label is None or not 0 <= label < len(classes):
                raise InputError(f"{where}: label {label} is not one of 0 to {len(classes) - 1}; correct the file")
            records.append(Record(pool, label, name or f"{path.name}#{row}", where))

    def contents() -> Iterator[bytes]:
        for _, path in paths:
            yield from _parquet_bytes(path)

    return ImageFiles(classes, records, contents)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what pyarrow says about a bad file into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise InputError(f"{path}: not a readable parquet file ({_one_line(error)}); copy it again") from None


def _parquet_index(path: Path) -> tuple[list[str], list[tuple[int | None, str | None]]]:
    """The class names of a parquet file, and label and name of its rows; reads no pixels."""
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        image, label = _column(schema.names, IMAGE_COLUMNS, path), _column(schema.names, LABEL_COLUMNS, path)
        kind = schema.field(image).type
        if not pa.types.is_struct(kind) or {"bytes", "path"} - {field.name for field in kind}:
            raise InputError(f"{path}: column {image!r} is {kind}, not struct{{bytes, path}}; write it in that layout")
        if not pa.types.is_integer(schema.field(label).type):
            raise InputError(f"{path}: column {label!r} is {schema.field(label).type}, not int64; write class indices")
        names = _class_names(schema.metadata, label, path)
        table = file.read(columns=[f"{image}.path", label]).flatten()
    return names, list(zip(table[label].to_pylist(), table[f"{image}.path"].to_pylist(), strict=True))


def _column(present: list[str], allowed: tuple[str, ...], path: Path) -> str:
    for column in allowed:
        if column in present:
            return column
    raise InputError(f"{path}: no column {allowed[0]!r} (it has {', '.join(present)}); add or rename it")


def _class_names(metadata: dict[bytes, bytes] | None, label: str, path: Path) -> list[str]:
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{path}: no class names in the schema metadata (key 'huggingface', info.features.{label}.names); "
            "write the file with a ClassLabel feature"
        )
    return names


def _parquet_bytes(path: Path) -> Iterator[bytes]:
    from pyarrow import parquet

    row = 0
    with parquet.ParquetFile(path) as file:
        image = _column(file.schema_arrow.names, IMAGE_COLUMNS, path)
        batches = file.iter_batches(batch_size=_BATCH, columns=[f"{image}.bytes"])
        while True:
            with _readable(path):
                batch = next(batches, None)
            if batch is None:
                return
            for content in batch.column(image).field("bytes"):
                if not content.is_valid:
                    raise InputError(f"{path} row {row}: holds no image; put the image's bytes into the file")
                yield content.as_py()
                row += 1


def _open_folders(folder: Path) -> ImageFiles:
    entries = _visible(folder)
    pools = [entry for entry in entries if entry.name in POOLS]
    if not entries or not all(entry.is_dir() for entry in entries) or (pools and len(pools) < len(entries)):
        odd = next((entry for entry in entries if not entry.is_dir() or entry.name not in POOLS), None)
        raise InputError(
            f"{folder}: expected parquet files, or only the folders {'/'.join(POOLS)} with a folder per class, "
            f"or only a folder per class{f', found {odd.name}' if odd else ''}; arrange the images so"
        )
    places = [(pool.name, pool) for pool in sorted(pools, key=lambda pool: POOLS.index(pool.name))] or [("all", folder)]
    classes = sorted({entry.name for _, place in places for entry in _visible(place)}, key=_natural)
    records, paths = [], []
    for pool, place in places:
        for label, name in enumerate(classes):
            for path in _images(place / name):
                records.append(Record(pool, label, path.relative_to(folder).as_posix(), str(path)))
                paths.append(path)
    return ImageFiles(classes, records, lambda: (path.read_bytes() for path in paths))


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without the files that desktops leave behind."""
    names = (path for path in folder.iterdir() if path.name not in ("Thumbs.db", "desktop.ini"))
    return sorted((path for path in names if not path.name.startswith(".")), key=lambda path: _natural(path.name))


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with the images of this class; add it or move the file away")
    for path in (paths := _visible(folder)):
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: not one of {', '.join(SUFFIXES)}; convert it or move it away")
    if not paths:
        raise InputError(f"{folder}: the class holds no images; add some or remove the class")
    return paths


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts `P (2)` before `P (10)`; names that differ in leading zeros only have one order too."""
    parts = (part for part in re.split(r"(\d+)", name) if part)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name


def decode(content: bytes, size: int, where: str) -> NDArray[np.uint8]:
    """Decode one image: uint8 RGB, (size, size, 3).

    The rule: EXIF orientation is applied; grey is replicated to three channels, a palette gives its
    colours, transparency is composited on black, 16-bit grey is divided by 257 and rounded; then an
    image of any other size, square or not, is resized by PIL's nearest neighbour, as the authors'
    Keras `load_img` did (docs/reference.md 4.1).

    Raises:
        InputError: the bytes are no readable PNG, JPEG, BMP or WebP, or of another colour mode (CMYK, …).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=_PIL_FORMATS) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
    except _UNREADABLE as error:
        raise InputError(f"{where}: not a readable image ({_one_line(error)}); replace or remove it") from None
    rgb = _to_rgb(upright, where)
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(rgb)


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        if image.has_transparency_data:
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, image.convert("RGBA"))
        return image.convert("RGB")
    raise InputError(f"{where}: colour mode {image.mode} is not read; save the image as RGB or grey")


def _one_line(error: Any) -> str:
    """The first line of a library's message, with the name of the error where it says nothing else."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
