"""What became of every cell, as a user who comes back reads it."""

import json
import shutil

import pytest

from fdl.core import files, layout
from fdl.core.settings import Cell
from fdl.results import records
from fdl.results.locks import bundle_lock
from fdl.results.status import as_json, counts, status
from fdl.results.unfinished import ProgressFile
from tests.projects import tiny

FDL = Cell("bsd", "alexnet", 3, "fdl", 0)


def state(params, cell=FDL):
    """Status and note of a cell."""
    (found,) = [one for one in status(params) if one.cell == cell]
    return found.status, found.note


def change(params, **changes):
    """Put other values into the `run.json` of the cell."""
    path = layout.record_folder(params, FDL) / "run.json"
    path.write_bytes(files.to_json(json.loads(path.read_bytes()) | changes))


def test_finished_cells_are_done(trained):
    assert counts(status(trained)) == {"done": 4, "failed": 0, "running": 0, "missing": 0, "stale": 0, "damaged": 0}


def test_a_new_seed_is_missing(trained):
    found = counts(status(tiny(seeds=[0, 1, 2])))
    assert (found["done"], found["missing"]) == (4, 2)


def test_a_stale_cell_names_every_setting_that_changed(trained):
    assert state(tiny(epochs=5, learning_rate=0.5)) == ("stale", "epochs: 2 → 5; learning_rate: 0.001 → 0.5")
    assert state(tiny(gaussian_weight=2.0)) == ("stale", "method_params.gaussian_weight: 0.05 → 2.0")
    assert state(tiny(gaussian_weight=2.0), Cell("bsd", "alexnet", 3, "classical", 0)) == ("done", "")
    assert state(tiny(heads=["fusion"])) == ("stale", "heads: the settings ask for other ones")


def test_other_images_or_another_draw_are_stale(trained):
    from fdl.data.prepare import prepare
    from fdl.data.splits import write_split

    split = layout.split_file(trained, "bsd", 3, 0)
    content = json.loads(split.read_bytes())
    change(trained, split={"hash": "of another draw", "rule": "first", "draw": 0})
    assert state(trained) == ("stale", "draw: trained on another than the one drawn here")
    next((layout.Path("images/bsd/train/pitting")).iterdir()).unlink()
    prepare(trained, "bsd", say=lambda line: None)
    assert "drawn from other images" in state(trained)[1]
    for draw in (0, 1):
        write_split(trained, "bsd", 3, draw)
    assert json.loads(split.read_bytes()) != content
    assert state(trained) == ("stale", "images: trained on others than those prepared here")


def test_without_the_images_the_settings_alone_decide(trained):
    shutil.rmtree("data")
    assert state(trained) == ("done", "")
    assert state(tiny(epochs=3))[0] == "stale"


@pytest.mark.parametrize("damage", ["metrics.json", "run.json", "keys"])
def test_a_damaged_record_says_what_is_damaged(trained, damage):
    path = layout.record_folder(trained, FDL) / ("run.json" if damage == "keys" else damage)
    path.write_bytes(b'{"schema_version": 1}' if damage == "keys" else path.read_bytes()[:-20])
    status_, note = state(trained)
    assert status_ == "damaged"
    assert "run.json" in note
    assert "\n" not in note


def test_a_cell_that_diverged_is_finished_and_says_when(trained):
    change(trained, status="failed", failure={"epoch": 1, "reason": "member 0:\nthe loss is nan"})
    assert state(trained) == ("failed", "epoch 2: member 0: the loss is nan")


def test_a_cell_is_running_only_while_its_process_is_at_it(trained):
    again = tiny(epochs=9)
    with bundle_lock("demo", FDL.bundle.key) as holder:
        about = {"preset": "demo", "cell": FDL.key, "settings": again.settings_digest(FDL), "by": holder}
        ProgressFile(layout.SCRATCH / "a", about).write([{"epoch": 0}, {"epoch": 1}], 9)
        assert state(again) == ("running", "epoch 2 of 9")
    assert state(again)[0] == "stale"
    shutil.rmtree(layout.record_folder(trained, FDL))
    assert state(again) == ("missing", "stopped after epoch 2 of 9")


def test_old_scores_are_stale_and_say_what_to_do(trained):
    run = records.read_run(layout.record_folder(trained, FDL))
    change(trained, digests=run["digests"] | {"scores": 0})
    assert state(trained)[0] == "stale"
    assert "`python -m fdl combine`" in state(trained)[1]


def test_json_has_every_cell(trained):
    content = json.loads(files.to_json(as_json(trained, status(tiny(epochs=5)))))
    assert content["schema_version"] == 1
    assert content["preset"] == "demo"
    assert content["counts"]["stale"] == 4
    assert content["cells"][0] == {
        "cell": "bsd/alexnet/3shot/classical/seed0",
        "status": "stale",
        "epoch": None,
        "epochs": None,
        "changed": ["epochs: 2 → 5"],
        "reason": None,
    }
