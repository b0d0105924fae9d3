"""NEU as tests publish it, and what fetching it says."""

import hashlib
import io
import zipfile
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from fdl.core.errors import InputError
from fdl.data import download

NEU = Path("data/raw/official/neu")


def archive(pattern):
    """A ZIP file of 2,048,000 bytes: several chunks."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(zipfile.ZipInfo("images.bin"), (pattern * 8000)[:-118])
    return packed.getvalue()


def image(colour, kind="bmp"):
    """A grey picture of one pixel, as a file."""
    packed = io.BytesIO()
    Image.new("L", (1, 1), colour).save(packed, kind)
    return packed.getvalue()


def table(*values):
    """A parquet file."""
    packed = io.BytesIO()
    parquet.write_table(pyarrow.table({"label": values}), packed)
    return packed.getvalue()


CONTENT = archive(bytes(range(256)))
OTHER = archive(bytes(range(255, -1, -1)))  # as long
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


def fetch(**options):
    """Fetch NEU; what was said."""
    lines = []
    assert download.fetch("neu", say=lines.append, **options) == NEU
    return lines


def refused(**options):
    """Fail to fetch NEU; the one line, and that nothing half-done lies under a file's name."""
    with pytest.raises(InputError) as error:
        fetch(**options)
    assert "\n" not in str(error.value)
    assert not (NEU / "neu.zip").exists() or (NEU / "neu.zip").read_bytes() == CONTENT
    return str(error.value)
