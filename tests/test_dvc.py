"""DVC and Snakemake on the same files, in the orders that a user takes them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.projects import ROOT, write_params

BIN = Path(sys.executable).parent
IDENTITY = {f"GIT_{who}_{what}": "fdl@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
GRID = {"source": "synthetic", "datasets": ["bsd", "neu"], "seeds": [0]}
Run = Callable[..., str]


@pytest.fixture
def run(project: Path) -> Run:
    """Run a command in a clone of the project that has a tiny grid; it must succeed: what it printed."""
    for name in ("fdl", "workflow", ".dvc"):
        shutil.copytree(ROOT / name, name, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "environment.yml"):
        shutil.copy(ROOT / name, ".")
    write_params(project / "params.yaml", **GRID)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | IDENTITY
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"

    def command(*arguments: str) -> str:
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    command("git", "init", "--quiet")
    command("git", "add", "--all")
    command("git", "commit", "--quiet", "--message", "settings")
    return command


def trained() -> dict[str, int]:
    """When each cell's record was put in place."""
    return {str(path.parent): path.stat().st_mtime_ns for path in Path("results").rglob("seed*/run.json")}


def files(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_nothing_is_trained_twice_and_nothing_is_stale(run: Run) -> None:
    # One dataset by Snakemake, then everything by DVC: it trains the other.
    bsd = "results/demo/bsd/alexnet/3shot/bundle.json"
    run("snakemake", "--cores", "2", "--", bsd)
    first = trained()
    assert {name.split("/")[2] for name in first} == {"bsd"}
    run("dvc", "repro")
    second = trained()
    assert {name: second[name] for name in first} == first
    assert len(second) == 4

    # Each finds the other's work done.
    assert "Nothing to be done" in run("snakemake", "--cores", "2")
    assert "Data and pipelines are up to date" in run("dvc", "repro")
    shown = json.loads(run("dvc", "metrics", "show", "--json"))
    metrics = shown[""]["data"]["reports/demo/metrics.json"]["data"]
    assert metrics["cells"] == {"done": 4, "failed": 0, "left_out": 0}

    # A run leaves nothing for git; what a commit needs to be compared with later is added by hand, once.
    run("git", "add", "--all")
    assert run("git", "ls-files", "reports", "results", "data").split() == []
    run("git", "add", "--force", "reports/demo/metrics.json", "reports/demo/plots")
    run("git", "commit", "--quiet", "--message", "results")

    # An experiment with another seed trains its cells and no other, and DVC says what became of the numbers.
    run("dvc", "exp", "run", "--name", "seeds", "--set-param", "++overrides.seeds=[0,1]")
    third = trained()
    assert {name: third[name] for name in second} == second
    assert len(third) == 8
    assert yaml.safe_load(Path("params.yaml").read_text())["overrides"]["seeds"] == [0, 1]
    difference = json.loads(run("dvc", "metrics", "diff", "--json"))["reports/demo/metrics.json"]
    assert difference["cells.done"]["diff"] == 4
    assert "Nothing to be done" in run("snakemake", "--cores", "2")

    page = Path(run("dvc", "plots", "diff", "HEAD").strip().removeprefix("file://")).read_text()
    for what in ("bsd-synthetic", "cross_entropy", "workspace", "HEAD"):
        assert what in page

    # Other epochs by Snakemake, then DVC: the asked cells are trained anew, once.
    settings = yaml.safe_load(Path("params.yaml").read_text())
    settings["overrides"] |= {"seeds": [0], "epochs": 3}
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    run("snakemake", "--cores", "2", "--", "runs")
    fourth = trained()
    assert {name for name in third if third[name] != fourth[name]} == set(second)
    run("dvc", "repro", "runs")
    assert trained() == fourth


def test_raw_images_are_pushed_and_pulled(run: Run, tmp_path: Path) -> None:
    """A second machine gets the raw files from a remote instead of from where they are published."""
    write_params(tmp_path / "params.yaml", **GRID | {"datasets": ["bsd"]})
    run("dvc", "repro", "data")
    raw, prepared = files("data/raw"), files("data/prepared")
    assert raw
    run("dvc", "remote", "add", "--default", "box", str(tmp_path / "box"))
    run("dvc", "push")
    for folder in ("data", ".dvc/cache", ".snakemake"):
        shutil.rmtree(folder)
    run("dvc", "pull", "--allow-missing")
    assert files("data/raw") == raw
    run("snakemake", "--cores", "2", "--", "data")
    assert files("data/prepared") == prepared
    assert files("data/raw") == raw


def test_no_telemetry_is_sent_and_versions_are_not_asked_for(run: Run) -> None:
    assert run("dvc", "config", "core.analytics").strip() == "false"
    assert run("dvc", "config", "core.check_update").strip() == "false"
