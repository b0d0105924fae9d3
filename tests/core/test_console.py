"""What a long command shows: one line that changes on a terminal, plain lines in a log."""

import contextlib
import os
import pty
import subprocess
import sys

from fdl.core.console import live_lines

SHOW = """
from fdl.core.console import live_lines
with live_lines() as (say, progress):
    say("cell 1 of 2 [sic]")
    (progress or say)("epoch 1/9")
    (progress or say)("epoch 2/9")
    say("done")
"""


def test_a_log_gets_plain_lines(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as some schedulers and editors do
    with live_lines() as (say, progress):
        say("cell 1 of 2 [sic]")
    assert progress is None
    assert capsys.readouterr().out == "cell 1 of 2 [sic]\n"


def test_a_terminal_keeps_what_is_said_and_overwrites_progress():
    terminal, other_side = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen([sys.executable, "-c", SHOW], stdout=other_side, env=environment) as process:
        os.close(other_side)
        shown = b""
        with contextlib.suppress(OSError):  # Linux' way to say that the other side is closed
            while part := os.read(terminal, 4096):
                shown += part
    os.close(terminal)
    text = shown.decode()
    assert process.returncode == 0
    assert text.index("cell 1 of 2 [sic]\r\n") < text.index("done\r\n")
    assert "epoch 2/9" in text
    # Up a line and erase it: the line of progress is gone at the end, what was said is not.
    assert text.endswith("\x1b[1A\x1b[2K")
