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

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdl.errors import InputError

SCHEMA_VERSION = 1


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by rename, so that no reader and no kill ever meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def to_json(value: Any) -> bytes:
    """Readable JSON with a stable order and no NaN."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_on_disk(path: Path) -> int:
    """Bytes in a file or folder; links are not followed."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def fresh_folder(record: Path) -> Path:
    """An empty folder beside a record, for `publish` (same file system: files are renamed); leftovers of a kill go."""
    folder = record.with_name(f".{record.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish(temporary: Path, folder: Path, run: dict[str, Any]) -> None:
    """Put a finished record in place: the files of `temporary`, then `run.json` with their hashes, last.

    Args:
        temporary: folder with the record's other files, on the same file system; it is used up.
        folder: the record's folder; an older record in it is replaced.
        run: content of `run.json`; its `schema_version` and `files` are set here.
    """
    files = {path.name: file_hash(path) for path in sorted(temporary.iterdir())}
    content = run | {"schema_version": SCHEMA_VERSION, "files": files}
    folder.mkdir(parents=True, exist_ok=True)
    # An old run.json would vouch for files that are being replaced.
    (folder / "run.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in files:
        os.replace(temporary / name, folder / name)
    write_atomically(folder / "run.json", to_json(content))
    temporary.rmdir()


def read_run(folder: Path) -> dict[str, Any] | None:
    """`run.json` of a record; None where there is no finished record."""
    try:
        run = json.loads((folder / "run.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
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
        InputError: a file is missing or was changed.
    """
    for name in names or run["files"]:
        path, expected = folder / name, run["files"][name]
        if not path.is_file():
            raise InputError(f"{path}: missing from the record; delete {folder} and run the bundle again")
        if file_hash(path) != expected:
            raise InputError(f"{path}: differs from its hash in run.json; delete {folder} and run the bundle again")
