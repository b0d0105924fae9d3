"""What is printed on a terminal: tables, and characters that it may not know, which are replaced."""

import codecs
import io
import sys
import unicodedata
from collections.abc import Iterable, Sequence

_PLAIN = {
    **dict.fromkeys("‐‑‒–—−", "-"),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("“”„", '"'),
    "ß": "ss",
    "µ": "u",
    "μ": "u",
    "×": "x",
    "·": ".",
    "±": "+/-",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "←": "<-",
    "√": "sqrt",
}


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool) -> None:
    """Print rows of text in columns; `numbers`: all columns but the first hold numbers, aligned to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for position, name in enumerate(columns):
        table.add_column(name, justify="right" if numbers and position else "left")
    for row in rows:
        table.add_row(*row)
    # Where another program reads it, so wide that nothing is folded or cut.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def degrade() -> None:
    """Write characters that standard output or errors cannot encode as others that look alike, or as `?`."""
    codecs.register_error("fdl.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test's or a notebook's may be another
            stream.reconfigure(errors="fdl.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter) or _ascii(letter) for letter in letters), error.end


def _ascii(letter: str) -> str:
    """The letter without its accents; `?` where nothing is left."""
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"
