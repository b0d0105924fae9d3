"""NEU as tests publish it, and what fetching it says."""

import hashlib
from pathlib import Path

import pytest

from fdl.data import download
from fdl.errors import InputError

NEU = Path("data/raw/official/neu")
CONTENT = bytes(range(256)) * 8000  # 2 MB: several chunks
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
