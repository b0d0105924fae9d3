"""What writes records may die at any change of files: no finished training is lost, and the next run completes it."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from fdl.core import files, layout
from fdl.core.settings import Cell
from fdl.results import records
from fdl.results.clean import find, remove
from fdl.results.scoring import rescore
from fdl.results.state import Judge
from fdl.results.transfer import export_records, import_records
from fdl.training.bundle import run_bundle
from tests.faults.deaths import Died, death_at
from tests.projects import tiny

FDL = Cell("bsd", "alexnet", 3, "fdl", 0)


def silent(line: str) -> None:
    pass


def spoil_scores(params, cell) -> None:
    """Make the scores of a record those of older code, as `combine` finds them."""
    path = layout.record_folder(params, cell) / "run.json"
    run = json.loads(path.read_bytes())
    run["digests"]["scores"] = 0
    path.write_bytes(files.to_json(run))


def deaths(monkeypatch, prepare, act, check) -> int:
    """Let `act` die at each of its changes of files in turn, each time after `prepare`; how many there are."""
    number = 0
    while True:
        number += 1
        prepare()
        with death_at(monkeypatch, number) as calls, suppress(Died):
            act()
        check(f"{number}: {calls[-1] if calls else ''}")
        if len(calls) < number:
            return number - 1


def test_combine_loses_no_predictions(trained, monkeypatch):
    folder = layout.record_folder(trained, FDL)
    predictions = (folder / "predictions.npz").read_bytes()

    def check(where):
        judge = Judge(trained, running=False)
        assert not any(one.path.name == ".seed0.partial" and records.is_whole(one.path) for one in find(trained)), where
        remove(trained, find(trained))
        rescore(trained)
        assert judge.state(FDL).status == "done", where
        assert (folder / "predictions.npz").read_bytes() == predictions, where

    assert deaths(monkeypatch, lambda: spoil_scores(trained, FDL), lambda: rescore(trained), check) > 10


def test_run_trains_nothing_again_that_was_being_put_back(trained, monkeypatch):
    bundle = FDL.bundle
    trained_at = {cell: _timings(trained, cell) for cell in trained.cells()}

    def check(where):
        run_bundle(trained, bundle, say=silent)
        assert {cell: _timings(trained, cell) for cell in trained.cells()} == trained_at, where

    assert (
        deaths(monkeypatch, lambda: spoil_scores(trained, FDL), lambda: run_bundle(trained, bundle, say=silent), check)
        > 10
    )


def test_import_replaces_a_record_whole_or_not_at_all(trained, monkeypatch):
    archive = Path("records.tar.gz")
    export_records(trained, archive)
    folder = layout.record_folder(trained, FDL)

    def prepare():
        shutil.rmtree(layout.results_folder(trained))
        shutil.rmtree(layout.SCRATCH, ignore_errors=True)

    def check(where):
        import_records(tiny(), archive, say=silent)
        assert {state.status for state in Judge(trained).states()} == {"done"}, where
        assert not records.partial_folder(folder).exists(), where

    assert deaths(monkeypatch, prepare, lambda: import_records(tiny(), archive, say=silent), check) > 10


def _timings(params, cell):
    run = records.read_run(layout.record_folder(params, cell))
    assert run is not None
    return run["timings"]


@pytest.mark.parametrize("beside", ["partial", "replaced"])
def test_an_interrupted_exchange_is_named_and_not_cleaned_away(trained, beside):
    folder = layout.record_folder(trained, FDL)
    place = records.partial_folder(folder) if beside == "partial" else records.replaced_folder(folder)
    folder.rename(place)
    state = Judge(trained).state(FDL)
    assert state.status == "missing"
    assert "the next run puts it in place" in state.note
    assert find(trained, stale=True) == []
    run_bundle(trained, FDL.bundle, say=silent)
    assert Judge(trained).state(FDL).status == "done"
    assert not place.exists()
