"""Errors that are written for the user, and the words in which messages put names, values and failures."""

import errno
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from reprlib import Repr


class InputError(Exception):
    """Something the user gave is wrong: one line saying what, where, and what to do.

    The command line prints it to stderr without a traceback and exits with code 2.
    """


class MethodError(Exception):
    """A user's own method failed while its cell was trained: one line saying which, where, and why.

    The command line prints it to stderr without a traceback and exits with code 1.
    """


def did_you_mean(name: object, known: Iterable[object], others: str = "") -> str:
    """The end of a message about an unknown name: the known name nearest to it; else `others`, or all known names."""
    names = [str(known_name) for known_name in known]
    close = get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]!r}?" if close else others or f"there are: {', '.join(names) or 'none'}"


def one_line(text: object) -> str:
    """A text without line breaks, for a message or a row of a table."""
    return " ".join(str(text).split())


def first_few(names: Sequence[str], most: int, between: str = ", ") -> str:
    """The first of many names, and how many more there are: "a, b, c and 4 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def first_lines(lines: Sequence[str], most: int) -> list[str]:
    """The first of many lines, and one that says how many more there are."""
    return [*lines[:most], *([f"{len(lines) - most:,} more"] if len(lines) > most else [])]


_SHORT = Repr()
_SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxstring = 12, 12, 60


def abbreviated(value: object) -> str:
    """A value on one line, shortened for a message."""
    return one_line(_SHORT.repr(value))


def unknown(value: object, known: Iterable[object], what: str = "") -> str:
    """A message about an unknown name."""
    return f"unknown {what + ' ' if what else ''}{abbreviated(value)}; {did_you_mean(value, known)}"


_ROOM = "make room (`python -m fdl clean --dry-run` says what can go) and run the same command again"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "work in a folder that can be written",
    errno.EACCES: "change its permissions, or work in a folder of your own",
    errno.EPERM: "change its permissions, or work in a folder of your own",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f`), or work on another file system",
}
_MEMORY = "out of memory: run fewer bundles at once (`snakemake --cores 1`), or on a larger machine"
_GPU_MEMORY = "this GPU has too little memory ({said}); run only one process on it, or set device: cpu"


def fact_about_the_machine(error: Exception) -> str | None:
    """Explain a full disk, a missing permission or too little memory in one line; None for any other error."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
        return _MEMORY
    if isinstance(error, RuntimeError) and "out of memory" in str(error):
        return _GPU_MEMORY.format(said=str(error).splitlines()[0])
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.ENOMEM:
        return _MEMORY
    if error.errno is None or error.strerror is None:
        return one_line(error)
    where = f"{error.filename}: " if error.filename else ""
    remedy = _REMEDIES.get(error.errno)
    return f"{where}{error.strerror}{f'; {remedy}' if remedy else ''}"
