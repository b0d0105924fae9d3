"""Files: written so that neither a kill nor a reader ever meets half of one; their hashes and sizes; JSON."""

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by rename, so that no reader and no kill ever meets half of it.

    Files that a killed writer left beside it are deleted. The file gets the permissions that the umask allows.

    Raises:
        OSError: named after `path`, not after the temporary file.
    """
    with named_in_errors(path):
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


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` when the block has filled it, and goes if the block fails."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # what a process that was killed left
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
def named_in_errors(path: Path) -> Iterator[None]:
    """System errors inside the block name this path where they would name a temporary file, or no file at all."""
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


@contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C and termination wait until the block, of a few system calls, has ended."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sync(path: Path) -> None:
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
