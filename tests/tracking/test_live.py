"""Trainings that are running, as MLflow shows them, and the loop that keeps them up to date."""

import shutil

import pytest

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.results.locks import bundle_lock
from fdl.results.unfinished import ProgressFile
from fdl.tracking.live import ATTEMPTS, LONGEST_WAIT, watch
from fdl.tracking.mirror import track
from fdl.tracking.store import Unusable
from tests.tracking.test_mirror import CLASSICAL, EPOCHS, FDL, Store, small_grid, write_record

HISTORY = [{"epoch": epoch, "loss": 9.0 - epoch, "train_accuracy_0": epoch / 10} for epoch in range(8)]


def test_a_running_cell_grows_is_stopped_goes_on_and_becomes_its_record(uri) -> None:
    params = small_grid(shots=[3])
    store = Store(uri)
    with bundle_lock("demo", FDL.bundle.key) as holder:
        about = {"preset": "demo", "cell": FDL.key, "settings": params.settings_digest(FDL), "by": holder}
        progress = ProgressFile(layout.SCRATCH / "training", about)
        progress.write(HISTORY[:2], 8)
        assert track(params, uri=uri, live=True)["running"] == 1
        run = store.runs()[FDL.key]
        assert (run.info.status, run.data.tags["status"]) == ("RUNNING", "running")
        assert run.data.tags["mlflow.parentRunId"] == store.ids()[FDL.bundle.key]
        assert store.curve(FDL, "curve/loss") == [(0, 9.0), (1, 8.0)]
        progress.write(HISTORY, 8)
        track(params, uri=uri, live=True)
        assert store.ids()[FDL.key] == run.info.run_id
        assert store.curve(FDL, "curve/train_accuracy.member0") == [(epoch, epoch / 10) for epoch in range(8)]
    assert track(params, uri=uri, live=True)["running"] == 0
    assert store.runs()[FDL.key].info.status == "KILLED"
    with bundle_lock("demo", FDL.bundle.key) as holder:
        ProgressFile(layout.SCRATCH / "training", about | {"by": holder}).write(HISTORY, 9)
        track(params, uri=uri, live=True)
        assert store.runs()[FDL.key].info.status == "RUNNING"
        assert store.ids()[FDL.key] == run.info.run_id
    shutil.rmtree(layout.SCRATCH / "training")
    write_record(params, FDL)
    track(params, uri=uri, live=True)
    finished = store.runs()[FDL.key]
    assert (finished.info.status, finished.data.tags["status"]) == ("FINISHED", "done")
    assert len(store.curve(FDL, "curve/loss")) == min(EPOCHS, 25)
    assert CLASSICAL.key not in store.ids()


def passes(*results):
    """One pass after another: counts, or an error."""
    left = list(results)

    def one_pass():
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    return one_pass


PART, WHOLE = {"new": 1, "missing": 1, "stale": 0}, {"new": 1, "missing": 0, "stale": 0}


def test_it_watches_until_every_cell_has_its_record() -> None:
    said: list[str] = []
    waited: list[float] = []
    assert watch(passes(PART, PART, WHOLE), seconds=30, say=said.append, wait=waited.append) == WHOLE
    assert waited == [30, 30]
    assert said == ["mlflow: 1 new, 1 missing, 0 stale", "mlflow: 1 new, 0 missing, 0 stale"]


def test_a_server_that_is_down_is_tried_again_after_longer_and_longer_waits() -> None:
    down = InputError("MLflow at http://box: the tracking server does not answer")
    said: list[str] = []
    waited: list[float] = []
    assert watch(passes(down, down, PART, down, WHOLE), seconds=30, say=said.append, wait=waited.append) == WHOLE
    assert waited == [60, 120, 30, 60]
    assert said[0] == f"{down} (trying again in 60 s)"


def test_a_server_that_stays_down_ends_it() -> None:
    waited: list[float] = []
    with pytest.raises(InputError, match="does not answer"):
        watch(passes(*[InputError("it does not answer")] * ATTEMPTS), seconds=30, say=print, wait=waited.append)
    assert len(waited) == ATTEMPTS - 1
    assert max(waited) == LONGEST_WAIT


def test_what_no_other_pass_mends_ends_it_at_once() -> None:
    waited: list[float] = []
    with pytest.raises(Unusable, match="damaged"):
        watch(passes(PART, Unusable("mlflow.db: damaged")), seconds=30, say=print, wait=waited.append)
    assert waited == [30]


def test_ctrl_c_ends_it_with_a_word_on_what_goes_on() -> None:
    def interrupted(seconds):
        raise KeyboardInterrupt

    said: list[str] = []
    assert watch(passes(PART), seconds=30, say=said.append, wait=interrupted) == PART
    assert said[-1].startswith("stopped; trainings go on")
