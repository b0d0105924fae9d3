"""Output where the terminal knows few characters: they are replaced, and nothing ends in a traceback."""

import codecs
import io
import sys
import unicodedata

_PLAIN = {
    **dict.fromkeys("‐‑‒–—−", "-"),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("“”„", '"'),
    "ß": "ss",
    "µ": "u",
    "μ": "u",
    "…": "...",
    "×": "x",
    "·": ".",
    "±": "+/-",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "←": "<-",
    "√": "sqrt",
}


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
