"""A record is whole or not there."""

import json
import os
import shutil
from contextlib import suppress

import pytest

from fdl import records
from fdl.core.errors import InputError
from tests.faults.deaths import Died, death_at


def put(folder, **files):
    temporary = records.fresh_folder(folder)
    for name, content in files.items():
        (temporary / f"{name}.txt").write_text(content)
    records.publish(temporary, folder, {"status": "done"})


def test_a_published_record_verifies_and_leaves_nothing_beside_it(tmp_path):
    folder = tmp_path / "cell"
    put(folder, metrics="1", history="2")
    run = records.read_run(folder)
    assert run["status"] == "done"
    records.verify(folder, run)
    assert sorted(path.name for path in folder.iterdir()) == ["history.txt", "metrics.txt", "run.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


def test_a_new_record_replaces_every_file_of_the_old_one(tmp_path):
    folder = tmp_path / "cell"
    put(folder, metrics="1", weights="old")
    put(folder, metrics="2")
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.txt", "run.json"]
    assert (folder / "metrics.txt").read_text() == "2"
    records.verify(folder, records.read_run(folder))


@pytest.mark.parametrize("before", [None, "1"])
def test_a_kill_at_any_change_of_files_loses_neither_the_old_record_nor_the_new(tmp_path, monkeypatch, before):
    folder, number, outcomes = tmp_path / "cell", 0, set()
    while True:
        number += 1
        if before:
            put(folder, metrics=before, weights="old")
        with death_at(monkeypatch, number) as calls, suppress(Died):
            put(folder, metrics="2", history="2")
        killed = len(calls) >= number
        records.finish_exchange(folder)
        run = records.read_run(folder)
        if run is not None:
            records.verify(folder, run)
            outcomes.add((folder / "metrics.txt").read_text())
        assert run is not None or (killed and before is None), f"lost at {calls[-1]}, call {number}"
        records.fresh_folder(folder).rmdir()
        assert [path.name for path in tmp_path.iterdir()] == ([] if run is None else ["cell"])
        if not killed:
            break
        shutil.rmtree(folder, ignore_errors=True)
    assert number > 5
    assert outcomes == {"2", *([before] if before else [])}


def test_what_writers_that_were_killed_left_goes_with_the_next(tmp_path):
    node = records.platform.node()
    dead, alive = tmp_path / f".runs.csv.{node}-999999999-1.writing", tmp_path / f".runs.csv.{node}-1-1.writing"
    other, elsewhere = tmp_path / f".a.csv.{node}-999999999-1.writing", tmp_path / ".runs.csv.other-9-1.writing"
    for path in (dead, alive, other, elsewhere):
        path.write_text("half")
    records.write_atomically(tmp_path / "runs.csv", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, other.name, elsewhere.name, "runs.csv"}
    assert records.abandoned_files(tmp_path) == [other]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_that_the_umask_allows(tmp_path, umask):
    before = os.umask(umask)
    try:
        records.write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_full_disk_is_said_with_the_files_own_name(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        records.write_atomically(tmp_path / "runs.csv", b"x")
    assert error.value.filename == str(tmp_path / "runs.csv")


def test_a_glance_sees_what_was_cut_deleted_or_touched_and_reads_nothing_else(tmp_path, monkeypatch):
    folder = tmp_path / "cell"
    put(folder, metrics="some content")
    run = records.read_run(folder)
    with monkeypatch.context() as patch:
        patch.delattr(records, "file_hash")
        records.glance(folder, run)
    path = folder / "metrics.txt"
    path.write_text("some")
    with pytest.raises(InputError, match="differs from its hash"):
        records.glance(folder, run)
    path.write_text("Some content")
    with pytest.raises(InputError, match="differs from its hash"):
        records.glance(folder, run)
    path.unlink()
    with pytest.raises(InputError, match="missing from the record"):
        records.glance(folder, run)
    path.symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="a link"):
        records.glance(folder, run)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_named(tmp_path, damage):
    folder = tmp_path / "cell"
    put(folder, metrics="some content")
    run = records.read_run(folder)
    path = folder / "metrics.txt"
    if damage == "flip":
        path.write_text("Some content")
    elif damage == "truncate":
        path.write_text("some")
    else:
        path.unlink()
    with pytest.raises(InputError) as error:
        records.verify(folder, run)
    assert str(path) in str(error.value)
    assert f"delete {folder} and run the bundle again" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 0}', b"\xff"])
def test_a_damaged_run_json_is_named(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json.*delete the folder and run"):
        records.read_run(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    records.write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        records.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_json_does_not_depend_on_the_order_of_keys_and_refuses_nan():
    assert records.to_json({"b": 1, "a": "é"}) == records.to_json({"a": "é", "b": 1})
    assert json.loads(records.to_json({"a": [1.5]})) == {"a": [1.5]}
    with pytest.raises(ValueError, match="JSON compliant"):
        records.to_json(float("nan"))
