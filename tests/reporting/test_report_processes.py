"""A large grid is drawn in several processes: the same files, and none outlives what started it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Params
from fdl.reporting import report
from fdl.reporting.report import write_report
from fdl.results.collect import collect
from tests.projects import wait_for
from tests.reporting.fabricate import PARAMS_FILE, fabricate, small_grid


@pytest.fixture
def params(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Params]:
    """Eight cells, which count as a large grid here."""
    monkeypatch.setattr(report, "_WORTH_A_PROCESS", 1)
    grid = small_grid()
    fabricate(grid)
    collect(grid)
    yield grid
    assert not multiprocessing.active_children()


def test_two_processes_write_the_same_bytes_as_one(params: Params) -> None:
    alone = {path: path.read_bytes() for path in write_report(params)}
    for path in alone:
        path.unlink()
    assert {path: path.read_bytes() for path in write_report(params, processes=2)} == alone


@pytest.mark.parametrize(("file", "cell"), [("cam.npz", 0), ("correct.npz", -1)])
def test_what_is_wrong_with_a_record_is_said_as_by_one_process(params: Params, file: str, cell: int) -> None:
    layout.record_folder(params, params.cells()[cell]).joinpath(file).write_bytes(b"PK damaged")
    with pytest.raises(InputError) as alone:
        write_report(params)
    with pytest.raises(InputError) as together:
        write_report(params, processes=2)
    assert str(together.value) == str(alone.value)


@pytest.mark.parametrize("processes", [2, 3])
def test_a_process_that_is_killed_does_not_keep_the_report_waiting(params: Params, processes: int) -> None:
    def kill_one() -> None:
        wait_for(lambda: len(multiprocessing.active_children()) == processes)
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(ChildProcessError, match="ended from outside"):
        write_report(params, processes=processes)
    killer.join()


def test_no_process_outlives_a_report_that_is_killed(params: Params) -> None:
    settings = params.write(layout.RESULTS)
    code = (
        "import sys; from fdl.cli.main import main; from fdl.reporting import report; report._WORTH_A_PROCESS = 1\n"
        f"sys.argv = ['fdl', 'report', '--params', {str(settings)!r}, '--processes', '2']; main()"
    )
    environment = os.environ | {"PYTHONPATH": str(PARAMS_FILE.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=environment)
    try:
        wait_for(lambda: len(_of_session(process.pid)) >= 3)  # with what watches over files
        process.kill()
        process.wait()
        wait_for(lambda: not _of_session(process.pid))
    finally:
        for left in _of_session(process.pid):
            os.kill(left, signal.SIGKILL)


def _of_session(session: int) -> list[int]:
    """The processes of a session that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, number = folder.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it ended meanwhile
        if int(number) == session and state != "Z":
            found.append(int(folder.name))
    return found
