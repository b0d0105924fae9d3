"""A record is whole or not there."""

import shutil
from contextlib import suppress

import pytest

from fdl.core import files
from fdl.core.errors import InputError
from fdl.results import records
from tests.faults.deaths import Died, death_at


def put(folder, **contents):
    temporary = records.fresh_folder(folder)
    for name, content in contents.items():
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


def test_a_glance_sees_what_was_cut_deleted_or_touched_and_reads_nothing_else(tmp_path, monkeypatch):
    folder = tmp_path / "cell"
    put(folder, metrics="some content")
    run = records.read_run(folder)
    with monkeypatch.context() as patch:
        patch.delattr(files, "file_hash")
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
