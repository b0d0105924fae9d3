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
import platform
import re
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fdl.core.errors import InputError

SCHEMA_VERSION = 1


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by rename, so that no reader and no kill ever meets half of it.

    What a writer that was killed left beside it goes. The file gets the permissions that the umask allows.

    Raises:
        OSError: named after `path`, not after the temporary file.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in abandoned_files(path.parent, path.name):
            leftover.unlink(missing_ok=True)
        temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}-{threading.get_ident()}.writing")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def abandoned_files(folder: Path, name: str = "*") -> list[Path]:
    """Temporary files of `write_atomically` in a folder whose writers, processes of this machine, are gone.

    Args:
        folder: where to look.
        name: of the file that was to be written; `*`: of any.
    """
    mark = re.compile(rf"\.(?P<name>.+)\.{re.escape(platform.node())}-(?P<process>\d+)-\d+\.writing")
    matches = [(path, mark.fullmatch(path.name)) for path in folder.glob(".*.writing")]
    return [
        path
        for path, match in matches
        if match and name in ("*", match["name"]) and not _is_alive(int(match["process"]))
    ]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system inside the block name this path instead of a temporary file, or of none."""
    try:
        yield
    except OSError as error:
        named = error.filename is not None and not str(error.filename).endswith((".writing", ".partial"))
        if error.errno is None or (named and ".partial/" not in str(error.filename)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


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
    """An empty folder beside a record, for `publish`; an exchange that was interrupted is finished first."""
    finish_exchange(record)
    folder = partial_folder(record)
    with naming(record):
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
    with naming(folder):
        paths = sorted(temporary.iterdir())
        files, sizes = (
            {path.name: file_hash(path) for path in paths},
            {path.name: path.stat().st_size for path in paths},
        )
        content = run | {"schema_version": SCHEMA_VERSION, "files": files, "sizes": sizes}
        for path in paths:
            _sync(path)
        write_atomically(temporary / "run.json", to_json(content))
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
    with signals_held():
        if folder.exists():
            shutil.rmtree(replaced_folder(folder), ignore_errors=True)
            os.rename(folder, replaced_folder(folder))
        os.rename(new, folder)
        _sync(folder.parent)
    shutil.rmtree(replaced_folder(folder), ignore_errors=True)


@contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C and termination wait until the block, of a few system calls, has ended."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is none, or it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


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
        path, expected = _present(folder, name), run["files"][name]
        if file_hash(path) != expected:
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
