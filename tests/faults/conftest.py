"""A verb called as a user calls it, without a process of its own."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fdl.cli import main
from tests.projects import write_images, write_params

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fdl(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call a verb in this process: exit code, what it printed, its errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fdl", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def drawn(fdl: Call, project: Path) -> Call:
    """The same, in a project with its images prepared and drawn from: two cells, whose weights are kept."""
    write_images()
    write_params(project / "params.yaml", seeds=[0], keep_weights=True)
    assert fdl("data", "prepare")[0] == 0
    assert fdl("split")[0] == 0
    return fdl
