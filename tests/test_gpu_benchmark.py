"""The script for the first minutes with a GPU: all of it on the CPU, and no failure that ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import findings, measure
from benchmarks.gpu_items import BACKBONES, ITEMS, SIZES, Item, Scale
from benchmarks.gpu_page import page

ROOT = Path(__file__).parents[1]
SMALL = Scale("cpu", small=True)
MISSING = ("pydantic", "pydantic_core", "yaml", "mlflow", "snakemake", "dvc", "captum", "torchvision")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """All items on small nets, on a machine that has torch and no more: the file of findings, and the page."""
    folder = tmp_path_factory.mktemp("results")
    hidden = f"import sys; sys.modules |= dict.fromkeys({MISSING})"
    call = f"sys.argv[1:] = ['--device', 'cpu', '--small', '--results', {str(folder)!r}]"
    done = subprocess.run(
        [sys.executable, "-c", f"{hidden}; {call}; from benchmarks.gpu import main; main()"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "gpu.jsonl", (folder / "gpu.md").read_text()


def test_every_item_runs_where_there_is_torch_alone(measured):
    file, text = measured
    ends = {finding["item"]: finding for finding in findings(file) if "ended" in finding}
    assert list(ends) == list(ITEMS)
    for item, end in ends.items():
        assert end["ended"] == "done", f"{item}: {end['output']}"
    assert {finding["item"] for finding in findings(file) if "case" in finding} == set(ITEMS)
    for heading in ("Is it right?", "Do the largest fit?", "Which form of the convolutions?", "How fast is it?"):
        assert f"## {heading}" in text
    assert "**no**" not in text.replace("| **no** | it needs pydantic", "")
    assert "it needs pydantic" in text
    assert "No forecast of `paper` here" in text


def test_the_forecast_is_made_later_and_nothing_is_measured_again(measured, monkeypatch, capsys):
    file, _ = measured
    before = file.read_text()
    monkeypatch.setattr(sys, "argv", ["gpu", "--page", "--results", str(file.parent)])
    gpu.main()
    assert "## Forecast for one seed of `paper`" in capsys.readouterr().out
    assert file.read_text() == before


def test_a_page_can_be_made_of_whatever_is_known(measured):
    known = list(findings(measured[0]))
    for number in range(0, len(known), 5):
        assert "## Items" in page(known[:number], list(ITEMS))


def works(scale, known, note):
    """Notes a case that is new, and how many it knew."""
    note(f"after {len(known)}", value=1)


def fails(scale, known, note):
    note("before the failure", value=2)
    raise ValueError("a wrong shape")


def sleeps(scale, known, note):
    note("before the end of the time", value=3)
    time.sleep(60)


def crashes(scale, known, note):
    os.kill(os.getpid(), signal.SIGKILL)


def test_no_failure_ends_the_rest_and_what_was_known_before_it_is_kept(tmp_path, monkeypatch):
    items = {"fails": fails, "sleeps": sleeps, "crashes": crashes, "works": works}
    monkeypatch.setattr(gpu, "ITEMS", {name: Item(run, 1.0) for name, run in items.items()})
    file = tmp_path / "gpu.jsonl"
    start = time.monotonic()
    measure(SMALL, file, 60, [])
    assert time.monotonic() - start < 30
    ends = {finding["item"]: finding for finding in findings(file) if "ended" in finding}
    assert [end["ended"] for end in ends.values()] == ["failed (exit 1)", "out of time", "failed (exit -9)", "done"]
    assert ends["fails"]["output"][-1] == "ValueError: a wrong shape"
    kept = [finding["case"] for finding in findings(file) if "case" in finding]
    assert kept == ["before the failure", "before the end of the time", "after 0"]

    # Called again: what is done is left, the rest is told what it knows; a line that was cut off is none.
    with file.open("a") as lines:
        lines.write('{"item": "wor')
        lines.write("\n")
    monkeypatch.setitem(gpu.ITEMS, "fails", Item(works, 5.0))
    measure(SMALL, file, 60, ["fails", "works"])
    added = [json.loads(line) for line in file.read_text().splitlines()[-2:]]
    assert [finding.get("case", finding.get("ended")) for finding in added] == ["after 1", "done"]


def test_no_item_begins_after_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "ITEMS", {"works": Item(works, 5.0)})
    measure(SMALL, tmp_path / "gpu.jsonl", 0, [])
    assert [finding["ended"] for finding in findings(tmp_path / "gpu.jsonl")] == ["not begun"]
    assert "works: not begun" in page(list(findings(tmp_path / "gpu.jsonl")), ["works"])


def test_a_machine_without_a_gpu_is_said_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 2
    assert "CUDA does not start" in capsys.readouterr().err
    assert [finding["item"] for finding in findings(tmp_path / "gpu.jsonl")] == ["versions"]


def test_the_speeds_are_those_of_three_backbones_at_three_sizes():
    assert {f"speed: {backbone} at {size}" for backbone in BACKBONES for size in SIZES} <= set(ITEMS)
