"""`collect` on fabricated records: what it writes, what it refuses."""

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.provenance import SCORES_VERSION
from fdl.core.settings import Params
from fdl.results.collect import collect, of_headline_rule, read_collected, read_runs
from fdl.results.locks import bundle_lock
from fdl.results.unfinished import ProgressFile
from tests.reporting.fabricate import COMBINERS, fabricate, small_grid

FILES = ("runs.csv", "costs.csv", "cells.json")
FIRST, SECOND = "neu/alexnet/3shot/classical/seed0", "neu/alexnet/3shot/classical/seed1"


def read(params: Params, name: str) -> list[dict[str, str]]:
    with (layout.report_folder(params) / name).open(newline="") as file:
        return list(csv.DictReader(file))


def record(params: Params, key: str) -> Path:
    return layout.results_folder(params) / key


def refused(params: Params) -> str:
    with pytest.raises(InputError) as caught:
        collect(params)
    message = str(caught.value)
    assert "\n" not in message
    return message


@contextmanager
def in_training(params: Params, key: str) -> Iterator[None]:
    """A process is at work on this cell."""
    (cell,) = [cell for cell in params.cells() if cell.key == key]
    with bundle_lock(params.preset, cell.bundle.key) as holder:
        about = {"preset": params.preset, "cell": key, "settings": params.settings_digest(cell), "by": holder}
        ProgressFile(layout.SCRATCH / "training", about).write([], epochs=20)
        yield


def test_runs_csv_is_tidy_and_holds_every_value(project: Path) -> None:
    params = small_grid()
    fabricate(params, accuracy=dict.fromkeys(params.cells(), 0.123456789012345))
    collect(params)
    rows = read(params, "runs.csv")
    header = (layout.report_folder(params) / "runs.csv").read_text().splitlines()[0]
    assert header == "dataset,backbone,shots,method,seed,selection,split,combiner,metric,value"
    assert len(rows) == 8 * (2 * 2 * len(COMBINERS) + 3)  # splits by metrics by combiners, and three of the ensemble
    assert len({tuple(row.values())[:-1] for row in rows}) == len(rows)
    (soft,) = [
        row["value"]
        for row in rows
        if (row["shots"], row["method"], row["seed"], row["split"], row["combiner"], row["metric"])
        == ("5", "fdl", "1", "test", "soft", "accuracy")
    ]
    assert float(soft) == 0.123456789012345  # all digits


def test_equal_results_give_the_same_bytes_on_another_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = small_grid()
    written = []
    for name, seconds in {"one": 1.5, "other": 99.0}.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        fabricate(params, failed={FIRST}, seconds=seconds, shuffle=name == "other")
        collect(params)
        written.append({file: (layout.report_folder(params) / file).read_bytes() for file in FILES})
    one, other = written
    assert one["runs.csv"] == other["runs.csv"]
    assert one["cells.json"] == other["cells.json"]
    assert one["costs.csv"] != other["costs.csv"]  # what differs is kept there


def test_costs_csv_has_a_row_per_cell_and_no_parameters_of_a_failed_one(project: Path) -> None:
    params = small_grid()
    fabricate(params, failed={FIRST})
    collect(params)
    rows = read(params, "costs.csv")
    assert len(rows) == 8
    assert (rows[0]["status"], rows[0]["parameters"]) == ("failed", "")
    assert (rows[1]["status"], rows[1]["parameters"], rows[1]["train_seconds"]) == ("done", "12345", "1.5")
    assert rows[1]["peak_memory_mb"] == "512.123"


def test_a_failed_cell_is_no_reason_to_refuse_and_has_no_value(project: Path) -> None:
    params = small_grid()
    fabricate(params, failed={FIRST})
    (state,) = collect(params).of("failed")
    assert (state.cell.key, state.epoch, state.reason) == (FIRST, 12, "member 2: the cross-entropy is nan")
    assert set(of_headline_rule(params, read_runs(params))) == set(params.cells()) - {state.cell}


def test_missing_records_are_named(project: Path) -> None:
    params = small_grid()
    fabricate(params, skip={FIRST, SECOND})
    assert refused(params) == (
        f"results/demo: 2 of 8 records cannot be used: 2 missing ({FIRST}, {SECOND}); "
        "`python -m fdl run --preset demo` trains just these, `collect --partial` leaves them out"
    )
    assert not layout.report_folder(params).exists()


def test_a_long_refusal_names_three_and_counts_the_rest(project: Path) -> None:
    message = refused(small_grid())
    assert "8 of 8" in message
    assert "--partial" not in message  # nothing would be left
    assert message.count("seed") == 3
    assert "seed0 and 5 more)" in message
    params = small_grid()
    fabricate(params, skip={cell.key for cell in params.cells()[:3]})
    assert "…" not in refused(params)


@pytest.mark.parametrize("name", ["records", "records.tar.gz"])
def test_where_the_published_records_lie_they_are_offered_before_any_training(project: Path, name: str) -> None:
    params = small_grid()
    archive = layout.report_folder(params) / name
    archive.mkdir(parents=True)
    message = refused(params)
    assert message.startswith(f"results/demo: no records yet; `python -m fdl import {archive} --preset demo` brings in")
    with pytest.raises(InputError, match=rf"cells.json: no such file; `python -m fdl import {archive}"):
        read_collected(params)
    fabricate(params, skip={FIRST})
    assert "1 of 8 records cannot be used: 1 missing" in refused(params)
    with pytest.raises(InputError, match=r"cells.json: no such file; run `python -m fdl collect --preset demo`"):
        read_collected(params)


def test_records_of_other_settings_are_stale(project: Path) -> None:
    fabricate(small_grid(epochs=15))
    message = refused(small_grid(epochs=16))
    assert f"8 stale ({FIRST}, " in message
    assert message.endswith(" and 5 more): epochs: 15 → 16; `python -m fdl run --preset demo` trains just these")


@pytest.mark.parametrize("harm", ["changed", "deleted", "truncated"])
def test_damaged_records_are_named(project: Path, harm: str) -> None:
    params = small_grid()
    fabricate(params)
    if harm == "changed":
        (record(params, SECOND) / "metrics.json").write_text("[]")
    elif harm == "deleted":
        (record(params, SECOND) / "history.parquet").unlink()
    else:
        run = record(params, SECOND) / "run.json"
        run.write_bytes(run.read_bytes()[:100])
    assert f"1 of 8 records cannot be used: 1 damaged ({SECOND})" in refused(params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 1.25}, "accuracy is 1.25"),
        ({"value": float("nan")}, "accuracy is nan"),
        ({}, "accuracy appears twice"),
    ],
)
def test_values_that_cannot_be_are_no_results(project: Path, change: dict[str, float], message: str) -> None:
    params = small_grid()
    fabricate(params)
    folder = record(params, SECOND)
    metrics = json.loads((folder / "metrics.json").read_text())
    (row,) = [r for r in metrics if (r["split"], r["combiner"], r["metric"]) == ("test", "soft", "accuracy")]
    metrics.append(row | change)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    run = json.loads((folder / "run.json").read_text())
    run["files"]["metrics.json"] = files.file_hash(folder / "metrics.json")  # written so, not damaged since
    files.write_atomically(folder / "run.json", files.to_json(run))
    assert f"1 damaged ({SECOND})" in refused(params)
    (state,) = [state for state in collect(params, partial=True).cells if state.status == "damaged"]
    assert state.reason is not None
    assert message in state.reason


def test_partial_leaves_out_what_cannot_be_used_and_says_so(project: Path) -> None:
    params = small_grid(seeds=[0, 1, 2])
    fabricate(small_grid(), skip={FIRST})
    (record(params, SECOND) / "metrics.json").unlink()
    collected = collect(params, partial=True)
    assert len(collected.cells) == 12
    assert [state.status for state in collected.cells[:3]] == ["missing", "damaged", "missing"]
    assert len(collected.of("done")) == 6
    assert len(collected.left_out) == 6
    assert {row["seed"] for row in read(params, "runs.csv")} == {"0", "1"}


def test_a_cell_in_training_counts_as_missing(project: Path) -> None:
    params = small_grid()
    fabricate(params, skip={FIRST})
    with in_training(params, FIRST):
        (state,) = collect(params, partial=True).left_out
    assert (state.cell.key, state.status, state.reason) == (FIRST, "missing", "epoch 0 of 20")


def test_partial_needs_at_least_one_record(project: Path) -> None:
    with pytest.raises(InputError, match="8 of 8"):
        collect(small_grid(), partial=True)


def test_images_that_differ_are_not_compared(project: Path) -> None:
    fabricate(small_grid(methods=["classical"]))
    fabricate(small_grid(methods=["fdl"]), hash="other pixels")
    message = refused(small_grid())
    assert "trained on different images" in message
    assert f"{FIRST} and neu/alexnet/3shot/fdl/seed0" in message


def test_facts_are_those_of_the_records_of_a_dataset(project: Path) -> None:
    params = small_grid(datasets=["neu", "bsd", "tex"])
    fabricate(small_grid(methods=["classical"]), synthetic=False, notes=["one"])
    fabricate(small_grid(methods=["fdl"]), notes=["one", "other"])
    fabricate(small_grid(datasets=["bsd"]), synthetic=False)
    collected = collect(params, partial=True)
    facts = collected.datasets
    assert list(facts) == ["neu", "bsd", "tex"]
    assert {name: fact.synthetic for name, fact in facts.items()} == {"neu": True, "bsd": False, "tex": True}
    assert {name: len(fact.classes) for name, fact in facts.items()} == {"neu": 6, "bsd": 2, "tex": 0}
    assert facts["neu"].notes == ("one", "other")
    assert facts["tex"].chance is None
    assert collected.synthetic, "some of the images are"
    real = small_grid(datasets=["bsd", "tex"], source="local", data_dir="images")
    fabricate(real, skip={cell.key for cell in real.cells() if cell.dataset == "tex"})
    assert not collect(real, partial=True).synthetic


def test_what_was_collected_is_read_back(project: Path) -> None:
    params = small_grid(datasets=["neu", "bsd"])  # not in alphabetical order
    fabricate(params, failed={FIRST}, notes=["two\nlines"])
    collected = collect(params)
    again = read_collected(params)
    assert again == collected
    assert list(again.datasets) == ["neu", "bsd"]
    shutil.rmtree(layout.results_folder(params))
    assert read_collected(params) == collected, "a clone holds the report alone"
    assert json.loads((layout.report_folder(params) / "cells.json").read_text())["schema_version"] == 1
    assert collected.synthetic
    assert collected.datasets["neu"].chance == pytest.approx(1 / 6)
    assert collected.datasets["neu"].notes == ("two lines",)


REFUSED = {
    "never collected": "cells.json: no such file",
    "other settings": "cells.json: collected with other settings",
    "of another schema": "cells.json: collected with other settings",
    "runs.csv changed": "runs.csv: missing or changed since it was collected",
    "runs.csv deleted": "runs.csv: missing or changed since it was collected",
    "cells.json cut": "cells.json: damaged",
    "record deleted in part": "seed1: damaged: .*cam.npz: missing from the record",
    "trained again": "seed1: not the record that was collected",
    "being trained again": "seed1: not the record that was collected",
}


@pytest.mark.parametrize("harm", REFUSED)
def test_reading_refuses_what_is_not_of_these_settings(project: Path, harm: str) -> None:
    params = small_grid()
    folder = layout.report_folder(params)
    if harm != "never collected":
        fabricate(params)
        collect(params)
    if harm == "other settings":
        params = small_grid(epochs=16)
    elif harm == "of another schema":
        content = json.loads((folder / "cells.json").read_text())
        (folder / "cells.json").write_text(json.dumps(content | {"schema_version": 0}))
    elif harm == "runs.csv changed":
        with (folder / "runs.csv").open("a") as file:
            file.write("\n")
    elif harm == "runs.csv deleted":
        (folder / "runs.csv").unlink()
    elif harm == "cells.json cut":
        (folder / "cells.json").write_bytes((folder / "cells.json").read_bytes()[:-20])
    elif harm == "record deleted in part":
        (record(params, SECOND) / "cam.npz").unlink()
    elif harm.endswith("trained again"):
        run = json.loads((record(params, SECOND) / "run.json").read_text())
        run["digests"]["training"] = "another"
        files.write_atomically(record(params, SECOND) / "run.json", files.to_json(run))
    training = in_training(params, SECOND) if harm.startswith("being") else nullcontext()
    with training, pytest.raises(InputError, match=rf"{REFUSED[harm]}.*; run `python -m fdl collect --preset demo`"):
        read_collected(params)


def test_a_cell_that_was_left_out_speaks_against_no_report(project: Path) -> None:
    """The report holds no number of such a cell: its record is not looked at."""
    params = small_grid()
    fabricate(params)
    (record(params, SECOND) / "cam.npz").unlink()
    collected = collect(params, partial=True)
    assert read_collected(params) == collected


def test_names_are_text_whatever_they_are(project: Path) -> None:
    params = small_grid()
    fabricate(params)
    collect(params)
    path = layout.report_folder(params) / "runs.csv"
    path.write_text(path.read_text().replace(",fdl,", ",null,"))  # a method of one's own
    assert set(read_runs(params)["method"]) == {"classical", "null"}


def test_a_record_scored_by_an_older_version_is_stale_and_says_how_to_score_it_again(project: Path) -> None:
    params = small_grid()
    fabricate(params)
    path = record(params, FIRST) / "run.json"
    run = json.loads(path.read_text())
    run["digests"]["scores"] = SCORES_VERSION - 1
    predictions = path.with_name("predictions.npz")
    predictions.write_bytes(b"")
    run["files"][predictions.name] = files.file_hash(predictions)
    path.write_text(json.dumps(run))
    message = refused(params)
    assert f"1 stale ({FIRST})" in message
    assert "`python -m fdl combine --preset demo` scores 1 of them again" in message
    assert len(collect(params, partial=True).left_out) == 1
