"""A cell's record on disk: written whole or not at all.

`results/<preset>/<dataset>/<backbone>/<k>shot/<method>/seed<s>/` holds

- `run.json`: cell, digests, status, settings, selected epochs, hashes; timings and provenance in
  blocks of their own, since they differ between equal runs,
- `history.parquet`: one row per epoch,
- `predictions.npz`: per selection rule the logits (M, N, C) on training (not augmented), validation and test images,
- `metrics.json`: rows of selection, split, combiner, metric, value,
- `correct.npz`: which test images each member and combiner got right, packed bits; bins of the reliability diagram,
- `cam.npz`: class activation maps and their overlaps; and, if there are, `heads.parquet` and kept weights.

A record that came from an exported archive has no predictions, weights and images; its `left_out` names them.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdl.core import files
from fdl.core.errors import InputError

SCHEMA_VERSION = 1


def fresh_folder(record: Path) -> Path:
    """An empty folder beside a record, for `publish`; an exchange that was interrupted is finished first."""
    finish_exchange(record)
    folder = partial_folder(record)
    with files.named_in_errors(record):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    return folder


def partial_folder(record: Path) -> Path:
    """Where a record is written before it is put in place."""
    return record.with_name(f".{record.name}.partial")


def replaced_folder(record: Path) -> Path:
    """Where the record that is being replaced waits until the new one is in place."""
    return record.with_name(f".{record.name}.replaced")


def publish(temporary: Path, folder: Path, run: dict[str, Any]) -> None:
    """Put a finished record in place: whole, with `run.json`, which holds the hashes and sizes of its files.

    Until the new record is in place the old one is kept, so that no kill between any two steps loses
    either; `finish_exchange` completes what a kill interrupted.

    Args:
        temporary: of `fresh_folder`, with the record's other files; it is used up.
        folder: the record's folder; an older record in it is replaced.
        run: content of `run.json`; its `schema_version`, `files` and `sizes` are set here.
    """
    with files.named_in_errors(folder):
        paths = sorted(temporary.iterdir())
        content = run | {
            "schema_version": SCHEMA_VERSION,
            "files": {path.name: files.file_hash(path) for path in paths},
            "sizes": {path.name: path.stat().st_size for path in paths},
        }
        for path in paths:
            files.sync(path)
        files.write_atomically(temporary / "run.json", files.to_json(content))
        _exchange(temporary, folder)


def finish_exchange(folder: Path) -> None:
    """Complete what a kill interrupted in `publish`; the record's bundle must be locked.

    A partial folder with a `run.json` is a whole record that was about to be put in place.
    """
    if is_whole(partial_folder(folder)):
        _exchange(partial_folder(folder), folder)
    elif not folder.exists() and is_whole(replaced_folder(folder)):
        os.rename(replaced_folder(folder), folder)
    elif folder.exists():
        shutil.rmtree(replaced_folder(folder), ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a record to its last file."""
    return (folder / "run.json").exists()


def _exchange(new: Path, folder: Path) -> None:
    """Put `new` in the place of a record; at any moment one of them is whole, in its place or beside it."""
    with files.signals_held():
        if folder.exists():
            shutil.rmtree(replaced_folder(folder), ignore_errors=True)
            os.rename(folder, replaced_folder(folder))
        os.rename(new, folder)
        files.sync(folder.parent)
    shutil.rmtree(replaced_folder(folder), ignore_errors=True)


def read_run(folder: Path) -> dict[str, Any] | None:
    """`run.json` of a record; None where there is no finished record.

    Raises:
        InputError: it is damaged, a link, or of another schema.
    """
    if (folder / "run.json").is_symlink():
        raise InputError(f"{folder / 'run.json'}: a link; put the file itself there")
    try:
        run = json.loads((folder / "run.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{folder / 'run.json'}: damaged ({error}); delete the folder and run the bundle again"
        ) from None
    if not isinstance(run, dict) or run.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{folder / 'run.json'}: not a record of schema {SCHEMA_VERSION}; delete the folder and run again"
        )
    return run


def verify(folder: Path, run: Mapping[str, Any], *names: str) -> None:
    """Compare the files of a record with the hashes in its `run.json`: those of these names, or all.

    Raises:
        InputError: a file is missing, a link, or was changed.
    """
    for name in names or run["files"]:
        path, recorded = _present(folder, name), run["files"][name]
        if files.file_hash(path) != recorded:
            raise _changed(path, folder)


def glance(folder: Path, run: Mapping[str, Any]) -> None:
    """Check that the files of a record are there and of the recorded sizes; errors as in `verify`.

    A file that is newer than `run.json`, which is written last, was touched since: it is hashed.
    """
    sizes, written = run.get("sizes", {}), (folder / "run.json").stat().st_mtime_ns
    for name in run["files"]:
        path = _present(folder, name)
        status = path.stat()
        if status.st_size != sizes.get(name, status.st_size):
            raise _changed(path, folder)
        if status.st_mtime_ns > written:
            verify(folder, run, name)


def _present(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_symlink():
        raise InputError(f"{path}: a link, which may show another file tomorrow; put the file itself there")
    if not path.is_file():
        raise InputError(f"{path}: missing from the record; delete {folder} and run the bundle again")
    return path


def _changed(path: Path, folder: Path) -> InputError:
    return InputError(f"{path}: differs from its hash in run.json; delete {folder} and run the bundle again")
