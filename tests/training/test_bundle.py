"""A bundle's cells on disk: trained once, put in place at once, never mixed up."""

import json
import os
import signal

import numpy as np
import pytest
from pyarrow import parquet

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.provenance import SCORES_VERSION
from fdl.core.settings import Bundle, Cell
from fdl.data.prepare import prepare
from fdl.data.splits import write_split
from fdl.evaluation.diversity import DIVERSITY
from fdl.evaluation.metrics import defined
from fdl.results import records
from fdl.results.scoring import score
from fdl.training import bundle as bundle_module
from fdl.training import checkpoint as checkpoint_module
from fdl.training import predictions as predictions_module
from fdl.training.bundle import map_bundle, run_bundle, train_bundle
from fdl.training.checkpoint import Checkpoint, Interrupted
from fdl.training.costs import program_size, space
from fdl.training.fused import Program
from fdl.training.state import Diverged
from tests.projects import tiny, write_images

BUNDLE = Bundle("bsd", "alexnet", 3)


@pytest.fixture
def ready(project):
    """The settings of a project whose images are prepared and drawn."""
    write_images()
    params = tiny()
    prepare(params, "bsd", say=quiet)
    for draw in (0, 1, 2):
        write_split(params, "bsd", 3, draw)
    return params


@pytest.fixture
def loop(monkeypatch):
    """Make all cells be trained one by one in the plain loop, like those of wide nets."""
    monkeypatch.setattr(bundle_module, "is_fused", lambda settings, device: False)


def quiet(line):
    """No progress."""


def run(params):
    """Run the bundle; returns the cells that were trained."""
    trained = []

    def listen(line):
        if ": cell " in line:
            trained.append(line.rpartition(": ")[2])

    run_bundle(params, BUNDLE, say=listen)
    return trained


def folder(params, method="fdl", seed=0):
    return layout.record_folder(params, Cell("bsd", "alexnet", 3, method, seed))


def results(path):
    """The content of a record without the parts that may differ between equal runs."""
    run = json.loads((path / "run.json").read_bytes())
    files = {name: np.load(path / name) for name in ("predictions.npz", "correct.npz")}
    arrays = {f"{file}/{name}": value.tobytes() for file, content in files.items() for name, value in content.items()}
    history = parquet.read_table(path / "history.parquet").to_pydict()
    kept = {name: value for name, value in run.items() if name not in ("timings", "provenance", "files")}
    return kept, arrays, repr(history), (path / "metrics.json").read_bytes()


def test_every_cell_is_trained_once_and_scored(ready):
    assert run(ready) == ["classical seed 0", "classical seed 1", "fdl seed 0", "fdl seed 1"]
    assert run(ready) == []
    for cell in ready.cells():
        path = layout.record_folder(ready, cell)
        record = records.read_run(path)
        records.verify(path, record)
        assert record["status"] == "done"
        assert record["selected"] == {"last": [1, 1]}
        assert (record["data"]["train"], record["data"]["validation"], record["data"]["test"]) == (6, 8, 10)
        assert record["data"]["synthetic"] is False
        assert record["timings"]["seconds"] > 0
    # The metrics are those of the stored predictions.
    stored = np.load(path / "predictions.npz")
    logits = {split: stored[f"last/{split}/logits"] for split in ("validation", "test")}
    labels = {split: stored[f"{split}/labels"] for split in ("validation", "test")}
    rows, correct = score(logits, labels)
    metrics = json.loads((path / "metrics.json").read_bytes())
    assert metrics[: len(rows)] == [{"selection": "last", **row} for row in rows]
    beside = {(row["split"], row["combiner"], row["metric"]): row["value"] for row in metrics[len(rows) :]}
    known = defined(DIVERSITY, stored["last/train/logits"], stored["train/labels"])
    assert beside.keys() == {
        *(("train", "ensemble", metric) for metric in known),
        *((split, "ensemble", f"{term}_sum") for split in ("train", *logits) for term in ("cosine", "gaussian")),
        ("test", "ensemble", "cam_overlap"),
        ("test", "ensemble", "cam_left_out"),
        ("test", "ensemble", "cam_empty"),
        ("test", "ensemble", "cam_signed_correlation"),
        ("test", "ensemble", "cam_signed_left_out"),
    }
    assert {metric: beside["train", "ensemble", metric] for metric in known} == known
    packed = np.load(path / "correct.npz")
    assert np.unpackbits(packed["last/soft"])[: packed["n"]].tolist() == correct["soft"].astype(int).tolist()
    receipt = json.loads(layout.bundle_file(ready, BUNDLE).read_bytes())
    assert {name: entry["status"] for name, entry in receipt["cells"].items()} == {c.key: "done" for c in ready.cells()}


def test_a_cell_trained_twice_is_bit_identical_and_does_not_depend_on_its_neighbours(ready):
    run(ready)
    together = results(folder(ready))
    alone = tiny(methods=["fdl"], seeds=[0])
    (folder(ready) / "run.json").unlink()
    assert run(alone) == ["fdl seed 0"]
    assert results(folder(ready)) == together


@pytest.mark.parametrize(
    "fields", [{}, {"keep_weights": True, "selections": ["last", "own"], "evaluate_every": 1}], ids=str
)
def test_what_a_bundle_writes_is_about_what_was_forecast(ready, monkeypatch, fields):
    params, checkpoints = tiny(**fields), []
    save = Checkpoint.save

    def weigh(self, state, stage):
        save(self, state, stage)
        replaced = self._file(stage).stat().st_size if stage not in ("trained", "diverged") else 0
        checkpoints.append(replaced + sum(path.stat().st_size for path in layout.SCRATCH.rglob("*.pt")))

    monkeypatch.setattr(checkpoint_module, "SECONDS", 0)
    monkeypatch.setattr(Checkpoint, "save", weigh)
    run(params)
    cells = params.cells()
    forecast = space(params, cells, program=program_size(params, cells, "cpu"))
    written = sum(path.stat().st_size for path in layout.results_folder(params).rglob("seed*/*"))
    assert written / 2 < forecast.records < 2 * written
    largest = max(checkpoints)
    assert largest / 1.5 < forecast.scratch < 1.5 * largest


def test_a_new_seed_or_method_trains_only_its_own_cells(ready):
    assert run(tiny(methods=["classical"], seeds=[0])) == ["classical seed 0"]
    assert run(tiny(methods=["classical"])) == ["classical seed 1"]
    assert run(tiny(seeds=[0, 1, 2])) == ["classical seed 2", "fdl seed 0", "fdl seed 1", "fdl seed 2"]


def test_a_changed_setting_trains_again_and_a_changed_machine_setting_does_not(ready):
    run(ready)
    assert run(tiny(threads=2)) == []
    assert run(tiny(gaussian_weight=2.0)) == ["fdl seed 0", "fdl seed 1"]
    assert len(run(tiny(epochs=3))) == 4


def test_other_images_train_again(ready, monkeypatch):
    before = run(ready)
    write_images(ready_folder := layout.RAW / "other" / "bsd", train=7)
    changed = tiny(data_dir=str(ready_folder.parent))
    prepare(changed, "bsd", say=quiet)
    with pytest.raises(InputError, match="drawn from other images"):
        run(changed)
    for draw in (0, 1):
        write_split(changed, "bsd", 3, draw)
    assert run(changed) == before


def test_a_cell_that_diverges_is_a_record_and_the_others_go_on(ready, loop, monkeypatch):
    train = bundle_module.train

    def diverge(settings, data, **options):
        if (settings.method, settings.seed) == ("fdl", 0):
            raise Diverged(
                1, "member 0: the cross-entropy is nan", [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 2.0}]
            )
        return train(settings, data, **options)

    monkeypatch.setattr(bundle_module, "train", diverge)
    receipt = run_bundle(ready, BUNDLE, say=quiet)
    statuses = [entry["status"] for entry in receipt["cells"].values()]
    assert statuses == ["done", "done", "failed", "done"]
    record = records.read_run(folder(ready))
    assert record["failure"] == {"epoch": 1, "reason": "member 0: the cross-entropy is nan"}
    assert sorted(record["files"]) == ["history.parquet"]
    assert run(ready) == [], "a failure is a result: the same training would fail again"


def test_predictions_that_are_not_finite_are_a_failure_too(ready, monkeypatch):
    predict = predictions_module.predict

    def infinite(settings, nets, pixels, meter, keeper):
        logits = predict(settings, nets, pixels, meter, keeper)
        return logits / 0 if (settings.method, settings.seed) == ("fdl", 0) else logits

    monkeypatch.setattr(predictions_module, "predict", infinite)
    receipt = run_bundle(ready, BUNDLE, say=quiet)
    assert [entry["status"] for entry in receipt["cells"].values()] == ["done", "done", "failed", "done"]
    record = records.read_run(folder(ready))
    assert record["failure"] == {"epoch": 1, "reason": "predictions on train are not finite"}
    assert sorted(record["files"]) == ["history.parquet"]


def test_a_crash_costs_no_finished_cell(ready, loop, monkeypatch):
    train, started = bundle_module.train, []

    def crash(settings, data, **options):
        started.append(settings.seed)
        if len(started) == 3:
            raise MemoryError
        return train(settings, data, **options)

    monkeypatch.setattr(bundle_module, "train", crash)
    with pytest.raises(MemoryError):
        run(ready)
    assert not layout.bundle_file(ready, BUNDLE).exists()
    monkeypatch.setattr(bundle_module, "train", train)
    assert run(ready) == ["fdl seed 0", "fdl seed 1"]
    assert not list(layout.results_folder(ready).rglob(".*partial*")), "what the crash left is cleaned up"


def test_an_interrupted_cell_goes_on_and_leaves_no_checkpoint(ready, monkeypatch):
    undisturbed = tiny(epochs=4)
    run(undisturbed)
    expected = results(folder(undisturbed, seed=1))
    (folder(undisturbed, seed=1) / "run.json").unlink()
    said = []

    def interrupt(line):
        said.append(line)
        if "epoch 2/4" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(bundle_module, "Throttle", lambda say: say)
    with pytest.raises(Interrupted):
        run_bundle(undisturbed, BUNDLE, say=interrupt)
    assert records.read_run(folder(undisturbed, seed=1)) is None
    run_bundle(undisturbed, BUNDLE, say=said.append)
    assert "seed 1: going on after epoch 2" in said
    assert results(folder(undisturbed, seed=1)) == expected
    assert [path.name for path in layout.SCRATCH.iterdir()] == ["locks"]


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "predictions.npz"])
def test_a_damaged_record_is_trained_again(ready, name):
    run(ready)
    expected = results(folder(ready))
    path = folder(ready) / name
    path.write_bytes(path.read_bytes()[:-20])
    assert run(ready) == ["fdl seed 0"]
    assert results(folder(ready)) == expected


def test_a_damaged_image_stops_the_bundle_by_name(ready):
    images = layout.prepared_folder(ready, "bsd") / "images.npy"
    content = bytearray(images.read_bytes())
    content[-1] ^= 1  # of a test image
    images.write_bytes(content)
    with pytest.raises(InputError, match=r"images\.npy: image \d+ .* is damaged"):
        run(ready)


def test_kept_weights_give_the_stored_predictions(ready):
    from safetensors.torch import load_file

    params = tiny(keep_weights=True)
    run(params)
    weights = load_file(folder(params) / "weights-last.safetensors")
    assert {name.partition(".")[0] for name in weights} == {"0", "1"}
    assert "weights-last.safetensors" in records.read_run(folder(params))["files"]


def test_training_alone_leaves_the_rest_to_run(ready, monkeypatch):
    run(ready)
    expected = results(folder(ready))
    for path in layout.results_folder(ready).rglob("run.json"):
        path.unlink()
    assert train_bundle(ready, BUNDLE, say=quiet) == {"trained": 4, "current": 0, "diverged": 0}
    assert train_bundle(ready, BUNDLE, say=quiet) == {"trained": 0, "current": 4, "diverged": 0}
    assert records.read_run(folder(ready)) is None
    monkeypatch.setattr(bundle_module, "train", None)  # never called again
    run(ready)
    assert results(folder(ready)) == expected
    assert [path.name for path in layout.SCRATCH.iterdir()] == ["locks"]


@pytest.mark.parametrize("overlap", [False, True])
def test_maps_are_made_again_from_kept_weights(ready, overlap):
    params = tiny(keep_weights=True)
    run(params)
    expected = dict(np.load(folder(params) / "cam.npz"))
    score = expected.pop("score")
    np.savez(folder(params) / "cam.npz", **{name: array * 0 for name, array in expected.items()})
    record = records.read_run(folder(params))
    record["files"]["cam.npz"] = files.file_hash(folder(params) / "cam.npz")
    record["digests"]["scores"] = 0  # of an older version: the scores that `fdl cam` makes are today's
    files.write_atomically(folder(params) / "run.json", files.to_json(record))
    if not overlap:  # it stays as it was found
        expected |= {name: expected[name] * 0 for name in predictions_module.OVERLAPS}
    assert map_bundle(params, BUNDLE, overlap=overlap, say=quiet) == {"made": 4, "without weights": 0}
    made = np.load(folder(params) / "cam.npz")
    expected["score"] = score
    assert score == "probability"
    assert {name: made[name].tobytes() for name in made} == {name: a.tobytes() for name, a in expected.items()}
    record = records.read_run(folder(params))
    records.verify(folder(params), record)
    assert record["digests"]["scores"] == SCORES_VERSION


def test_maps_of_the_logit_are_others_and_say_so(ready):
    params = tiny(keep_weights=True)
    run(params)
    before = dict(np.load(folder(params) / "cam.npz"))
    assert map_bundle(params, BUNDLE, score="logit", say=quiet) == {"made": 4, "without weights": 0}
    after = dict(np.load(folder(params) / "cam.npz"))
    assert (before["score"], after["score"]) == ("probability", "logit")
    assert {name for name in before if before[name].tobytes() != after[name].tobytes()} == {
        "score", "maps_true", "maps_predicted"
    }  # fmt: skip


def test_without_weights_no_maps_are_made_again(ready):
    assert len(run(tiny(epochs=1))) == 4
    assert map_bundle(tiny(epochs=1), BUNDLE, say=quiet) == {"made": 0, "without weights": 4}


HEADS = {"heads": ["fusion", "stacking"]}


def test_heads_are_trained_scored_and_recorded(ready):
    run(tiny(**HEADS))
    record = records.read_run(folder(ready))
    combiners = ["fusion", "fusion-tuned", "stacking", "stacking-tuned"]
    assert record["heads"] == {name: {"epoch": 0 if "tuned" in name else 2} for name in combiners}
    history = parquet.read_table(folder(ready) / "heads.parquet").to_pydict()
    assert history["combiner"] == ["fusion"] * 3 + ["fusion-tuned"] + ["stacking"] * 3 + ["stacking-tuned"]
    rows = json.loads((folder(ready) / "metrics.json").read_bytes())
    values = {row["combiner"]: row["value"] for row in rows if (row["split"], row["metric"]) == ("test", "accuracy")}
    stored, correct = np.load(folder(ready) / "predictions.npz"), np.load(folder(ready) / "correct.npz")
    for name in combiners:
        right = stored[f"last/test/{name}"].argmax(1) == stored["test/labels"]
        assert values[name] == right.mean()
        assert np.unpackbits(correct[f"last/{name}"])[: correct["n"]].tolist() == right.astype(int).tolist()


def test_other_heads_do_not_train_the_members_again_where_weights_are_kept(ready):
    kept = {"keep_weights": True}
    run(tiny(**kept, **HEADS, head_epochs=2))
    expected = results(folder(ready))
    assert len(run(tiny(**HEADS, head_epochs=2, epochs=1))) == 4  # other members
    assert len(run(tiny(**kept))) == 4  # no heads
    assert run(tiny(**kept, **HEADS, head_epochs=2)) == []
    assert results(folder(ready)) == expected
    assert run(tiny(**kept, **HEADS, head_epochs=1)) == []
    assert results(folder(ready))[1] != expected[1]
    assert run(tiny(**kept)) == []
    assert not list(folder(ready).glob("heads*"))
    assert not [name for name in np.load(folder(ready) / "predictions.npz") if "fusion" in name]


def test_heads_without_kept_weights_say_that_the_members_are_trained_again(ready):
    run(ready)
    members = np.load(folder(ready) / "predictions.npz")["last/test/logits"]
    said = []
    run_bundle(tiny(**HEADS), BUNDLE, say=said.append)
    assert "stale: heads: the settings ask for other ones" in said[0]
    assert any("weights were not kept (keep_weights): it is trained again" in line for line in said)
    assert np.load(folder(ready) / "predictions.npz")["last/test/logits"].tobytes() == members.tobytes()


def test_a_kill_among_the_heads_costs_no_member_and_no_finished_head(ready, monkeypatch):
    params = tiny(**HEADS, seeds=[0])
    run(params)
    expected = results(folder(params))
    (folder(params) / "run.json").unlink()
    train_head, trained = predictions_module.train_head, []

    def crash(name, *arguments, **options):
        trained.append(name)
        if trained == ["fusion", "stacking"]:
            raise MemoryError
        return train_head(name, *arguments, **options)

    monkeypatch.setattr(predictions_module, "train_head", crash)
    with pytest.raises(MemoryError):
        run(params)
    monkeypatch.setattr(Program, "train", None)  # never called again
    run(params)
    assert trained == ["fusion", "stacking", "stacking"]
    assert results(folder(params)) == expected
    assert [path.name for path in layout.SCRATCH.iterdir()] == ["locks"]


def test_a_signal_among_the_heads_stops_at_the_end_of_an_epoch(ready, monkeypatch):
    params = tiny(**HEADS, seeds=[0])

    def interrupt(line):
        if "stacking: epoch 1/3" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(bundle_module, "Throttle", lambda say: say)
    with pytest.raises(Interrupted):
        run_bundle(params, BUNDLE, say=interrupt)
    assert not list(layout.results_folder(params).rglob("run.json"))
    assert run(params) == ["classical seed 0", "fdl seed 0"]


def test_a_head_that_diverges_is_left_out_and_said(ready, monkeypatch):
    train_head = predictions_module.train_head

    def diverge(name, *arguments, **options):
        trained = train_head(name, *arguments, **options)
        if name == "fusion":
            trained["fusion-tuned"].logits["test"][0, 0] = float("nan")
        return trained

    monkeypatch.setattr(predictions_module, "train_head", diverge)
    said: list[str] = []
    run_bundle(tiny(**HEADS, seeds=[0]), BUNDLE, say=said.append)
    left_out = [line for line in said if line.endswith("fusion-tuned: not finite after epoch 1; left out")]
    assert len(left_out) == 2, said  # both cells, whatever the throttle lets through
    record = records.read_run(folder(ready))
    assert record["status"] == "done"
    assert record["heads"]["fusion-tuned"] == {"failed": "not finite after epoch 1"}
    rows = json.loads((folder(ready) / "metrics.json").read_bytes())
    assert {row["combiner"] for row in rows} >= {"fusion", "stacking", "stacking-tuned"}
    assert "fusion-tuned" not in {row["combiner"] for row in rows}


def test_scores_of_an_older_version_of_the_code_are_made_anew(ready, monkeypatch):
    run(ready)
    record = records.read_run(folder(ready))
    (folder(ready) / "metrics.json").write_bytes(b"[]\n")
    record["digests"]["scores"] -= 1
    record["files"]["metrics.json"] = files.file_hash(folder(ready) / "metrics.json")
    files.write_atomically(folder(ready) / "run.json", files.to_json(record))
    assert run(ready) == []
    assert len(json.loads((folder(ready) / "metrics.json").read_bytes())) > 50


def test_a_bundle_outside_the_grid_is_refused(ready):
    with pytest.raises(InputError, match="tex/vgg/3shot is not in the grid of preset 'demo'"):
        run_bundle(ready, Bundle("tex", "vgg", 3), say=quiet)
