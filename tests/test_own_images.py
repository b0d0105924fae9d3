"""The user's own images: a folder of class folders in, tables out."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fdl import layout
from fdl.data.prepare import load, prepare
from fdl.data.splits import write_split
from fdl.params import Bundle
from fdl.training.bundle import run_bundle
from tests.projects import BOLT_CLASSES, BOLTS, tiny, write_params, write_photographs
from tests.test_workflow import done

UNEQUAL = dict(zip(BOLT_CLASSES, (12, 6, 20), strict=True))


def quiet(line):
    """No progress."""


def counts(prepared, pool):
    return np.bincount(prepared.labels[prepared.pools == pool], minlength=len(prepared.classes)).tolist()


def test_from_a_folder_of_photographs_to_the_table(project):
    write_photographs("photos/bolts", UNEQUAL)
    settings = {"datasets": [BOLTS], "seeds": [0], "selections": ["sum"], "evaluate_every": 1}
    write_params(project / "params.yaml", **settings)
    done()

    prepared = load(Path("data/prepared/own/bolts-32"))
    assert (prepared.source, prepared.synthetic) == ("own", False)
    assert prepared.classes == sorted(BOLT_CLASSES)
    # No test and no validation folder: a fifth of each class, then a fifth of what is left.
    assert prepared.classes == ["<b>große Öffnung", "Riss & Bruch 100 %", "gut"]
    assert [counts(prepared, pool) for pool in range(3)] == [[4, 13, 8], [1, 3, 2], [1, 4, 2]]

    with Path("reports/demo/runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["dataset"] for row in rows} == {"bolts"}
    assert {row["selection"] for row in rows} == {"sum"}
    scored = {(row["combiner"], row["metric"]) for row in rows if row["split"] == "test"}
    combiners = ("member0", "member1", "mean", "best", "hard", "soft")
    assert scored >= {(c, m) for c in combiners for m in ("accuracy", "accuracy_balanced", "f1_macro")}

    # The numbers are those of the predictions.
    record = Path("results/demo/bolts/alexnet/3shot/fdl/seed0")
    stored = np.load(record / "predictions.npz")
    labels, member = stored["test/labels"], stored["sum/test/logits"][0].argmax(-1)
    recalls = [np.mean(member[labels == label] == label) for label in range(3)]
    value = {(row["method"], row["split"], row["combiner"], row["metric"]): float(row["value"]) for row in rows}
    assert value["fdl", "test", "member0", "accuracy_balanced"] == pytest.approx(np.mean(recalls))
    assert json.loads((record / "run.json").read_text())["settings"]["like"] == "neu"

    page = Path("reports/demo/index.html").read_text()
    assert "bolts" in page
    assert "Balanced accuracy" in page
    assert "<b>große" not in page
    assert "ynthetic" not in page
    assert "bolts" in Path("reports/demo/tables/accuracy_balanced.csv").read_text()
    assert Path("reports/demo/figures/accuracy_over_shots.png").stat().st_size > 0

    assert "Nothing to be done" in done()
    # The same photographs as another size, or from another folder, are other images.
    for change in ({"image_size": 48}, {"folder": "photos/others"}):
        write_params(project / "params.yaml", **settings | {"datasets": [BOLTS | change]})
        assert "prepare" in done("--dry-run")


def test_beside_a_published_dataset_each_is_read_from_its_own_place(project):
    write_photographs("photos/bolts", UNEQUAL)
    write_photographs("images/bsd", {"no pitting": 8, "pitting": 8})
    write_params(project / "params.yaml", datasets=["bsd", BOLTS], antialias=True)
    done("data")
    draws = {path.parents[1].relative_to("data/splits").as_posix() for path in Path("data/splits").rglob("*.json")}
    assert draws == {"local/bsd-32-aa", "own/bolts-32"}
    assert load(Path("data/prepared/own/bolts-32")).classes == sorted(BOLT_CLASSES)
    assert load(Path("data/prepared/local/bsd-32-aa")).source == "local"


def test_pools_of_their_own_are_kept_and_validation_is_cut_from_train(project):
    write_photographs("photos/bolts", dict.fromkeys(BOLT_CLASSES, 10), pool="train")
    write_photographs("photos/bolts", UNEQUAL, pool="test")
    params = tiny(datasets=[BOLTS])
    prepared = load(prepare(params, "bolts", say=quiet))
    assert [counts(prepared, pool) for pool in range(3)] == [[8, 8, 8], [2, 2, 2], [6, 20, 12]]


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
@pytest.mark.parametrize("size", [16, 40])
def test_seven_classes_of_three_shots_leave_a_last_batch_of_one(project, backbone, size):
    write_photographs("photos/bolts", {f"class {number}": 6 for number in range(7)})
    bolts = BOLTS | {"image_size": size}
    params = tiny(datasets=[bolts], backbones=[backbone], seeds=[0], epochs=1, bn_statistics="moving")
    prepare(params, "bolts", say=quiet)
    write_split(params, "bolts", 3, 0)
    receipt = run_bundle(params, Bundle("bolts", backbone, 3), say=quiet)
    assert [cell["status"] for cell in receipt["cells"].values()] == ["done", "done"]
    run = json.loads((layout.record_folder(params, params.cells()[0]) / "run.json").read_text())
    assert run["data"]["train"] == 21
    assert run["data"]["source"] == "own"
    predictions = np.load(layout.record_folder(params, params.cells()[0]) / "predictions.npz")
    assert predictions["last/test/logits"].shape == (2, 7, 7)


def test_the_draw_is_random_from_the_first_seed_on(project):
    """The authors took the first files of NEU; who looks like NEU need not have shuffled folders."""
    write_photographs("photos/bolts", {"a": 20, "b": 20})
    params = tiny(datasets=[BOLTS])
    prepare(params, "bolts", say=quiet)
    split = json.loads(write_split(params, "bolts", 3, 0).read_text())
    assert split["rule"] == "random"
    assert split["source"] == "own"
