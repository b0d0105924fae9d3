"""All controls in one bundle: their records, and what a report makes of a single net among ensembles."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdl.core import layout
from fdl.core.controls import CONTROLS
from fdl.core.settings import Bundle, Cell, Params
from fdl.data.prepare import prepare
from fdl.data.splits import write_split
from fdl.reporting.claims import evaluate
from fdl.reporting.report import write_report
from fdl.reporting.results import read_results
from fdl.reporting.tables import results_table
from fdl.results import records
from fdl.results.collect import collect
from fdl.training.bundle import run_bundle
from tests.projects import tiny, write_images

# `wide` before `fdl`: whatever looks for "the other method" meets the single net first.
METHODS = ["classical", *reversed(CONTROLS), "fdl"]
BLOCK: dict[str, Any] = {"datasets": ["bsd"], "backbones": ["alexnet"], "shots": [3], "methods": METHODS, "seeds": [0]}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A bundle with a cell of every control, run and collected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("controls"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        write_images()
        params = tiny(
            methods=METHODS,
            seeds=[0],
            selections=["sum", "last"],
            evaluate_every=1,
            claims={"grid": [BLOCK]},
            heads=["stacking"],
            head_epochs=1,
            tuning_epochs=0,
        )
        prepare(params, "bsd", say=lambda line: None)
        write_split(params, "bsd", 3, 0)
        run_bundle(params, Bundle("bsd", "alexnet", 3), say=lambda line: None)
        collect(params)
        yield params


def folder(params: Params, method: str) -> Path:
    return layout.record_folder(params, Cell("bsd", "alexnet", 3, method, 0))


def run_of(params: Params, method: str) -> dict[str, Any]:
    run = records.read_run(folder(params, method))
    assert run is not None
    assert run["status"] == "done"
    return run


def metrics(params: Params, method: str) -> dict[tuple[str, str, str], float]:
    """By split, combiner and metric, of the first selection."""
    rows = json.loads((folder(params, method) / "metrics.json").read_bytes())
    return {(row["split"], row["combiner"], row["metric"]): row["value"] for row in rows if row["selection"] == "sum"}


def test_the_wide_net_is_a_single_member_whose_votes_are_its_own(project: Params) -> None:
    run, values = run_of(project, "wide"), metrics(project, "wide")
    assert run["settings"]["members"] == 1
    assert run["heads"] == {}
    for metric in ("accuracy", "f1_macro"):
        of_test = {
            combiner: value for (split, combiner, name), value in values.items() if (split, name) == ("test", metric)
        }
        assert set(of_test) >= {"member0", "mean", "best", "soft", "hard"}
        assert "member1" not in of_test
        assert len(set(of_test.values())) == 1
    absent = {"cosine_sum", "gaussian_sum", "disagreement", "mutual_information", "q_statistic"}
    absent |= {"cam_overlap", "cam_left_out"}
    assert not absent & {metric for _, _, metric in values}
    assert absent - {"q_statistic"} <= {metric for _, _, metric in metrics(project, "deep-ensemble")}


def test_the_wide_net_is_wide(project: Params) -> None:
    """√2 times the channels for two members: about twice the parameters of one."""
    ratio = run_of(project, "wide")["parameters"] / run_of(project, "classical")["parameters"]
    assert 1.6 < ratio < 2.4


def test_the_record_of_a_tuned_cell_says_how_its_rate_was_chosen(project: Params) -> None:
    run = run_of(project, "tuned")
    tuning, rates = run["tuning"], run["settings"]["learning_rates"]
    assert tuning["learning_rates"] == rates == pytest.approx([1e-3 / 3, 1e-3, 3e-3])
    assert tuning["validation_accuracy"][rates.index(tuning["chosen"])] == max(tuning["validation_accuracy"])
    assert "tuning" not in run_of(project, "classical")
    assert not list(layout.SCRATCH.glob("*/rate-*")), "checkpoints of candidates are left over"


def test_a_deep_ensemble_is_another_training_than_classical(project: Params) -> None:
    logits = [
        np.load(folder(project, method) / "predictions.npz")["sum/test/logits"]
        for method in ("classical", "deep-ensemble")
    ]
    assert logits[0].shape == logits[1].shape
    assert not np.allclose(logits[0], logits[1])
    assert {combiner for _, combiner, _ in metrics(project, "deep-ensemble")} >= {"stacking", "soft"}


def test_the_tables_compare_the_single_net_with_the_ensembles(project: Params) -> None:
    with (layout.report_folder(project) / "runs.csv").open() as file:
        assert not any(row["value"] == "nan" for row in csv.DictReader(file))
    table = results_table(read_results(project), "soft", "accuracy")
    headings = [column.heading for column in table.columns]
    assert [heading for heading in headings if heading != "Δ"] == [
        *("classical", "classical, tuned rate", "one wide net", "deep ensemble", "FDL")
    ]
    assert all(entry.n == 1 for entry in table.rows[0].entries.values())
    assert any("one wide net: a single net of about the cost" in remark for remark in table.remarks)


def test_claims_are_not_made_of_a_single_net(project: Params) -> None:
    claims = evaluate(project)
    slices = {claim.slice for claim in claims if claim.id == "C6a"}
    assert slices == {"classical", "classical, tuned rate", "deep ensemble", "FDL"}
    assert next(claim for claim in claims if claim.id == "C5b").found == 2


def test_a_report_is_made_of_single_nets_and_ensembles(project: Params) -> None:
    paths = write_report(project)
    assert {path.name for path in paths} >= {"index.html", "accuracy.md", "cam_bsd_alexnet.png"}
    page = (layout.report_folder(project) / "index.html").read_text(encoding="utf-8")
    assert "one wide net" in page
    assert "nan" not in re.sub(r"data:[^\"]+", "", page).lower().split()
