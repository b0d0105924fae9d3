"""Where the lines of a long command go: on a terminal the newest line of progress stays at the bottom."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]


@contextmanager
def live_lines() -> Iterator[tuple[Say, Say | None]]:
    """What takes lines that stay, and what takes lines of progress, each in place of the one before it.

    In a log there is no such place: the second is None, and every line is a plain one.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        yield lambda line: print(line, flush=True), None
        return
    with console.status("", refresh_per_second=2) as status:  # it draws in a thread, which training would wait for
        yield lambda line: console.print(Text(line)), lambda line: status.update(Text(line))
