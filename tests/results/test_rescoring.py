"""Which records are scored again from their predictions, and what becomes of the others."""

import json
import math

import pytest

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.provenance import SCORES_VERSION
from fdl.core.settings import Cell
from fdl.evaluation.metrics import METRICS, Metric
from fdl.results import records
from fdl.results.locks import bundle_lock
from fdl.results.receipts import write_receipt
from fdl.results.scoring import rescore, rescore_record
from fdl.results.state import Judge
from tests.projects import tiny
from tests.reporting.fabricate import fabricate, small_grid

NONE = dict.fromkeys(("rescored", "same", "missing", "without predictions", "stale", "in training"), 0)
CELL = Cell("bsd", "alexnet", 3, "fdl", 0)


def test_a_new_metric_needs_no_training(trained, monkeypatch):
    folder, receipt = layout.record_folder(trained, CELL), layout.bundle_file(trained, CELL.bundle)
    write_receipt(trained, CELL.bundle, Judge(trained).states())
    before = {path: path.stat().st_mtime_ns for path in [*layout.results_folder(trained).rglob("run.json"), receipt]}
    assert rescore(trained) == NONE | {"same": 4}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    errors = Metric("errors", lambda predicted, labels: float((predicted != labels).sum()), "classes", (0, math.inf))
    monkeypatch.setitem(METRICS, "errors", errors)
    assert rescore(tiny(gaussian_weight=2.0)) == NONE | {"rescored": 2, "stale": 2}
    with bundle_lock(trained.preset, CELL.bundle.key):
        assert rescore(trained) == NONE | {"in training": 4}
    assert rescore(trained) == NONE | {"rescored": 2, "same": 2}
    assert receipt.stat().st_mtime_ns > before[receipt], "Snakemake makes the tables again"
    record = records.read_run(folder)
    records.verify(folder, record)
    values = {
        (row["combiner"], row["metric"]): row["value"]
        for row in json.loads((folder / "metrics.json").read_bytes())
        if row["split"] == "test"
    }
    assert values["soft", "errors"] == round(record["data"]["test"] * (1 - values["soft", "accuracy"]))
    assert all(state.status == "done" for state in Judge(trained).states())


def test_equal_scores_of_an_older_version_become_current(trained):
    folder = layout.record_folder(trained, CELL)
    record = records.read_run(folder)
    record["digests"]["scores"] = SCORES_VERSION - 1
    files.write_atomically(folder / "run.json", files.to_json(record))
    assert rescore(trained) == NONE | {"same": 4}
    assert records.read_run(folder)["digests"]["scores"] == SCORES_VERSION


def test_records_that_cannot_be_scored_again_are_counted_by_reason(project):
    params = small_grid()
    keys = [cell.key for cell in params.cells()]
    fabricate(params, skip=keys[:1], failed=keys[1:3])  # without predictions, as if they had come from an archive
    assert rescore(params) == NONE | {"missing": 3, "without predictions": 5}
    for changed in ({"epochs": 16}, {"head_epochs": 7}):
        assert rescore(small_grid(**changed)) == NONE | {"missing": 3, "stale": 5}
    (layout.results_folder(params) / keys[3] / "metrics.json").write_text("[]")
    with pytest.raises(InputError, match=rf"{keys[3]}/metrics.json: differs from its hash"):
        rescore(params)


def test_current_scores_and_failed_cells_need_no_predictions(tmp_path):
    run = {"status": "done", "digests": {"scores": SCORES_VERSION}, "files": {}}
    assert not rescore_record(tmp_path, run)
    older = run | {"digests": {"scores": SCORES_VERSION - 1}}
    assert not rescore_record(tmp_path, older | {"status": "failed"})
    with pytest.raises(InputError, match="without the predictions to score again"):
        rescore_record(tmp_path, older)
    assert not any(tmp_path.iterdir())
