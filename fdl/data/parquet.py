"""Reads images from parquet files in the Hugging Face layout."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fdl.core.errors import InputError
from fdl.data.folders import pool_named
from fdl.data.images import POOLS, ImageFiles, Record, first_line

# The second names are those of the Hugging Face mirrors of CIFAR-10 and CIFAR-100.
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")
_BATCH = 256  # rows of a parquet file in memory at a time


# A shard's name may end in the hash that older writers of the Hub added.
_NAME = re.compile(r"(?P<word>[a-z]+)(-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]{8,})?)?", re.IGNORECASE)


def is_named(name: str) -> bool:
    """Whether the name is that of a parquet file, or of a shard of one, that holds the images of a pool."""
    return _named(Path(name)) is not None


def _named(path: Path) -> tuple[str, re.Match[str]] | None:
    match = _NAME.fullmatch(path.stem)
    pool = pool_named(match["word"]) if match else None
    return (pool, match) if match and pool and path.suffix.lower() == ".parquet" else None


def files_in(folder: Path) -> list[tuple[str, Path]]:
    """Pool and path of `train.parquet`, `validation.parquet`, `test.parquet`, or of shards of these.

    `POOL_WORDS` has the other names of the pools.
    """
    if not folder.is_dir():
        return []
    shards = [(named[0], path) for path in sorted(folder.iterdir()) if (named := _named(path)) and path.is_file()]
    return sorted(shards, key=lambda file: POOLS.index(file[0]))


def read(folder: Path) -> ImageFiles:
    """The images of a folder's parquet files.

    Columns `image` (or `img`) struct{bytes, path} and `label` (or `fine_label`) int64; class names stand
    in the schema's `huggingface` metadata.

    Raises:
        InputError: a file is damaged, a shard is missing, a column or a label is wrong.
    """
    paths = files_in(folder)
    _check_shards(paths)
    classes: list[str] = []
    records: list[Record] = []
    for pool, path in paths:
        with _readable(path):
            names, rows = _index(path)
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
            yield from _image_bytes(path)

    return ImageFiles(classes, records, contents)


def _check_shards(paths: list[tuple[str, Path]]) -> None:
    for pool in POOLS:
        held = [path for name, path in paths if name == pool]
        names = [match for path in held if (match := _NAME.fullmatch(path.stem))]
        first = held[0] if held else None
        if first and len({match["word"] for match in names}) > 1:
            raise InputError(
                f"{first.parent}: {first.name} and {held[-1].name} both hold {pool} images; keep those of one name"
            )
        if len(names) == 1 and names[0]["number"] is None:
            continue
        for number, (path, match) in enumerate(zip(held, names, strict=True)):
            if (match["number"], match["count"]) != (f"{number:05d}", f"{len(held):05d}"):
                wanted = f"{match['word']}-{number:05d}-of-{len(held):05d}"
                raise InputError(
                    f"{path.parent}: found {path.name}, expected {wanted}.parquet; "
                    "keep all the shards of one version and nothing else"
                )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what pyarrow says about a bad file into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise InputError(f"{path}: not a readable parquet file ({first_line(error)}); copy it again") from None


def _index(path: Path) -> tuple[list[str], list[tuple[int | None, str | None]]]:
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


def _image_bytes(path: Path) -> Iterator[bytes]:
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
