"""Tells whether a file is what its name says: by its first bytes, and by reading it to its end once.

Where no hash was published, nothing else stands between a page that asks to log in, or half a file, and the ledger
that would call it the dataset from then on.
"""

import gzip
import pickletools
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

_CHUNK = 1 << 20  # bytes


def check(path: Path) -> None:
    """Read a file once.

    Raises:
        ValueError: it is empty, a web page, of another kind than its name says, or ends early; the message says which.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError("it is empty")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise ValueError("it is a web page, perhaps one that asks to log in")
    name = path.name.lower()
    for suffix, kind, magic, read in _KINDS:
        if name.endswith(suffix):
            if not start.startswith(magic):
                raise ValueError(f"it does not begin as {kind} does")
            try:
                read(path)
            except Exception as error:  # a damaged file can fail in any way
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise ValueError(f"it is not {kind} that can be read to its end") from None
            return


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        if (damaged := packed.testzip()) is not None:
            raise ValueError(damaged)


def _gzip(path: Path) -> None:
    with gzip.open(path) as content:
        while content.read(_CHUNK):
            pass


def _tar(path: Path) -> None:
    with tarfile.open(path, "r:") as packed:
        if not packed.getmembers():
            raise ValueError("no files")


def _parquet(path: Path) -> None:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        for group in range(table.num_row_groups):
            table.read_row_group(group)


def _pickle(path: Path) -> None:
    with path.open("rb") as file:
        for _ in pickletools.genops(file):  # runs nothing
            pass


def _hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path) as file:
        file.visit(lambda name: None)


def _image(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.verify()


def _first_bytes(path: Path) -> None:
    """Nothing here reads more of it."""


# By the end of the name; the first bytes of such a file; what reads it.
_KINDS: tuple[tuple[tuple[str, ...], str, tuple[bytes, ...], Callable[[Path], None]], ...] = (
    ((".zip",), "a ZIP file", (b"PK\x03\x04",), _zip),
    ((".gz", ".tgz"), "a gzip file", (b"\x1f\x8b",), _gzip),
    ((".tar",), "a tar file", (b"",), _tar),
    ((".rar",), "a RAR file", (b"Rar!\x1a\x07",), _first_bytes),
    ((".parquet",), "a parquet file", (b"PAR1",), _parquet),
    ((".pkl", ".pickle"), "a pickle", (b"\x80",), _pickle),
    ((".h5", ".hdf5"), "an HDF5 file", (b"\x89HDF\r\n\x1a\n",), _hdf5),
    ((".png",), "a PNG image", (b"\x89PNG\r\n\x1a\n",), _image),
    ((".jpg", ".jpeg"), "a JPEG image", (b"\xff\xd8\xff",), _image),
    ((".bmp",), "a BMP image", (b"BM",), _image),
)
