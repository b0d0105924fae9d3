"""Tables of plain rows and the numbers behind figures, worked out by hand."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.lines import Line2D

from fdl.core.settings import Bundle, Cell, Params
from fdl.evaluation.metrics import confidence_bins
from fdl.reporting.answer import pooled_gain
from fdl.reporting.author_tables import author_table, prediction_interval, stored_runs
from fdl.reporting.comparison_tables import ablation_table, combiner_table
from fdl.reporting.cost_tables import cost_table
from fdl.reporting.gallery import gallery
from fdl.reporting.listings import Listing, to_csv, to_latex
from fdl.reporting.pair_figures import (
    diversity_and_gain,
    gain_over_seeds,
    gain_over_shots,
    gains_by_method,
    paired_differences,
)
from fdl.reporting.record_figures import image_overlaps, training_curves, training_curves_caption
from fdl.reporting.results import Results, Spread, read_results, spread
from fdl.results.collect import collect
from tests.reporting.fabricate import fabricate, small_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Soft-vote accuracy by shots and method, of seeds 0 and 1.
VALUES = {
    (3, "classical"): (0.40, 0.44),
    (3, "fdl"): (0.45, 0.47),
    (5, "classical"): (0.5, 0.5),
    (5, "fdl"): (0.6, 0.5),
}


def results_of(params: Params, failed: tuple[str, ...] = ()) -> Results:
    fabricate(params, accuracy={c: VALUES[c.shots, c.method][c.seed] for c in params.cells()}, failed=failed)
    collect(params)
    return read_results(params)


def invented_results(**grid: object) -> Results:
    params = small_grid(**grid)
    fabricate(params)
    collect(params)
    return read_results(params)


def rows(table: Listing) -> list[dict[str, str]]:
    headings = [column.heading for column in table.columns]
    return [dict(zip(headings, line.texts, strict=True)) for line in table.lines]


def test_prediction_interval_by_hand() -> None:
    # t(0.975, 4) = 2.7764; 2.7764 · 2 · √(1 + 1/5) = 6.083.
    assert prediction_interval(Spread(50, 2, 5)) == pytest.approx((43.917, 56.083), abs=1e-3)
    assert prediction_interval(spread([50.0])) is None
    assert prediction_interval(spread([])) is None


@pytest.mark.parametrize(("shift", "word"), [(0.0, "inside"), (0.4, "outside")])
def test_the_authors_run_stands_beside_ours(project: Path, shift: float, word: str) -> None:
    run = next(run for run in stored_runs() if "soft_voting_acc" in run.numbers and run.bundle.dataset == "neu")
    theirs = run.numbers["soft_voting_acc"]
    grid = small_grid(backbones=[run.bundle.backbone], shots=[run.bundle.shots], methods=[run.method])
    middle = theirs - shift
    fabricate(grid, accuracy={cell: middle + (-0.01, 0.01)[cell.seed] for cell in grid.cells()})
    collect(grid)
    table = author_table(read_results(grid))
    (row,) = [r for r in rows(table) if r["Measure"] == "soft vote" and "(synthetic)" in r["Dataset"]
              and "not in the grid" not in r["Ours"]]  # fmt: skip
    # Seeds ± 1 point: s = √2; t(0.975, 1) = 12.706; half width 12.706 · √2 · √1.5 = 22.01.
    assert row["Authors"] == f"{100 * theirs:.1f}"
    assert row["Ours"] == f"{100 * middle:.1f} ± 1.4"
    assert row["Seeds"] == "2 of 2"
    assert row["Width"] == "44.0"
    assert row["Inside"] == word
    (differs,) = [
        remark for remark in table.remarks if remark.startswith("What differs in our runs on NEU (synthetic)")
    ]
    assert "synthetic images" in differs
    assert "width × 0.125" in differs
    others = [r for r in rows(table) if r["Ours"] == "not in the grid"]
    assert others
    assert {r["Inside"] for r in others} == {"–"}
    on_paper = [row for line, row in zip(table.lines, rows(table), strict=True) if line.printed]
    assert {r["Ours"] for r in on_paper} & {"–", "not in the grid"} == set()
    assert row in on_paper


def test_methods_and_their_paired_differences_by_hand(project: Path) -> None:
    found = rows(ablation_table(results_of(small_grid())))
    assert [(r["Method"], r["Accuracy"], r["Δ"], r["Seeds"]) for r in found] == [
        ("classical", "42.0 ± 2.8", "–", "2 of 2"),
        ("FDL", "46.0 ± 1.4", "+4.0", "2 of 2"),  # 5 and 3; of two seeds no interval
        ("classical", "50.0 ± 0.0", "–", "2 of 2"),
        ("FDL", "55.0 ± 7.1", "+5.0", "2 of 2"),
        ("FDL", "50.5", "+4.5", "2 of 2"),  # over both bundles
    ]
    assert found[-1]["Dataset"] == "all (synthetic)"


def test_combiners_stand_side_by_side_and_missing_seeds_show(project: Path) -> None:
    table = combiner_table(results_of(small_grid(), failed=("neu/alexnet/3shot/fdl/seed1",)))
    found = rows(table)
    assert (found[0]["Soft vote"], found[0]["Hard vote"]) == ("42.0 ± 2.8", "37.8 ± 2.5")  # the others: 0.9 of it
    assert found[1]["Soft vote"] == "45.0 (n=1)"
    assert any("1 of 8 cells have none" in remark for remark in table.remarks)
    assert to_csv(table).splitlines()[0].startswith("dataset,backbone,shots,method,mean_mean,mean_std,mean_n,")


def test_costs_are_the_medians_of_the_records(project: Path) -> None:
    (classical, fdl) = rows(cost_table(results_of(small_grid(), failed=("neu/alexnet/3shot/fdl/seed1",))))
    assert classical["Parameters of a member"] == "12,345"
    assert (classical["Seconds"], classical["Training"]) == ("2.0 (2.0 to 2.0)", "1.5")
    assert (classical["Memory (MB)"], classical["Cells"], fdl["Cells"]) == ("512", "4", "3 (1 failed)")


def test_intervals_of_differences_by_hand(project: Path) -> None:
    # t(0.975, 2) = 4.3027; s = 1; 4.3027 / √3 = 2.4842.
    of_setting = gain_over_seeds([1.0, 2.0, 3.0])
    assert of_setting.mean == 2
    assert of_setting.interval == pytest.approx((-0.4842, 4.4842), abs=1e-4)
    assert gain_over_seeds([1.0]).interval is None
    results = results_of(small_grid())
    gains = gains_by_method(results)["fdl"]
    assert sorted(round(gain, 6) for gain in gains.values()) == [0, 3, 5, 10]
    # Invented disagreement is 1 − accuracy: it falls by what the accuracy gains.
    (marks,) = (drawn for axes in diversity_and_gain(results).axes for drawn in axes.collections)
    disagreement, accuracy = np.asarray(marks.get_offsets()).T
    assert sorted(accuracy) == pytest.approx([0, 3, 5, 10])
    assert disagreement == pytest.approx(-accuracy)
    # Seeds 0: 5 and 10; seeds 1: 3 and 0. Of two seeds no interval.
    pooled = pooled_gain(gains)
    assert pooled is not None
    assert pooled.mean == pytest.approx(4.5)
    assert (pooled.interval, pooled.pairs) == (None, 4)
    # Three seeds of one bundle: the t interval of their mean.
    three = {Cell("neu", "alexnet", 3, "fdl", seed): 1.0 + seed for seed in range(3)}
    pooled = pooled_gain(three)
    assert pooled is not None
    assert (pooled.mean, pooled.pairs) == (2, 3)
    assert pooled.interval == pytest.approx((-0.4842, 4.4842), abs=1e-4)


def drawn_means(axes: "Axes") -> dict[str, list[float]]:
    """The means by method, in the order of the shots."""
    handles, names = axes.get_legend_handles_labels()
    return {
        name: np.asarray(line.get_ydata()).tolist()
        for line, name in zip(handles, names, strict=True)
        if isinstance(line, Line2D)
    }


def test_gains_over_shots_share_a_scale_with_the_band(project: Path) -> None:
    results = invented_results(backbones=["alexnet", "vgg"], seeds=[0, 1, 2])
    axes = gain_over_shots(results).axes
    gains = gains_by_method(results)["fdl"]
    by_bundle: dict[Bundle, list[float]] = {}
    for cell, gain in gains.items():
        by_bundle.setdefault(cell.bundle, []).append(gain)
    means = [gain_over_seeds(values) for values in by_bundle.values()]
    farthest = max(3, *(abs(gain.mean) for gain in means))
    bounds = [abs(bound) for gain in means for bound in gain.interval or ()]
    assert max(bounds) > 3 * farthest  # it is cut
    reach = 1.08 * max(farthest, *(bound for bound in bounds if bound <= 3 * farthest))
    for one, backbone in zip(axes, ("alexnet", "vgg"), strict=True):
        assert one.get_ylim() == pytest.approx((-reach, reach))
        expected = [
            np.mean([gain for cell, gain in gains.items() if (cell.backbone, cell.shots) == (backbone, shots)])
            for shots in (3, 5)
        ]
        assert drawn_means(one)["FDL"] == pytest.approx(expected)
        assert "± 2 points" in one.get_legend_handles_labels()[1]


@pytest.mark.parametrize(("methods", "last"), [(["fdl"], "NEU (synthetic) · VGG"), (["fdl", "gncl"], "all settings")])
def test_paired_differences_share_a_scale_and_sum_up_several_methods(
    project: Path, methods: list[str], last: str
) -> None:
    figure = paired_differences(invented_results(methods=["classical", *methods], backbones=["alexnet", "vgg"]))
    drawn = [axes for axes in figure.axes if axes.axison]
    assert drawn[-1].get_title() == last
    assert len({axes.get_xlim() for axes in drawn}) == 1
    assert drawn[0].get_xlim()[1] >= 3


def partial_results() -> Results:
    """NEU with AlexNet and VGG, of which VGG has no record."""
    params = small_grid(backbones=["alexnet", "vgg"])
    fabricate(params, skip={cell.key for cell in params.cells() if cell.backbone == "vgg"})
    collect(params, partial=True)
    return read_results(params)


def test_rows_without_a_result_are_not_printed_on_paper(project: Path) -> None:
    table = ablation_table(partial_results())
    printed = {line.texts[1]: line.printed for line in table.lines}
    assert printed == {"AlexNet": True, "VGG": False, "all": True}
    assert "VGG" in to_csv(table)
    text = to_latex(table)
    assert "VGG" not in text
    assert "4 rows outside the grid or without a result are left out here; they are in ablation.csv." in text


def test_training_curves_have_a_row_for_each_backbone_with_finished_pairs(project: Path) -> None:
    results = partial_results()
    assert [axes.get_ylabel() for axes in training_curves(results, "neu").axes[::3]] == ["AlexNet\n5 per class"]
    assert "No finished pairs of VGG." in training_curves_caption(results, "neu")
    assert "No finished pairs" not in training_curves_caption(invented_results(), "neu")


def test_bins_of_confidence_by_hand() -> None:
    sure = np.array([0.55, 0.95, 1.0])
    count, confidence, right = confidence_bins(np.stack([sure, 1 - sure], axis=1), np.array([0, 1, 0]))
    assert np.flatnonzero(count).tolist() == [8, 14]  # of width 1/15: (0.533, 0.6] and (0.933, 1]
    assert count[[8, 14]].tolist() == [1, 2]
    assert confidence[[8, 14]] == pytest.approx([0.55, 1.95])
    assert right[[8, 14]].tolist() == [1, 1]


def test_overlaps_are_of_all_seeds_of_the_cells_compared(project: Path) -> None:
    found = image_overlaps(results_of(small_grid()), ("neu", "alexnet"))
    assert {method: of.means.tolist() for method, of in found.items()} == {"classical": [0.5] * 8, "fdl": [0.5] * 8}
    assert {method: of.left_out for method, of in found.items()} == {"classical": 0, "fdl": 0}


def test_the_gallery_shows_the_first_seed_with_both_methods_of_every_bundle(project: Path) -> None:
    shown = gallery(results_of(small_grid(), failed=("neu/alexnet/5shot/fdl/seed0",)))
    assert [exhibit.title.rpartition(" · ")[2] for exhibit in shown.exhibits] == ["seed 0", "seed 1"]
    assert len(shown.pictures) == 5  # images, each stored once for both
    strip = shown.exhibits[0].strips[1]
    (_, panels), (second, _) = strip.lines
    assert second == "FDL"
    assert [panel.empty for panel in panels] == [False, True, True, True, True]
    assert [panel.correct for panel in panels] == [True, False, False, False, False]
