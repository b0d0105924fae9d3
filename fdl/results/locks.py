"""One process at a time writes the records of a bundle, whatever started it.

The lock is the kernel's: it is gone when its process dies, however it dies.
"""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from fdl.core import layout
from fdl.core.console import Say
from fdl.core.errors import InputError


def lock_file(preset: str, bundle: str) -> Path:
    """Where the lock of a bundle, `neu/alexnet/3shot`, is held."""
    return layout.SCRATCH / "locks" / preset / f"{bundle.replace('/', '-')}.lock"


@contextmanager
def bundle_lock(preset: str, bundle: str, *, waiting: Say | None = None) -> Iterator[str]:
    """Hold the lock of a bundle's records until the block ends.

    Args:
        preset: whose results folder.
        bundle: its key, such as `neu/alexnet/3shot`.
        waiting: takes a line if another process holds the lock, and it is waited for; None: refuse.

    Yields:
        Who holds it: process, machine and time, in words that no other holder has.

    Raises:
        InputError: another process holds it, and waiting is not wanted.
    """
    path = lock_file(preset, bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:  # never deleted: the next process would lock another file of the same name
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = f"{bundle}: {path.read_text()} is at work on its records"
            if waiting is None:
                raise InputError(f"{busy}; try again when it is done") from None
            waiting(f"{busy}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        holder = f"process {os.getpid()} on {platform.node()} since {datetime.now().isoformat(' ')}"
        file.truncate(0)
        file.write(holder)
        file.flush()
        yield holder


def holder_of(preset: str, bundle: str) -> str | None:
    """Who holds the lock of a bundle now; None if it is free."""
    return _holder(lock_file(preset, bundle))


def at_work(preset: str) -> list[str]:
    """A line for each bundle of the preset whose lock is held now, also of those not in the grid."""
    held = {path: _holder(path) for path in sorted((layout.SCRATCH / "locks" / preset).glob("*.lock"))}
    return [f"{path.stem}: {holder} is at work on its records" for path, holder in held.items() if holder]


def _holder(path: Path) -> str | None:
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read()
    except FileNotFoundError:
        pass
    return None
