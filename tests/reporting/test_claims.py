"""The claims, from fabricated records to the files that are written."""

import csv
import json
from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdl import layout, records
from fdl.combine.scores import write_scores
from fdl.errors import InputError
from fdl.params import Cell, Params, load
from fdl.reporting.claim_quantities import frozen_cells
from fdl.reporting.claim_tables import Claim
from fdl.reporting.claims import evaluate, write_claims
from fdl.reporting.collect import collect, headline_values, read_runs
from fdl.reporting.statistics import clustered_mean, holm
from tests.reporting.fabricate import PARAMS_FILE

IMAGES, MEMBERS, CLASSES = 60, 3, 6
GRID = {"datasets": ["bsd", "neu"], "backbones": ["alexnet"], "shots": [3, 5], "seeds": [0, 1, 2, 3, 4]}
Accuracy = Callable[[Cell], float]


def grid(frozen: Mapping[str, object] | None = None, **overrides: object) -> Params:
    """Real images, two datasets, one backbone, two numbers of shots, 5 seeds; all of it frozen."""
    values = GRID | {"members": MEMBERS, "methods": ["classical", "fdl"]} | overrides
    names = ("datasets", "backbones", "shots", "methods", "seeds")
    block = {name: values[name] for name in names} | dict(frozen or {})
    return load(PARAMS_FILE, preset="lite", overrides=values | {"image_size": None, "claims": {"grid": [block]}})


def gain(points: float) -> Accuracy:
    """Members of FDL are right more often by so many points."""
    return lambda cell: 0.5 + (points / 100 if cell.method == "fdl" else 0)


def write(
    params: Params,
    accuracy: Accuracy,
    *,
    failed: Collection[str] = (),
    skip: Collection[str] = (),
    rows: Callable[[Cell], Mapping[str, float]] = lambda cell: {},
    diverse: bool = False,
) -> None:
    """A record of every cell, through the doors that training uses, and `collect` over them.

    Args:
        params: whose cells.
        accuracy: of the members of a cell on test.
        failed: keys of cells that diverged.
        skip: keys of cells to leave without a record.
        rows: metrics of the ensemble on test, by name.
        diverse: members of FDL are wrong in ways of their own.
    """
    for cell in params.cells():
        if cell.key in skip:
            continue
        folder = layout.record_folder(params, cell)
        temporary = folder.with_name(f".{folder.name}.partial")
        temporary.mkdir(parents=True)
        diverged = cell.key in failed
        if not diverged:
            write_scores(temporary, predictions(cell, accuracy(cell), diverse and cell.method == "fdl"))
            metrics = json.loads((temporary / "metrics.json").read_bytes())
            metrics += [
                {"selection": rule, "split": "test", "combiner": "ensemble", "metric": name, "value": value}
                for rule in params.selections_of(cell.dataset)
                for name, value in rows(cell).items()
            ]
            (temporary / "metrics.json").write_bytes(records.to_json(metrics))
        records.publish(temporary, folder, run(params, cell, diverged))
    collect(params, partial=True)


def predictions(cell: Cell, accuracy: float, diverse: bool) -> dict[str, Any]:
    """Logits of members that are right on shares of the images near `accuracy`; arms of a seed share their luck."""
    rng = np.random.default_rng([*cell.bundle.key.encode(), cell.seed])
    found: dict[str, Any] = {}
    for split in ("validation", "test"):
        labels = rng.integers(0, CLASSES, IMAGES)
        luck = rng.random((1, IMAGES)) * 0.7 + rng.random((MEMBERS, IMAGES)) * 0.3
        wrong = (labels + 1 + rng.integers(0, CLASSES - 1, (MEMBERS, IMAGES)) * diverse) % CLASSES
        wrong = np.where(wrong == labels, (labels + 1) % CLASSES, wrong)
        predicted = np.where(luck < accuracy, labels, wrong)
        logits = 4.0 * (predicted[..., None] == np.arange(CLASSES)) + rng.normal(0, 0.1, (MEMBERS, IMAGES, CLASSES))
        found |= {f"{split}/labels": labels, f"last/{split}/logits": logits.astype(np.float32)}
    return found


def run(params: Params, cell: Cell, diverged: bool) -> dict[str, Any]:
    synthetic = params.source == "synthetic"
    return {
        "key": cell.key,
        "status": "failed" if diverged else "done",
        "failure": {"epoch": 12, "reason": "member 2: the cross-entropy is nan"} if diverged else None,
        "digests": {"settings": params.settings_digest(cell), "training": f"training of {cell.key}"},
        "data": {"source": params.source, "synthetic": synthetic, "notes": [], "test": IMAGES}
        | {"classes": [str(label) for label in range(CLASSES)], "hash": cell.dataset},
        "split": {"hash": f"{cell.dataset} {cell.shots} {cell.seed}"},
        "timings": dict.fromkeys(("seconds", "train_seconds", "evaluate_seconds", "peak_memory_mb"), 1.0),
        "provenance": {"device": "cpu", "precision": "float32"},
    }


def claim(claims: Collection[Claim], name: str, where: str | None = None) -> Claim:
    (found,) = [c for c in claims if c.id == name and where in (None, c.slice)]
    return found


def test_without_a_frozen_grid_one_line_says_that_there_are_no_verdicts(project: Path) -> None:
    params = load(PARAMS_FILE, preset="demo")
    assert evaluate(params) == []  # not even `collect` is needed
    for path in write_claims(params):
        if path.suffix != ".csv":
            assert "No verdicts: preset demo names no frozen grid" in path.read_text().replace("\n", " ")
    assert len((project / "reports/demo/tables/claims.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize(("points", "verdict"), [(20, "supported"), (-20, "contradicted"), (0, "equivalent")])
def test_c1_is_the_mean_paired_difference_of_the_soft_vote(project: Path, points: float, verdict: str) -> None:
    params = grid()
    write(params, gain(points))
    c1 = claim(evaluate(params), "C1")
    values = headline_values(params, read_runs(params), combiner="soft", metric="accuracy")
    by_dataset = {
        name: np.mean([v * (1 if c.method == "fdl" else -1) for c, v in values.items() if c.dataset == name]) * 200
        for name in ("bsd", "neu")
    }
    assert c1.estimate == pytest.approx(np.mean(list(by_dataset.values())), abs=1e-5)
    assert c1.without == pytest.approx({"bsd": by_dataset["neu"], "neu": by_dataset["bsd"]}, abs=1e-5)
    assert (c1.verdict, c1.seeds, c1.found, c1.cells) == (verdict, 5, 40, 40)
    assert c1.reading == f"{verdict} on this grid"


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
    # Four classes of difficulty would hide it; here one image in 60 is gained in every cell: 1.67 points.
    params = grid()
    write(params, gain(1.5))
    c1 = claim(evaluate(params), "C1")
    assert c1.low is not None
    assert c1.low > 0
    assert c1.reading == "supported, below 2 points, on this grid"


def test_synthetic_images_never_get_a_verdict(project: Path) -> None:
    params = grid(source="synthetic")
    write(params, gain(30))
    claims = evaluate(params)
    assert {c.verdict for c in claims} == {None}
    assert {c.reading for c in claims} == {"no verdict (synthetic images)"}
    c1 = claim(claims, "C1")
    assert c1.low is not None
    assert c1.low > 0
    page = next(path for path in write_claims(params) if path.suffix == ".html").read_text()
    assert "Synthetic images: the numbers say nothing about the method." in page


def test_few_seeds_give_an_interval_and_no_verdict(project: Path) -> None:
    params = grid(seeds=[0, 1, 2])
    write(params, gain(30))
    c1 = claim(evaluate(params), "C1")
    assert c1.low is not None
    assert c1.low > 0
    assert c1.reading == "undecided (3 seeds, 24 of 24 cells)"


def test_an_incomplete_grid_is_undecided_and_names_what_diverged(project: Path) -> None:
    params = grid()
    write(params, gain(30), failed=["neu/alexnet/3shot/fdl/seed2"], skip=["bsd/alexnet/5shot/classical/seed0"])
    claims = evaluate(params)
    c1 = claim(claims, "C1")
    assert c1.reading == "undecided (4 seeds, 38 of 40 cells; diverged: neu/alexnet/3shot/fdl/seed2)"
    assert c1.failed == ("neu/alexnet/3shot/fdl/seed2",)
    assert c1.low is not None
    assert c1.low > 0
    # The other method's ensembles are all there.
    assert claim(claims, "C6a", "FDL").found == 19
    assert claim(claims, "C2", "NEU").reading.startswith("undecided (4 seeds, 19 of 20 cells; diverged: neu/")


def test_frozen_cells_that_the_lists_no_longer_hold_are_missing(project: Path) -> None:
    params = grid({"seeds": [0, 1, 2, 3, 4, 5]})
    write(params, gain(30))
    assert claim(evaluate(params), "C1").reading == "undecided (5 seeds, 40 of 48 cells)"


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
    alone = []
    for c in slices:
        frozen = {"NEU": {"datasets": ["neu"]}, "BSD": {"datasets": ["bsd"]}}.get(c.slice)
        frozen = frozen or {"3 per class": {"shots": [3]}, "5 per class": {"shots": [5]}}.get(c.slice, {})
        if c.slice != "hard vote":  # C1 is of the soft vote
            alone.append((c, claim(evaluate(grid(frozen)), "C1")))
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


def test_c3_is_supported_where_the_gain_falls_with_shots(project: Path) -> None:
    params = grid(shots=[3, 5, 10])
    write(params, lambda cell: gain({3: 25, 5: 12, 10: 0}[cell.shots])(cell))
    c3 = claim(evaluate(params), "C3")
    assert c3.estimate is not None
    assert c3.estimate < -0.3
    assert c3.verdict == "supported"
    assert c3.reason == "95% interval below 0"
    assert c3.beside.startswith("6 of 6 bundles")


def test_c3_leaves_out_bundles_of_which_one_arm_is_near_chance(project: Path) -> None:
    params = grid(shots=[3, 5, 10])
    near = lambda cell: 0.2 if (cell.shots, cell.dataset, cell.method) == (3, "neu", "classical") else 0.6  # noqa: E731
    write(params, near)
    c3 = claim(evaluate(params), "C3")
    assert c3.beside.startswith("5 of 6 bundles")
    assert c3.estimate == pytest.approx(0, abs=0.01)  # the 3-shot gain of NEU would bend it
    assert c3.found == 60  # still complete


def test_c3_needs_two_numbers_of_shots(project: Path) -> None:
    params = grid(shots=[3])
    write(params, gain(10))
    assert claim(evaluate(params), "C3").reading == "undecided (the cells give no estimate)"


def test_c5_is_the_disagreement_at_equal_accuracy_of_the_members(project: Path) -> None:
    params = grid()
    write(params, lambda cell: 0.5 + 0.02 * cell.seed * (cell.method == "fdl"), diverse=True)
    x, y, information = [], [], []
    for cell in params.cells():
        if cell.method == "fdl":
            arms = []
            for method in ("fdl", "classical"):
                twin = Cell(cell.dataset, cell.backbone, cell.shots, method, cell.seed)
                with np.load(layout.record_folder(params, twin) / "predictions.npz") as file:
                    logits, labels = file["last/test/logits"].astype(float), file["test/labels"]
                predicted = logits.argmax(-1)
                share = np.mean([(predicted[a] != predicted[b]).mean() for a, b in combinations(range(MEMBERS), 2)])
                odds = np.exp(logits)
                p = odds / odds.sum(-1, keepdims=True)
                entropies = [-(q * np.log(q)).sum(-1).mean() for q in (p.mean(0), *p)]
                arms.append([100 * (predicted == labels).mean(), 100 * share, entropies[0] - np.mean(entropies[1:])])
            x.append(arms[0][0] - arms[1][0])
            y.append(arms[0][1] - arms[1][1])
            information.append(arms[0][2] - arms[1][2])
    c5 = claim(evaluate(params), "C5")
    assert c5.estimate == pytest.approx(np.polyfit(x, y, 1)[1], abs=1e-5)
    assert c5.verdict == "supported"
    assert c5.beside == f"Δ mutual information {np.mean(information):+.4f} nats"


def test_c6_compares_each_ensemble_with_its_members(project: Path) -> None:
    params = grid()
    write(params, gain(10), diverse=True)
    claims, runs = evaluate(params), read_runs(params)
    values = {
        name: headline_values(params, runs, combiner=name, metric="accuracy") for name in ("soft", "mean", "best")
    }
    for method, title in (("classical", "classical"), ("fdl", "FDL")):
        for name, member in (("C6a", "mean"), ("C6b", "best")):
            here = [100 * (v - values[member][c]) for c, v in values["soft"].items() if c.method == method]
            c6 = claim(claims, name, title)
            assert c6.estimate == pytest.approx(np.mean(here), abs=1e-4)
            assert (c6.found, c6.cells, c6.seeds) == (20, 20, 5)


def test_what_was_not_measured_is_undecided(project: Path) -> None:
    params = grid()
    write(params, gain(10))
    claims = evaluate(params)
    for name in ("C4", "C7"):
        assert claim(claims, name).reading == "undecided (not measured)"
        assert claim(claims, name).estimate is None


def cams(cell: Cell) -> dict[str, float]:
    """Overlap falls by 0.2 in every bundle, by a little more or less in every seed."""
    fdl = cell.method == "fdl"
    return {"cam_overlap": 0.8 - fdl * (0.2 + 0.01 * cell.seed), "cam_left_out": 0.05}


def test_c4_is_the_difference_of_the_overlaps(project: Path) -> None:
    params = grid()
    write(params, gain(0), rows=cams)
    c4 = claim(evaluate(params), "C4")
    # Seeds' differences 0.20 … 0.24: standard deviation 0.0158, over 5 seeds and 2 datasets 0.005; df 8: t 2.306.
    assert (c4.estimate, c4.low, c4.high) == pytest.approx((-0.22, -0.22 - 0.01153, -0.22 + 0.01153), abs=1e-5)
    assert (c4.verdict, c4.df) == ("supported", pytest.approx(8))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cam_left_out": 0.11}, "11% of the member pairs left out for an all-zero map"),
        ({"cam_left_out": None}, "the share of member pairs left out is not recorded"),
    ],
)
def test_c4_needs_nearly_all_maps(project: Path, change: Mapping[str, float | None], reason: str) -> None:
    params = grid()
    rows = lambda cell: {k: v for k, v in (cams(cell) | change).items() if v is not None}  # noqa: E731
    write(params, gain(0), rows=rows)
    c4 = claim(evaluate(params), "C4")
    assert (c4.verdict, c4.reason) == ("undecided", reason)
    assert c4.estimate == pytest.approx(-0.22)


def test_c7_flags_every_cell_whose_loss_is_inactive(project: Path) -> None:
    params = grid()

    def sums(cell: Cell) -> dict[str, float]:
        inactive = cell.key == "bsd/alexnet/3shot/fdl/seed1"
        return {"cosine_sum": 8.0 if cell.method == "classical" else 4.0 if inactive else 2.0}

    write(params, gain(0), rows=sums)
    c7 = claim(evaluate(params), "C7")
    assert (c7.verdict, c7.reason) == ("undecided", "loss inactive in 1 of 20 pairs: bsd/alexnet/3shot/seed1")
    assert (c7.estimate, c7.low) == (0.25, None)


def test_c7_is_supported_where_the_loss_is_active_everywhere(project: Path) -> None:
    params = grid()
    write(params, gain(0), rows=lambda cell: {"cosine_sum": 8.0 if cell.method == "classical" else 3.9})
    assert claim(evaluate(params), "C7").verdict == "supported"


def test_files_hold_every_claim_and_are_the_same_bytes_again(project: Path) -> None:
    params = grid()
    write(params, gain(10), rows=cams)
    paths = write_claims(params)
    names = ["claims.json", *(f"tables/claims.{ending}" for ending in ("csv", "md", "tex", "html"))]
    assert [path.relative_to("reports/lite").as_posix() for path in paths] == names
    before = {path: path.read_bytes() for path in paths}
    write_claims(params)
    assert {path: path.read_bytes() for path in paths} == before

    claims = evaluate(params)
    content = json.loads(paths[0].read_bytes())
    assert [c["reading"] for c in content["claims"]] == [c.reading for c in claims]
    assert content["grid"] == claims[0].grid
    rows = list(csv.DictReader(paths[1].open()))
    assert [float(row["estimate"]) for row in rows if row["estimate"]] == [
        c.estimate for c in claims if c.estimate is not None
    ]
    markdown, latex, html = (path.read_text() for path in paths[2:])
    lines = [line for line in markdown.splitlines() if line.startswith("| C")]
    assert len(lines) == len(claims) + 1  # and the head
    assert latex.count(r" \\") == len(claims) + 1
    assert "95\\% t intervals" in latex
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
    (folder / "run.json").write_bytes(records.to_json(found))
    with pytest.raises(InputError, match="not the record that was collected; run `python -m fdl collect`"):
        evaluate(params)


def test_a_damaged_record_is_named(project: Path) -> None:
    params = grid()
    write(params, gain(10))
    path = layout.record_folder(params, params.cells()[0]) / "correct.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"bsd/alexnet/3shot/classical/seed0: damaged \("):
        evaluate(params)


def test_family_of_equal_p_values() -> None:
    assert holm([0.01] * 5) == pytest.approx([0.05] * 5)
