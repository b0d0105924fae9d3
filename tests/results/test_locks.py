"""Two processes never write the records of one bundle at once."""

import os
import subprocess
import sys

import pytest

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.results.locks import at_work, bundle_lock, holder_of
from tests.projects import ROOT

BUNDLE = "bsd/alexnet/3shot"


def test_a_lock_names_its_holder_while_it_is_held(project) -> None:
    assert holder_of("demo", BUNDLE) is None
    with bundle_lock("demo", BUNDLE) as holder:
        assert f"process {os.getpid()} on " in holder
        assert holder_of("demo", BUNDLE) == holder
        assert at_work("demo") == [f"bsd-alexnet-3shot: {holder} is at work on its records"]
        assert holder_of("lite", BUNDLE) is None, "another preset has other records"
        with pytest.raises(InputError, match=rf"^{BUNDLE}: process {os.getpid()} .* try again when it is done$"):
            bundle_lock("demo", BUNDLE).__enter__()
    assert holder_of("demo", BUNDLE) is None
    assert at_work("demo") == []


def test_a_second_run_waits_and_then_finds_the_work_done(trained) -> None:
    records = {path: path.stat().st_mtime_ns for path in layout.results_folder(trained).rglob("run.json")}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with bundle_lock(trained.preset, BUNDLE) as holder:
        second = subprocess.Popen(
            [sys.executable, "-m", "fdl", "run"], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert second.stdout
        assert second.stdout.readline() == f"{BUNDLE}: {holder} is at work on its records; waiting for it\n"
    printed, _ = second.communicate()
    assert printed == f"{BUNDLE}: 4 cells, 0 failed\n"
    assert {path: path.stat().st_mtime_ns for path in records} == records


def test_a_lock_goes_with_its_process(project) -> None:
    code = (
        "import os; from fdl.results.locks import bundle_lock\n"
        f"with bundle_lock('demo', '{BUNDLE}'): print('held', flush=True); os.read(0, 1)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert other.stdout
    assert other.stdout.readline() == "held\n"
    assert f"process {other.pid} on " in str(holder_of("demo", BUNDLE))
    other.kill()
    other.communicate()
    assert holder_of("demo", BUNDLE) is None
