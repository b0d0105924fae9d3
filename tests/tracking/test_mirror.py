"""The mirror in MLflow: what a reader of the store sees, and that a pass may be repeated, killed and doubled.

MLflow takes seconds to import and to create a database: the tables are made once and copied.
"""

import contextlib
import csv
import json
import math
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.head_settings import head_settings
from fdl.core.provenance import SCORES_VERSION
from fdl.core.settings import Cell, Params, digest, load
from fdl.results import records
from fdl.tracking import record_view
from fdl.tracking.mirror import mirrored, track
from fdl.tracking.store import Unusable

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"
EPOCHS = 120
FDL, CLASSICAL = (Cell("neu", "alexnet", 3, method, 0) for method in ("fdl", "classical"))


def small_grid(**overrides) -> Params:
    """Four cells in two bundles: NEU, AlexNet, shots 3 and 5, both methods, one seed."""
    grid = {"datasets": ["neu"], "backbones": ["alexnet"], "shots": [3, 5], "seeds": [0]}
    return load(
        PARAMS_FILE, preset="demo", overrides=grid | {"selections": ["sum", "last"], "evaluate_every": 2} | overrides
    )


def split_hash(params: Params, cell: Cell) -> str:
    return digest([cell.dataset, cell.shots, params.draw_of(cell.seed)])


def write_history(path: Path, params: Params, diverged: bool) -> None:
    """A history as a training writes it: validated every second epoch, NaN where it was not."""
    epochs = 13 if diverged else EPOCHS
    falling = np.exp(-np.arange(epochs) / 30) * 9
    columns = {"epoch": list(range(epochs)), "loss": falling.tolist(), "cosine": (falling / 3).tolist()}
    for member in range(params.members):
        columns[f"train_accuracy_{member}"] = (1 - falling / 9).tolist()
        validated = [1 - value / 9 if epoch % 2 else math.nan for epoch, value in enumerate(falling)]
        columns[f"validation_accuracy_{member}"] = validated
    if diverged:
        columns["loss"][-1] = math.nan
    parquet.write_table(pa.table(columns), path)


def write_arrays(folder: Path, params: Params) -> None:
    """Three test images of each class; all members take the second class for the first. Black images, maps of 1."""
    labels = np.repeat(np.arange(6), 3)
    logits = np.tile(10 * np.eye(6)[np.where(labels == 0, 1, labels)], (params.members, 1, 1))
    by_rule = {f"{rule}/test/logits": logits for rule in params.selections_of("neu")}
    np.savez(folder / "predictions.npz", allow_pickle=False, **by_rule, **{"test/labels": labels})
    maps, pixels = np.ones((params.members, 6, 4, 4), np.float16), np.zeros((6, 32, 32, 3), np.uint8)
    np.savez(folder / "correct.npz", allow_pickle=False, n=np.array(len(labels)))
    np.savez(folder / "cam.npz", allow_pickle=False, maps_predicted=maps, pixels=pixels, labels=np.arange(6))


def write_record(params: Params, cell: Cell, *, accuracy: float = 0.5, diverged: bool = False) -> None:
    """Publish a record with invented numbers, through the same door as a training."""
    folder = layout.record_folder(params, cell)
    temporary = folder.with_name(f".{folder.name}.partial")
    temporary.mkdir(parents=True)
    write_history(temporary / "history.parquet", params, diverged)
    if not diverged:
        rows = [
            {"selection": rule, "split": split, "combiner": combiner, "metric": metric, "value": accuracy - drop}
            for rule in params.selections_of(cell.dataset)
            for split in ("validation", "test")
            for metric in ("accuracy", "f1_macro")
            for combiner, drop in {"member0": 0.2, "mean": 0.1, "best": 0.05, "hard": 0.02, "soft": 0}.items()
        ]
        (temporary / "metrics.json").write_bytes(files.to_json(rows))
        write_arrays(temporary, params)
    run = {
        "key": cell.key,
        "cell": {name: getattr(cell, name) for name in ("dataset", "backbone", "shots", "method", "seed")},
        "digests": {
            "settings": params.settings_digest(cell),
            "training": f"training of {cell.key}",
            "heads": (heads := head_settings(params, cell)) and heads.digest,
            "scores": SCORES_VERSION,
        },
        "status": "failed" if diverged else "done",
        "failure": {"epoch": 12, "reason": "member 2: the cross-entropy is nan"} if diverged else None,
        "settings": params.training_settings(cell),
        "data": {
            "source": "synthetic",
            "synthetic": True,
            "notes": ["A synthetic twin of NEU."],
            "classes": list("abcdef"),
            "hash": f"pixels of {cell.dataset}",
            "train": cell.shots * 6,
            "validation": 120,
            "test": 300,
        },
        "split": {
            "hash": split_hash(params, cell),
            "draw": params.draw_of(cell.seed),
            "rule": "random",
        },
        "selected": {},
        "timings": {"seconds": 12.5, "train_seconds": 12.0, "evaluate_seconds": 0.5, "peak_memory_mb": 512.0},
        "provenance": {
            "git": {"commit": "0123abc", "dirty": False},
            "versions": {"torch": "2"},
            "device": "cpu",
            "precision": "float32",
        },
    }
    records.publish(temporary, folder, run if diverged else run | {"parameters": 12345})


def write_records(params: Params) -> None:
    for cell in params.cells():
        write_record(params, cell)


class Store:
    """What a reader sees of a preset's experiment."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)

    @property
    def experiment(self) -> "Experiment":
        experiment = self.client.get_experiment_by_name("fdl-demo")
        assert experiment
        return experiment

    def runs(self) -> dict[str, "Run"]:
        """The active runs by name; a name that stands twice is an error."""
        found = list(self.client.search_runs([self.experiment.experiment_id], max_results=1000))
        runs = {run.info.run_name: run for run in found}
        assert len(runs) == len(found)
        return runs

    def ids(self) -> dict[str, str]:
        return {name: run.info.run_id for name, run in self.runs().items()}

    def curve(self, cell: Cell, name: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.ids()[cell.key], name)
        return sorted((point.step, point.value) for point in history)


def counts(new: int = 0, replaced: int = 0, same: int = 0, missing: int = 0, stale: int = 0) -> dict[str, int]:
    return {"new": new, "replaced": replaced, "same": same, "missing": missing, "stale": stale}


def test_first_pass_shows_a_parent_per_bundle_and_a_child_per_cell(uri) -> None:
    params = small_grid()
    write_records(params)
    assert track(params, uri=uri) == counts(new=4)
    runs = Store(uri).runs()
    assert set(runs) == {cell.key for cell in params.cells()} | {bundle.key for bundle in params.bundles()}
    for cell in params.cells():
        assert runs[cell.key].data.tags["mlflow.parentRunId"] == runs[cell.bundle.key].info.run_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_a_cell_shows_its_settings_numbers_tags_data_and_files(uri) -> None:
    params = small_grid()
    write_records(params)
    track(params, uri=uri)
    store = Store(uri)
    run = store.runs()[FDL.key]
    shown = {"dataset": "neu", "shots": "3", "method": "fdl", "seed": "0", "members": "5", "selections": "sum, last"}
    assert (
        run.data.params.items()
        >= {**shown, "cosine_weight": "1", "test_images": "300", "parameters_per_member": "12345"}.items()
    )
    metrics = run.data.metrics
    assert metrics["test.soft.accuracy"] == 0.5
    assert metrics["test.member0.accuracy"] == pytest.approx(0.3)
    assert metrics["validation.hard.f1_macro"] == pytest.approx(0.48)
    assert metrics["last/test.mean.accuracy"] == pytest.approx(0.4)
    # The page that compares runs sorts by name, and draws the first.
    assert min(metrics) == "accuracy"
    assert metrics["accuracy"] == metrics["test.soft.accuracy"]
    assert metrics["resources/peak_memory_mb"] == 512
    tags = {"dataset": "neu", "backbone": "alexnet", "shots": "3", "method": "fdl", "seed": "0", "git": "0123abc"}
    tags |= {"device": "cpu", "source": "synthetic", "synthetic": "true", "status": "done", "git_dirty": "false"}
    assert run.data.tags.items() >= tags.items()
    assert run.data.tags["mlflow.note.content"].startswith("NEU (synthetic)")
    assert "numbers mean nothing" in run.data.tags["mlflow.note.content"]
    assert run.inputs
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "neu-32 3shot draw0"
    assert data.dataset.digest == split_hash(params, FDL)[:36]
    assert run.info.end_time - run.info.start_time == 12_500


def test_a_cell_carries_its_record_confusion_matrix_maps_and_whole_curves(uri, tmp_path) -> None:
    params = small_grid()
    write_records(params)
    write_record(params, CLASSICAL, diverged=True)
    track(params, uri=uri)
    store = Store(uri)
    ids = store.ids()

    def carried(cell: Cell) -> set[str]:
        return {file.path for file in store.client.list_artifacts(ids[cell.key])}

    assert carried(FDL) == {"run.json", "metrics.json", "curves.csv", "confusion.csv", "confusion.png", "maps.png"}
    assert carried(CLASSICAL) == {"run.json", "curves.csv"}
    folder = Path(store.client.download_artifacts(ids[FDL.key], "", str(tmp_path)))
    assert (folder / "run.json").read_bytes() == (layout.record_folder(params, FDL) / "run.json").read_bytes()
    with (folder / "confusion.csv").open() as file:
        _, *matrix = csv.reader(file)
    assert [[int(count) for count in row[1:3]] for row in matrix] == [[0, 3], [0, 3], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert [row[0] for row in matrix] == list("abcdef")
    drawn = np.asarray(Image.open(folder / "confusion.png"))
    assert drawn.shape == (300, 300, 3)  # six classes of 50 pixels
    dark = (drawn[25::50, 25::50] == (0, 52, 104)).all(axis=-1)
    # All of the first two classes are taken for the second, the others for what they are.
    assert np.argwhere(dark).tolist() == [[0, 1], *([place, place] for place in range(1, 6))]
    with (folder / "curves.csv").open() as file:
        assert len(list(csv.DictReader(file))) == EPOCHS
    picture = np.asarray(Image.open(folder / "maps.png"))
    side = picture.shape[0] // 3
    assert picture.shape == (3 * side, 6 * side, 3)  # three images, and five members beside each
    assert not picture[:, :side].any()
    assert picture[:, side:].any(axis=-1).all()


def test_every_run_says_how_much_each_term_weighs(uri) -> None:
    """The page that compares runs draws one without a parameter above those that have it."""
    params = small_grid(shots=[3], methods=["classical", "fdl", "fdl-cosine", "cka"])
    write_records(params)
    track(params, uri=uri)
    runs = Store(uri).runs()
    terms = ("cosine_weight", "gaussian_weight", "strength")
    weights = {
        method: [float(runs[f"neu/alexnet/3shot/{method}/seed0"].data.params[term]) for term in terms]
        for method in params.methods
    }
    assert weights == {"classical": [0, 0, 0], "fdl": [1, 10, 0], "fdl-cosine": [1, 0, 0], "cka": [0, 0, 1]}


def test_an_experiment_opens_as_the_training_of_models(uri) -> None:
    track(small_grid(), uri=uri)
    assert Store(uri).experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_curves_are_thinned_with_first_and_last_and_without_nan(uri) -> None:
    params = small_grid()
    write_records(params)
    track(params, uri=uri)
    store = Store(uri)
    loss = store.curve(FDL, "curve/loss")
    assert len(loss) == 25
    assert [loss[0][0], loss[-1][0]] == [0, EPOCHS - 1]
    assert loss[0][1] == 9
    validation = store.curve(FDL, "curve/validation_accuracy.member4")
    assert len(validation) == 25
    assert all(epoch % 2 == 1 and math.isfinite(value) for epoch, value in validation)
    assert [validation[0][0], validation[-1][0]] == [1, EPOCHS - 1]


def test_thinning_keeps_a_short_curve_whole() -> None:
    points = [(epoch, float(epoch)) for epoch in range(25)]
    assert record_view.thin(points) == points
    assert record_view.thin(points, 3) == [points[0], points[12], points[24]]
    assert record_view.thin([]) == []


def test_a_bundle_shows_means_over_finished_seeds(uri) -> None:
    params = small_grid(shots=[3], seeds=[0, 1, 2])
    for cell in params.cells():
        write_record(params, cell, accuracy=0.4 + cell.seed / 7, diverged=(cell.method, cell.seed) == ("fdl", 2))
    track(params, uri=uri)
    bundle = Store(uri).runs()["neu/alexnet/3shot"]
    # Rounded to what a reader of MLflow's tables needs; the records hold all digits.
    assert bundle.data.metrics["soft.accuracy.classical"] == 0.5429
    assert bundle.data.metrics["soft.accuracy.fdl"] == 0.4714
    assert Store(uri).runs()["neu/alexnet/3shot/fdl/seed1"].data.metrics["test.soft.accuracy"] == 0.5429
    assert bundle.data.metrics["seeds.fdl"] == 2
    assert sorted(bundle.data.metrics)[:2] == ["accuracy.classical", "accuracy.fdl"]
    assert bundle.data.metrics["accuracy.fdl"] == bundle.data.metrics["soft.accuracy.fdl"]
    assert bundle.data.tags["status"] == "5 done, 1 failed, 0 missing"


def test_saved_views_name_columns_that_the_runs_have(uri) -> None:
    params = small_grid()
    write_records(params)
    write_record(params, FDL, diverged=True)
    track(params, uri=uri)
    store = Store(uri)
    views = [json.loads(view) for tag, view in store.experiment.tags.items() if "sharedViewState" in tag]
    assert [view["name"] for view in views] == ["Bundles", "Cells"]
    for view in views:
        state = json.loads(view["state"])
        wanted = set(state["selectedColumns"])
        assert "soft.accuracy" in state["orderByKey"]
        assert state["orderByKey"] in wanted
        shown = store.client.search_runs([store.experiment.experiment_id], filter_string=state["searchFilter"])
        assert {run.info.run_name.count("/") for run in shown} == {4 if view["name"] == "Cells" else 2}
        columns = {
            f"{kind}.`{name}`"
            for run in shown
            for kind in ("params", "metrics", "tags")
            for name in getattr(run.data, kind)
        }
        assert wanted <= columns


def test_second_pass_changes_nothing(uri) -> None:
    params = small_grid()
    write_records(params)
    track(params, uri=uri)
    before = Store(uri).ids()
    assert track(params, uri=uri) == counts(same=4)
    assert Store(uri).ids() == before


def test_only_a_changed_cell_is_replaced(uri) -> None:
    params = small_grid()
    write_records(params)
    track(params, uri=uri)
    before = Store(uri).ids()
    write_record(params, FDL, accuracy=0.75)
    assert track(params, uri=uri) == counts(replaced=1, same=3)
    runs = Store(uri).runs()
    changed = {name for name, run in runs.items() if run.info.run_id != before[name]}
    assert changed == {FDL.key, FDL.bundle.key}
    assert runs[FDL.key].data.metrics["test.soft.accuracy"] == 0.75
    assert runs[FDL.bundle.key].data.metrics["soft.accuracy.fdl"] == 0.75
    assert runs[CLASSICAL.key].data.tags["mlflow.parentRunId"] == runs[FDL.bundle.key].info.run_id


def test_a_killed_pass_is_repaired(uri, monkeypatch) -> None:
    params = small_grid()
    write_records(params)
    described = []

    def killed_at_the_second_cell(record, dataset):
        described.append(record.cell)
        if len(described) == 2:
            raise KeyboardInterrupt
        return dataset_input(record, dataset)

    dataset_input = record_view.dataset_input
    monkeypatch.setattr(record_view, "dataset_input", killed_at_the_second_cell)
    with pytest.raises(KeyboardInterrupt):
        track(params, uri=uri)
    monkeypatch.setattr(record_view, "dataset_input", dataset_input)
    whole, half = (cell.key for cell in described)
    left = Store(uri).runs()
    assert {name: run.info.status for name, run in left.items()} == {
        FDL.bundle.key: "RUNNING",
        whole: "FINISHED",
        half: "RUNNING",
    }
    assert track(params, uri=uri) == counts(new=2, replaced=1, same=1)
    runs = Store(uri).runs()
    assert len(runs) == 6
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs[whole].info.run_id == left[whole].info.run_id
    assert runs[whole].data.tags["mlflow.parentRunId"] == runs[FDL.bundle.key].info.run_id


def test_a_diverged_cell_is_shown_as_failed_with_its_reason(uri) -> None:
    params = small_grid()
    write_records(params)
    write_record(params, FDL, diverged=True)
    assert track(params, uri=uri) == counts(new=4)
    store = Store(uri)
    run = store.runs()[FDL.key]
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"] == "epoch 12: member 2: the cross-entropy is nan"
    assert "Diverged in epoch 12" in run.data.tags["mlflow.note.content"]
    assert "test.soft.accuracy" not in run.data.metrics
    assert store.curve(FDL, "curve/loss")[-1][0] == 11
    assert track(params, uri=uri) == counts(same=4)


def test_missing_cells_are_counted_and_added_when_they_come(uri) -> None:
    params = small_grid()
    write_record(params, CLASSICAL)
    assert track(params, uri=uri) == counts(new=1, missing=3)
    runs = Store(uri).runs()
    assert set(runs) == {CLASSICAL.key, CLASSICAL.bundle.key}
    assert runs[CLASSICAL.bundle.key].data.tags["status"] == "1 done, 0 failed, 1 missing"
    write_record(params, FDL)
    assert track(params, uri=uri) == counts(new=1, same=1, missing=2)
    assert Store(uri).runs()[FDL.bundle.key].data.tags["status"] == "2 done, 0 failed, 0 missing"


def test_a_stale_record_is_counted_and_not_shown(uri) -> None:
    params = small_grid()
    write_records(params)
    changed = small_grid(gaussian_weight=2.0)
    assert track(changed, uri=uri) == counts(new=2, stale=2)
    assert set(Store(uri).runs()) == {
        *(bundle.key for bundle in changed.bundles()),
        *(cell.key for cell in changed.cells() if cell.method == "classical"),
    }
    assert mirrored(changed) == {
        cell.key: f"training of {cell.key}" for cell in changed.cells() if cell.method == "classical"
    }


def test_a_damaged_record_is_named(uri) -> None:
    params = small_grid()
    write_records(params)
    damaged = layout.record_folder(params, FDL) / "metrics.json"
    damaged.write_bytes(b"[]")
    with pytest.raises(InputError, match=rf"^{damaged}: differs from its hash"):
        track(params, uri=uri)


def test_two_processes_at_once_fill_a_cold_store_once(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = small_grid()
    write_records(params)
    command = [sys.executable, "-m", "fdl", "track", "--params", str(params.write(layout.RESULTS))]
    passes = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONWARNINGS": ""}
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in passes]
    assert [errors for _, errors in outputs] == ["", ""]
    assert sorted(printed for printed, _ in outputs) == [
        "mlflow: 0 new, 0 replaced, 4 same, 0 missing, 0 stale\n",
        "mlflow: 4 new, 0 replaced, 0 same, 0 missing, 0 stale\n",
    ]
    assert len(Store(f"sqlite:///{tmp_path}/mlflow.db").runs()) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlartifacts", "mlflow.db", "mlflow.db.lock", "results"]


@pytest.mark.parametrize("uri", ["http://me:secret@127.0.0.1:9", "mysql+pymysql://me:secret@127.0.0.1:9/fdl"])
def test_a_store_out_of_reach_is_one_line_without_the_password(uri, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    params = small_grid()
    write_records(params)
    with pytest.raises(InputError) as caught:
        track(params, uri=uri)
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    assert message.startswith("MLflow at ")
    assert "127.0.0.1:9" in message
    assert "python -m fdl track" in message


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:s3cr@et@127.0.0.1:9/x",
        "http://me:s3cr/et@127.0.0.1:9",
        "http://me:s3cret@127.0.0.1:port",
        "http://127.0.0.1:9?token=s3cret",
        "http://127.0.0.1:9/?password=s3cret",
        "postgresql://me:s3cret@127.0.0.1:port/fdl",
        "mysql+pymysql://me:s3cr#et@127.0.0.1:9/fdl",
        "sqlite://me:s3cret@lab/mlflow.db",
        "databricks://me:s3cret",
        "ftp://me:s3cret@lab",
        "me:s3cret@lab",
        "http://[s3cret",
    ],
)
def test_no_address_ends_in_a_traceback_or_shows_its_password(uri, project, monkeypatch, fdl) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shutil.copy(PARAMS_FILE, "params.yaml")
    code, out, err = fdl("track", "--uri", uri)
    assert code == 2
    assert "s3cr" not in out + err
    assert err.startswith("fdl: MLflow at ")
    assert len(err.splitlines()) == 1


@pytest.fixture
def fdl(monkeypatch, capfd):
    """A verb, called in this process: exit code, output, errors."""
    from fdl.cli import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fdl", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


def other_schema(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")


def no_tables(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TABLE alembic_version")
        connection.execute("DROP TABLE tags")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.write_bytes(b"<html>" * 1000), "mlflow.db: damaged; delete "),
        (lambda file: file.write_bytes(file.read_bytes()[:50_000]), "mlflow.db: damaged; delete "),
        (other_schema, "mlflow.db: its tables are of another version of MLflow; delete "),
        (no_tables, "mlflow.db: not an MLflow database, or damaged ("),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_that_helps(uri, harm, said) -> None:
    harm(Path("mlflow.db"))
    with pytest.raises(Unusable) as caught:  # so that --watch does not try again
        track(small_grid(), uri=uri)
    message = str(caught.value)
    assert said in message
    assert "then run `python -m fdl track`" in message
    assert "SQL:" not in message
    assert len(message.splitlines()) == 1
    Path("mlflow.db").unlink()


def test_a_database_of_another_user_names_the_file_its_owner_and_the_remedy(uri, monkeypatch) -> None:
    from mlflow.exceptions import MlflowException

    track(small_grid(), uri=uri)

    def refuse(*_, **__):
        raise MlflowException("x") from sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr("fdl.tracking.mirror._mirror", refuse)
    with pytest.raises(Unusable) as caught:
        track(small_grid(), uri=uri)
    owner = Path("mlflow.db").owner()
    assert f"mlflow.db: cannot be written by you ({Path.cwd()}/mlflow.db is {owner}'s); ask for the right" in str(
        caught.value
    )
    assert "--uri sqlite:///FILE" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(uri) -> None:
    Path("mlflow.db").unlink()
    Path.cwd().chmod(0o500)
    try:
        with pytest.raises(Unusable, match="cannot be written by you"):
            track(small_grid(), uri=uri)
    finally:
        Path.cwd().chmod(0o700)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_another_disk_stays_a_link(uri, there) -> None:
    Path("disk").mkdir()
    Path("mlflow.db").rename("disk/mlflow.db")
    if not there:
        Path("disk/mlflow.db").unlink()
    Path("mlflow.db").symlink_to("disk/mlflow.db")
    params = small_grid()
    write_records(params)
    track(params, uri=uri)
    assert Path("mlflow.db").is_symlink()
    assert len(Store(uri).runs()) == 6
    assert Path("disk/mlflow.db").stat().st_size


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_a_new_database_follows_the_umask(tmp_path, monkeypatch, mask) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(mask)
    try:
        track(small_grid(), uri=f"sqlite:///{tmp_path}/mlflow.db")
    finally:
        os.umask(before)
    for name in ("mlflow.db", "mlflow.db.lock"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o666 & ~mask, name


def test_make_ui_sends_nothing_either() -> None:
    rule = (PARAMS_FILE.parent / "Makefile").read_text().partition("\nui:")[2].partition("\n\n")[0]
    assert "MLFLOW_DISABLE_TELEMETRY=true" in rule


def test_a_store_without_a_file_name_is_refused() -> None:
    with pytest.raises(InputError, match="names no database file"):
        track(small_grid(), uri="sqlite://")


def test_a_deleted_experiment_is_not_filled(uri) -> None:
    params = small_grid()
    track(params, uri=uri)
    store = Store(uri)
    store.client.delete_experiment(store.experiment.experiment_id)
    with pytest.raises(InputError, match="was deleted; bring it back with `mlflow experiments restore"):
        track(params, uri=uri)


def test_the_module_is_imported_without_mlflow() -> None:
    code = "import sys, fdl.tracking.mirror; sys.exit(any(map(sys.modules.get, ('mlflow', 'sqlalchemy', 'pyarrow'))))"
    subprocess.run([sys.executable, "-c", code], check=True)
