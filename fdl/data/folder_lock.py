"""One process at a time writes a folder of images."""

from pathlib import Path

from filelock import FileLock

from fdl.core import layout


def folder_lock(folder: Path) -> FileLock:
    """Held while a folder is written, so that two processes do not write it at once."""
    locks = layout.SCRATCH / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{'-'.join(folder.parts)}.lock")
