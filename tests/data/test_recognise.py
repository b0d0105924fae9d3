"""What a file is called and what it is."""

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from fdl.data.recognise import check

# Nothing that a packer could shorten to a few bytes.
NOISE = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)


def packed(kind: str) -> bytes:
    """A small file of this kind."""
    buffer = io.BytesIO()
    match kind:
        case "zip":
            with zipfile.ZipFile(buffer, "w") as archive:
                archive.writestr("a.bin", NOISE.tobytes())
        case "tar.gz":
            return gzip.compress(packed("tar"))
        case "tar":
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                entry = tarfile.TarInfo("a.bin")
                entry.size = NOISE.nbytes
                tar.addfile(entry, io.BytesIO(NOISE.tobytes()))
        case "parquet":
            parquet.write_table(pyarrow.table({"image": [NOISE.tobytes()]}), buffer)
        case "pkl":
            return pickle.dumps({"image_data": NOISE})
        case "h5":
            with h5py.File(buffer, "w") as file:
                file["images"] = NOISE
        case _:
            Image.fromarray(NOISE).save(buffer, kind)
    return buffer.getvalue()


KINDS = {kind: packed(kind) for kind in ("zip", "tar.gz", "tar", "parquet", "pkl", "h5", "png", "jpeg", "bmp")}
PAGES = [b"<!DOCTYPE html>", b"\xef\xbb\xbf\n<HTML>", b"  <head>", b"<?xml version='1.0'?><Error/>"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_what_its_name_says(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"A.{kind.upper()}"
    path.write_bytes(KINDS[kind])
    check(path)


@pytest.mark.parametrize("name", [f"a.{kind}" for kind in (*KINDS, "rar", "bin", "csv")])
def test_a_page_and_an_empty_file_are_nothing(tmp_path: Path, name: str) -> None:
    for content in PAGES:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="it is a web page, perhaps one that asks to log in"):
            check(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="it is empty"):
        check(tmp_path / name)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "parquet", "pkl", "h5"])
def test_half_a_file_is_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    for length in (len(KINDS[kind]) // 2, len(KINDS[kind]) - 1):
        path.write_bytes(KINDS[kind][:length])
        with pytest.raises(ValueError, match="that can be read to its end"):
            check(path)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_damage_is_a_reason_or_is_not_seen(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(KINDS[kind])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        check(path)
    except ValueError as error:
        assert str(error).startswith("it ")  # noqa: PT017 - both outcomes are right
