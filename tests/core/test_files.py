"""A file is written whole or not at all."""

import json
import os
import platform

import pytest

from fdl.core import files


def test_what_writers_that_were_killed_left_goes_with_the_next(tmp_path):
    node = platform.node()
    dead, alive = tmp_path / f".runs.csv.{node}-999999999-1.writing", tmp_path / f".runs.csv.{node}-1-1.writing"
    other, elsewhere = tmp_path / f".a.csv.{node}-999999999-1.writing", tmp_path / ".runs.csv.other-9-1.writing"
    for path in (dead, alive, other, elsewhere):
        path.write_text("half")
    files.write_atomically(tmp_path / "runs.csv", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, other.name, elsewhere.name, "runs.csv"}
    assert files.abandoned_files(tmp_path) == [other]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_that_the_umask_allows(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_full_disk_is_said_with_the_files_own_name(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        files.write_atomically(tmp_path / "runs.csv", b"x")
    assert error.value.filename == str(tmp_path / "runs.csv")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    files.write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_json_does_not_depend_on_the_order_of_keys_and_refuses_nan():
    assert files.to_json({"b": 1, "a": "é"}) == files.to_json({"a": "é", "b": 1})
    assert json.loads(files.to_json({"a": [1.5]})) == {"a": [1.5]}
    with pytest.raises(ValueError, match="JSON compliant"):
        files.to_json(float("nan"))
