"""Facts of the machine: a full disk, a folder that cannot be written, a clock that was wrong, a second run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fdl.training import checkpoint
from tests.faults.conftest import Call
from tests.projects import ROOT, write_images, write_params

SNAKEMAKE = (sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--cores", "2")
RECORD = Path("results/demo/bsd/alexnet/3shot/fdl/seed0")


@contextmanager
def mounted(folder: str, *options: str) -> Iterator[None]:
    """Another file system at a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    mount = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no mount here: {mount.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


root = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root can mount a small disk")


def small_disk(folder: str, size: str) -> AbstractContextManager[None]:
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


@root
@pytest.mark.parametrize("folder", ["results", "scratch"])
def test_little_room_is_said_before_the_training(drawn: Call, folder: str) -> None:
    with small_disk(folder, "64k"):
        _, out, _ = drawn("run")
    number = r"\d\.\d MiB"
    assert re.match(
        rf"bsd/alexnet/3shot: little room on the disk of {folder}/: 0\.1 MiB are free, needed are about {number} in "
        rf"scratch/ while it trains and {number} in results/ for good\n",
        out,
    )


@root
def test_records_on_a_full_disk_end_with_one_line_and_are_made_when_there_is_room(drawn: Call) -> None:
    with small_disk("results", "64k"):
        code, _, err = drawn("run")
        assert code == 1
        assert "No space left on device" in err
        assert len(err.splitlines()) == 1
        assert not list(Path("results").rglob("run.json"))
        subprocess.run(["mount", "-o", "remount,size=64m", "results"], check=True)
        code, out, _ = drawn("run")
        assert (code, out.splitlines()[-1]) == (0, "bsd/alexnet/3shot: 2 cells, 0 failed")


@root
def test_checkpoints_on_a_full_disk_are_done_without(drawn: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0)  # one after every epoch
    with small_disk("scratch", "64k"):
        code, out, err = drawn("run")
        assert (code, err) == (0, "")
        assert "going on without checkpoints" in out
        assert ".pt: cannot be written (" in out


@root
def test_mlflows_database_on_a_full_disk_is_one_line_and_costs_no_record(drawn: Call) -> None:
    drawn("run")
    with small_disk("full", "200k"):
        track = (sys.executable, "-m", "fdl", "track", "--uri", "sqlite:///full/mlflow.db")
        full = subprocess.run(track, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert full.returncode in (1, 2)
    assert len(full.stderr.splitlines()) == 1
    assert "full" in full.stderr
    assert "python -m fdl track" in full.stderr  # later, when there is room
    assert drawn("collect")[0] == 0


@root
def test_a_results_folder_that_cannot_be_written_is_named(drawn: Call) -> None:
    Path("results").mkdir()
    with mounted("results", "--bind", "results"):
        subprocess.run(["mount", "-o", "remount,bind,ro", "results"], check=True)
        code, _, err = drawn("run")
    assert code == 1
    assert "Read-only file system" in err
    assert "results/demo" in err
    assert len(err.splitlines()) == 1


def snakemake(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*SNAKEMAKE, *arguments], capture_output=True, text=True)


def done(*arguments: str) -> str:
    result = snakemake(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def read_run(record: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((record / "run.json").read_bytes())
    return content


def test_a_second_snakemake_is_refused_and_disturbs_nothing(project: Path) -> None:
    write_images()
    write_params(project / "params.yaml", seeds=[0])
    with Path("first.txt").open("w") as output:
        first = subprocess.Popen([*SNAKEMAKE, "--", "data"], stdout=output, stderr=output)
    end = time.monotonic() + 100
    while not list(Path(".snakemake/locks").glob("*")):
        assert first.poll() is None, Path("first.txt").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it holds the lock for as long as this takes
    second = snakemake("--", "data")
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert "cannot be locked" in second.stdout + second.stderr
    assert first.wait() == 0
    assert list(Path("data/splits").rglob("draw0.json"))


def test_files_of_a_clock_that_was_ahead_cost_no_training(project: Path) -> None:
    """Their times lie in the future: newer than all that is made from them."""
    write_images()
    write_params(project / "params.yaml", seeds=[0])
    done("--", "runs")
    tomorrow = time.time() + 86400
    for path in [*Path("data").rglob("*.json"), *Path("results").rglob("bundle.json")]:
        os.utime(path, (tomorrow, tomorrow))
    before = read_run(RECORD)["timings"]
    assert "Nothing to be done" in done("--", "runs")
    # What is new would be older than what it is made from: Snakemake says so, and the files' times can be set.
    write_params(project / "params.yaml", seeds=[0, 1])
    refused = snakemake("--", "runs")
    assert refused.returncode == 1
    assert "data/prepared/local/bsd-32/dataset.json" in refused.stdout + refused.stderr
    assert "clock skew" in refused.stdout + refused.stderr
    subprocess.run("find data results -type f -exec touch {} +".split(), check=True)  # as docs/faq.md says
    done("--", "runs")
    assert "Nothing to be done" in done("--", "runs")
    assert (RECORD.with_name("seed1") / "run.json").exists()
    assert read_run(RECORD)["timings"] == before
