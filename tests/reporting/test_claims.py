"""The claims, from fabricated records to verdicts and the files that are written."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.settings import Cell, load
from fdl.evaluation.statistics import clustered_mean
from fdl.reporting.claim_quantities import frozen_cells
from fdl.reporting.claims import evaluate, write_claims
from fdl.reporting.results import read_results
from tests.reporting.claim_records import cams, claim, gain, grid, write
from tests.reporting.fabricate import PARAMS_FILE


def test_without_a_frozen_grid_one_line_says_that_there_are_no_verdicts(project: Path) -> None:
    params = load(PARAMS_FILE, preset="demo")
    assert evaluate(params) == []  # not even `collect` is needed
    for path in write_claims(params, evaluate(params)):
        if path.suffix != ".csv":
            assert "No verdicts: preset demo names no frozen grid" in path.read_text().replace("\n", " ")
    assert len((project / "reports/demo/tables/claims.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize(("points", "verdict"), [(20, "supported"), (-20, "contradicted"), (0, "equivalent")])
def test_c1_is_the_mean_paired_difference_of_the_soft_vote(project: Path, points: float, verdict: str) -> None:
    params = grid()
    write(params, gain(points))
    c1 = claim(evaluate(params), "C1")
    values = read_results(params).values("soft", "accuracy")
    by_dataset = {
        name: np.mean([v * (1 if c.method == "fdl" else -1) for c, v in values.items() if c.dataset == name]) * 200
        for name in ("bsd", "neu")
    }
    assert c1.estimate == pytest.approx(np.mean(list(by_dataset.values())), abs=1e-5)
    assert c1.without == pytest.approx({"bsd": by_dataset["neu"], "neu": by_dataset["bsd"]}, abs=1e-5)
    assert (c1.verdict, c1.seeds, c1.found, c1.cells) == (verdict, 5, 40, 40)
    assert c1.reading == f"{verdict} on this grid ({c1.reason})"
    assert c1.p is not None
    assert c1.p_equivalence is not None
    # What the reason says is what was tested.
    assert ("90 % interval" in c1.reason, c1.p_equivalence < 0.05) == ((verdict == "equivalent"),) * 2
    assert ("above 0" in c1.reason, "below 0" in c1.reason) == (verdict == "supported", verdict == "contradicted")


def test_c1_clusters_by_seed_and_by_image(project: Path) -> None:
    params = grid()
    write(params, gain(6))
    right: dict[Cell, np.ndarray[Any, Any]] = {}
    for cell in params.cells():
        with np.load(layout.record_folder(params, cell) / "correct.npz") as file:
            right[cell] = 100.0 * np.unpackbits(file["last/soft"], count=int(file["n"]))
    arrays = [
        np.array(
            [
                [
                    right[Cell(name, "alexnet", k, "fdl", s)] - right[Cell(name, "alexnet", k, "classical", s)]
                    for s in range(5)
                ]
                for k in (3, 5)
            ]
        )
        for name in ("bsd", "neu")
    ]
    expected = clustered_mean(arrays)
    c1 = claim(evaluate(params), "C1")
    assert (c1.low, c1.high) == pytest.approx([float(bound) for bound in expected.interval()], abs=1e-5)
    assert c1.df == pytest.approx(float(expected.df), abs=1e-5)


def test_a_small_gain_is_called_small(project: Path) -> None:
    params = grid()
    write(params, gain(0.8))
    c1 = claim(evaluate(params), "C1")
    assert c1.low is not None
    assert c1.low > 0
    assert c1.reading.startswith("supported, below 2 points, on this grid (95 % interval above 0, the 90 % interval [")
    assert c1.low_equivalence is not None
    assert c1.high_equivalence is not None
    assert c1.estimate is not None
    assert c1.low < c1.low_equivalence < c1.estimate < c1.high_equivalence < 2


def test_synthetic_images_never_get_a_verdict(project: Path) -> None:
    params = grid(source="synthetic")
    write(params, gain(30))
    claims = evaluate(params)
    assert {c.verdict for c in claims} == {None}
    assert {c.reading for c in claims} == {"no verdict (synthetic images)"}
    c1 = claim(claims, "C1")
    assert c1.low is not None
    assert c1.low > 0
    page = next(path for path in write_claims(params, evaluate(params)) if path.suffix == ".html").read_text()
    assert "Synthetic images: the numbers say nothing about the method." in page


def test_few_seeds_give_an_interval_and_no_verdict(project: Path) -> None:
    params = grid(seeds=[0, 1, 2])
    write(params, gain(30))
    c1 = claim(evaluate(params), "C1")
    assert c1.low is not None
    assert c1.low > 0
    assert c1.reading == "undecided (3 seeds; a verdict needs 5)"
    assert c1.word == "undecided"


def test_an_incomplete_grid_is_undecided_and_names_what_diverged(project: Path) -> None:
    params = grid()
    write(params, gain(30), failed=["neu/alexnet/3shot/fdl/seed2"], skip=["bsd/alexnet/5shot/classical/seed0"])
    claims = evaluate(params)
    c1 = claim(claims, "C1")
    assert c1.reading == "undecided (incomplete: 38 of 40 cells done; diverged: neu/alexnet/3shot/fdl/seed2)"
    assert c1.word == "incomplete"
    assert c1.failed == ("neu/alexnet/3shot/fdl/seed2",)
    assert c1.low is not None
    assert c1.low > 0
    assert claim(claims, "C6a", "FDL").found == 19
    assert claim(claims, "C2", "NEU").reading.startswith("undecided (19 of 20 cells have a result; diverged: neu/")


def test_a_complete_slice_waits_for_the_whole_frozen_grid(project: Path) -> None:
    params = grid()
    write(params, gain(30), skip=["bsd/alexnet/5shot/classical/seed0"])
    claims = evaluate(params)
    for name, where in (("C2", "NEU"), ("C2", "3 per class"), ("C6a", "FDL")):
        assert claim(claims, name, where).found == claim(claims, name, where).cells
        assert claim(claims, name, where).reading == "undecided (incomplete: 39 of 40 cells of the frozen grid done)"


def test_frozen_cells_that_the_lists_no_longer_hold_are_missing(project: Path) -> None:
    params = grid({"seeds": [0, 1, 2, 3, 4, 5]})
    write(params, gain(30))
    assert claim(evaluate(params), "C1").reading == "undecided (incomplete: 40 of 48 cells done)"


def test_cells_outside_the_frozen_grid_do_not_count(project: Path) -> None:
    params = grid({"datasets": ["neu"]})
    write(params, lambda cell: gain(30 if cell.dataset == "neu" else -30)(cell))
    c1 = claim(evaluate(params), "C1")
    assert (c1.verdict, c1.cells, c1.without) == ("supported", 20, {})


def test_hash_is_that_of_the_cells(project: Path) -> None:
    first = grid()
    turned = grid({"seeds": [4, 3, 2, 1, 0], "datasets": ["neu", "bsd"]})
    assert frozen_cells(first) == frozen_cells(turned)
    for params in (first, turned, larger := grid({"seeds": [0, 1, 2, 3, 4, 5]})):
        assert len(frozen_cells(params)) == (48 if params is larger else 40)
    write(first, gain(0))
    hashes = [{c.grid for c in evaluate(params)} for params in (first, turned, larger)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(hashes[0]) == 1


def test_c2_is_one_family_adjusted_by_holm(project: Path) -> None:
    params = grid()
    # Backbone, shots and combiners hold both datasets; only one dataset gains.
    write(params, lambda cell: gain(20 if cell.dataset == "neu" else 0)(cell))
    slices = [c for c in evaluate(params) if c.id == "C2"]
    assert {c.slice for c in slices} == {
        "hard vote", "soft vote", "BSD", "NEU", "AlexNet", "3 per class", "5 per class"
    }  # fmt: skip
    blocks: dict[str, dict[str, object]] = {
        "NEU": {"datasets": ["neu"]},
        "BSD": {"datasets": ["bsd"]},
        "3 per class": {"shots": [3]},
        "5 per class": {"shots": [5]},
    }
    alone = []
    for c in slices:
        if c.slice != "hard vote":  # C1 is of the soft vote
            alone.append((c, claim(evaluate(grid(blocks.get(c.slice))), "C1")))
    for c, whole in alone:
        assert (c.estimate, c.low, c.high) == (whole.estimate, whole.low, whole.high)
    hard = claim(slices, "C2", "hard vote")
    assert hard.p is not None
    assert claim(slices, "C2", "NEU").verdict == "supported"
    raw = {c.slice: whole.p for c, whole in alone}
    least = min(p for p in raw.values() if p is not None)
    smallest = min(c.p for c in slices if c.p is not None)
    assert smallest == pytest.approx(7 * least, rel=1e-2)
    assert all(c.p is not None and (p := raw[c.slice]) is not None and c.p >= p for c, _ in alone)


def test_a_slice_of_one_bundle_gets_no_verdict_and_joins_no_family(project: Path) -> None:
    params = grid(shots=[3])
    write(params, gain(30))
    claims = evaluate(params)
    neu = claim(claims, "C2", "NEU")
    assert neu.reading == "no verdict (a slice of one dataset, backbone and number of shots)"
    assert neu.p is None
    assert neu.estimate is not None
    assert claim(claims, "C2", "AlexNet").verdict == "supported"


def test_files_hold_every_claim_and_are_the_same_bytes_again(project: Path) -> None:
    params = grid()
    write(params, gain(10), maps=cams)
    paths = write_claims(params, evaluate(params))
    names = ["claims.json", *(f"tables/claims.{ending}" for ending in ("csv", "md", "tex", "html"))]
    assert [path.relative_to("reports/lite").as_posix() for path in paths] == names
    before = {path: path.read_bytes() for path in paths}
    write_claims(params, evaluate(params))
    assert {path: path.read_bytes() for path in paths} == before

    claims = evaluate(params)
    content = json.loads(paths[0].read_bytes())
    assert [c["reading"] for c in content["claims"]] == [c.reading for c in claims]
    assert content["grid"] == claims[0].grid
    rows = list(csv.DictReader(paths[1].read_text().splitlines()))
    assert [float(row["estimate"]) for row in rows if row["estimate"]] == [
        c.estimate for c in claims if c.estimate is not None
    ]
    markdown, latex, html = (path.read_text() for path in paths[2:])
    lines = [line for line in markdown.splitlines() if line.startswith("| C")]
    assert len(lines) == len(claims) + 1  # and the head
    assert latex.count(r" \\") == len(claims) + latex.count(r"\begin{tabular}")  # and the heads
    assert "95 \\% t intervals" in latex
    assert html.count("<tr>") == len(claims) + 1
    for text in (markdown, latex, html):
        assert claims[0].grid in text


def test_a_record_that_changed_since_it_was_collected_is_refused(project: Path) -> None:
    params = grid()
    write(params, gain(10))
    cell = params.cells()[0]
    folder = layout.record_folder(params, cell)
    found = json.loads((folder / "run.json").read_bytes())
    found["digests"]["training"] = "another"
    (folder / "run.json").write_bytes(files.to_json(found))
    with pytest.raises(InputError, match="not the record that was collected; run `python -m fdl collect"):
        evaluate(params)


def test_a_damaged_record_is_named(project: Path) -> None:
    params = grid()
    write(params, gain(10))
    path = layout.record_folder(params, params.cells()[0]) / "correct.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"bsd/alexnet/3shot/classical/seed0/correct\.npz: differs from its hash"):
        evaluate(params)
