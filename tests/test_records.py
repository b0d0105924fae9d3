"""A record is whole or not there."""

import json

import pytest

from fdl import records
from fdl.errors import InputError


def put(folder, **files):
    temporary = folder.with_name(".temporary")
    temporary.mkdir(parents=True)
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


@pytest.mark.parametrize("moved", range(3))
def test_a_kill_between_any_two_renames_leaves_no_record(tmp_path, monkeypatch, moved):
    """run.json goes first and comes last: whatever is found beside it, it vouches for."""
    folder = tmp_path / "cell"
    put(folder, metrics="1", history="1")
    replace, calls = records.os.replace, []

    def replace_some(source, target):
        if len(calls) == moved:
            raise KeyboardInterrupt
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(records.os, "replace", replace_some)
    with pytest.raises(KeyboardInterrupt):
        put(folder, metrics="2", history="2")
    assert records.read_run(folder) is None


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
