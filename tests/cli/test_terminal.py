"""Terminals that know few characters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.projects import ROOT, write_images, write_params

PRINT = "from fdl.cli.terminal import degrade; degrade(); print('±12 µm × 3 … „größer“ – 你 \\udcff')"


def output(*arguments: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "COLUMNS": "200"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("ascii", '+/-12 um x 3 ... "grosser" - ? ?'),
        ("latin-1", '±12 µm × 3 ... "größer" - ? ?'),
        ("utf-8", "±12 µm × 3 … „größer“ – 你 ?"),
    ],
)
def test_what_cannot_be_shown_is_replaced(encoding: str, text: str) -> None:
    done = output("-c", PRINT, encoding=encoding)
    assert done.stderr == b""
    assert done.stdout.decode(encoding) == text + os.linesep


@pytest.mark.parametrize(("verb", "code"), [(["data", "list"], 0), (["split", "--params", "größer….yaml"], 2)])
def test_verbs_end_as_they_do_elsewhere(project: Path, verb: list[str], code: int) -> None:
    """The list of datasets is a table, with what the images' terms say."""
    write_params(project / "params.yaml", data_dir="Bilder—größer")
    write_images(Path("Bilder—größer/bsd"))
    done = output("-m", "fdl", *verb, encoding="ascii")
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.isascii()
