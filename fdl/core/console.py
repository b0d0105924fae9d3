"""Where the lines of a long command go: on a terminal the newest line of progress stays at the bottom."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

Say = Callable[[str], None]
plain: Say = partial(print, flush=True)  # a line of a log, which somebody may be following


@contextmanager
def live_lines() -> Iterator[tuple[Say, Say | None]]:
    """What takes lines that stay, and what takes lines of progress, each in place of the one before it.

    In a log there is no such place: the second is None, and every line is a plain one.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console()
    # rich's own idea of a terminal follows variables such as FORCE_COLOR, also into a log.
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        yield plain, None
        return
    # The line is drawn by a thread, and Python runs one at a time: seldom, so that training need not wait for it.
    with console.status("", refresh_per_second=2) as status:
        yield lambda line: console.print(Text(line), soft_wrap=True), lambda line: status.update(Text(line))
