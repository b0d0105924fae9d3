"""What a training says of itself before it has a record."""

import math
import os

from fdl.core import layout
from fdl.core.settings import Bundle
from fdl.results import unfinished
from fdl.results.locks import bundle_lock
from fdl.results.unfinished import ProgressFile, unfinished_cells
from fdl.training import bundle as bundle_module
from fdl.training.bundle import run_bundle
from fdl.training.checkpoint import Checkpoint
from fdl.training.engine import train
from tests.projects import tiny
from tests.training import cells

BUNDLE = Bundle("bsd", "alexnet", 3)
ABOUT = {"preset": "demo", "cell": "bsd/alexnet/3shot/fdl/seed0", "settings": "0" * 64, "by": "process 1"}


def test_a_training_shows_its_history_while_it_runs(trained, monkeypatch) -> None:
    params = tiny(epochs=3, methods=["fdl"])
    monkeypatch.setattr(unfinished, "SECONDS", 0)
    monkeypatch.setattr(bundle_module, "Throttle", lambda say: say)
    seen = []

    def look(line: str) -> None:
        if "stale: " in line:  # why the records that are there are made again
            return
        seen.append(
            {cell.seed: (one.running, len(one.history), one.epochs) for cell, one in unfinished_cells(params).items()}
        )

    run_bundle(params, BUNDLE, say=look)
    # Each seed in turn; said is the end of an epoch, shown is the epoch before. Then the records are made.
    first, second = ([{seed: (True, done, 3)} for done in range(4)] for seed in (0, 1))
    assert seen == [*first[:3], *(first[3] | shown for shown in second), second[3]]
    assert unfinished_cells(params) == {}


def test_what_was_stopped_is_not_running(project) -> None:
    params = tiny()
    cell = params.cells()[0]
    with bundle_lock("demo", BUNDLE.key) as holder:
        about = {"preset": "demo", "cell": cell.key, "settings": params.settings_digest(cell), "by": holder}
        ProgressFile(layout.SCRATCH / "a", about).write([{"epoch": 0, "loss": math.nan}], 2)
        (begun,) = unfinished_cells(params).values()
        assert begun.running
        assert begun.history == [{"epoch": 0, "loss": None}]
    assert not unfinished_cells(params)[cell].running
    with bundle_lock("demo", BUNDLE.key):  # of another process, which is at another cell
        assert not unfinished_cells(params)[cell].running
    assert unfinished_cells(tiny(epochs=9)) == {}, "other settings, another training"


def test_a_file_that_is_cut_short_or_of_another_version_is_no_training(project) -> None:
    ProgressFile(layout.SCRATCH / "a", ABOUT).write([], 2)
    path = layout.SCRATCH / "a" / "progress.json"
    content = path.read_text()
    assert len(unfinished.unfinished("demo")) == 1
    for other in (content[:-20], content.replace('"schema_version": 1', '"schema_version": 99'), "[]"):
        path.write_text(other)
        assert unfinished.unfinished("demo") == []


def test_a_full_disk_stops_no_training(project, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    progress = ProgressFile(layout.SCRATCH / "a", ABOUT)
    trained = train(
        cells.settings(),
        cells.data(),
        device="cpu",
        checkpoint=Checkpoint(layout.SCRATCH / "a", quiet, progress),
        progress=quiet,
    )
    assert len(trained.history) == 3
    assert not progress.path.exists()


def quiet(line: str) -> None:
    """No progress."""


def test_the_file_is_written_at_most_every_few_seconds_but_always_first_and_last(project) -> None:
    progress = ProgressFile(layout.SCRATCH / "a", ABOUT)
    shown = []
    for epochs in range(4):
        progress.write([{"epoch": epoch} for epoch in range(epochs)], 3)
        (begun,) = unfinished.unfinished("demo")
        shown.append(len(begun.history))
    assert shown == [0, 0, 0, 3]
