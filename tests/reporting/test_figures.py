"""Accuracy over shots: what is drawn, that nothing collides, the same bytes twice."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fdl.core.settings import Params, load
from fdl.reporting.drawing import facets, save
from fdl.reporting.figures import accuracy_over_shots, accuracy_over_shots_caption
from fdl.reporting.results import Results
from fdl.results.collect import CellState, Collected
from tests.reporting.fabricate import PARAMS_FILE, fabricated_accuracy, facts_of_all, results_in_memory, small_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def results_of(params: Params, *, synthetic: bool = False, failed: int = 0) -> Results:
    """Invented values; the last `failed` cells have none."""
    cells = params.cells()
    values = {cell: fabricated_accuracy(cell, 10) for cell in cells[: len(cells) - failed]}
    states = [CellState(cell, "done" if cell in values else "failed", "settings") for cell in cells]
    collected = Collected(states, facts_of_all(params, synthetic=synthetic, classes=tuple("abcdefghij")))
    return results_in_memory(params, collected, values)


def lines(axes: "Axes") -> dict[str, tuple[list[float], list[float]]]:
    """The drawn lines, (x, y), by label; the caps of the error bars are marks without a line."""
    handles, labels = axes.get_legend_handles_labels()
    colours = {handle.get_color(): label for handle, label in zip(handles, labels, strict=True)}  # type: ignore[attr-defined]
    return {
        colours[line.get_color()]: (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
        if line.get_linestyle() != "None" and np.size(line.get_xdata()) > 1
    }


def test_points_are_means_over_seeds_in_percent() -> None:
    params = small_grid(seeds=[0, 1, 2])
    figure = accuracy_over_shots(results_of(params))
    drawn = lines(figure.axes[0])
    for method, label in {"classical": "classical", "fdl": "FDL"}.items():
        expected = [
            100 * np.mean([fabricated_accuracy(c, 10) for c in params.cells() if (c.shots, c.method) == (k, method)])
            for k in (3, 5)
        ]
        assert drawn[label][1] == pytest.approx(expected)
    assert drawn["chance"][1] == [10.0, 10.0]


def test_error_bars_are_the_standard_deviation_with_n_minus_one() -> None:
    params = small_grid(seeds=[0, 1, 2], methods=["fdl"], shots=[3])
    figure = accuracy_over_shots(results_of(params))
    percent = [100 * fabricated_accuracy(cell, 10) for cell in params.cells()]
    (bar,) = [segment for drawn in figure.axes[0].collections for segment in _segments(drawn)]
    assert bar[:, 1] == pytest.approx(
        [np.mean(percent) - np.std(percent, ddof=1), np.mean(percent) + np.std(percent, ddof=1)]
    )


def _segments(drawn: object) -> list[np.ndarray]:
    from matplotlib.collections import LineCollection

    return list(drawn.get_segments()) if isinstance(drawn, LineCollection) else []


GRIDS: dict[str, dict[str, Any]] = {
    "demo": {},
    "lite": {},
    "paper": {},
    "authors": {},
    "one cell": {
        "datasets": ["neu"],
        "backbones": ["vgg"],
        "shots": [3],
        "methods": ["fdl"],
        "seeds": [0],
    },
    "one shot count": {"datasets": ["neu", "bsd"], "shots": [5]},
    "one method": {"datasets": ["neu"], "methods": ["classical"]},
    "five pairs": {"datasets": ["neu", "bsd", "tex", "cifar10", "cifar100"], "backbones": ["vgg"]},
}


@pytest.mark.parametrize("name", GRIDS)
def test_no_labels_collide_and_none_is_cut(name: str) -> None:
    params = load(PARAMS_FILE, preset=name if name in ("lite", "paper", "authors") else "demo", overrides=GRIDS[name])
    figure = accuracy_over_shots(results_of(params, synthetic=True, failed=1 if len(params.cells()) > 1 else 0))
    figure.draw_without_rendering()
    texts = list(figure.texts)  # the title, and the labels of the whole figure
    for axes in figure.axes:
        if axes.axison:
            texts += [axes.title, axes.xaxis.label, *axes.get_xticklabels()]
            # A scale goes beyond its axis at both ends: its outermost labels may not be drawn.
            low, high = axes.get_ylim()
            texts += [label for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    boxes = [text.get_window_extent() for text in texts if text.get_text()] + [figure.legends[0].get_window_extent()]
    for number, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_methods_differ_without_colour() -> None:
    figure = accuracy_over_shots(results_of(small_grid()))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    looks = dict(zip(labels, handles, strict=True))
    classical, fdl = looks["classical"], looks["FDL"]
    assert classical.get_marker() != fdl.get_marker()
    assert classical.get_linestyle() != fdl.get_linestyle()
    grey = [float(np.dot(to_rgb(line.get_color()), (0.299, 0.587, 0.114))) for line in (classical, fdl)]
    assert abs(grey[0] - grey[1]) > 0.15


def test_marks_of_one_number_of_shots_stay_nearest_to_it() -> None:
    params = small_grid(shots=[3, 5, 10, 20, 50, 100])
    figure = accuracy_over_shots(results_of(params))
    drawn = lines(figure.axes[0])
    for method in ("classical", "FDL"):
        doublings = np.log2(np.array(drawn[method][0]) / np.array(params.shots))
        assert (np.abs(doublings) < np.log2(5 / 3) / 2).all()
        assert (np.abs(doublings) > 0.05).all()


def test_synthetic_and_partial_results_are_marked_on_the_figure() -> None:
    results = results_of(small_grid(), synthetic=True, failed=1)
    figure = accuracy_over_shots(results)
    title = figure.get_suptitle().replace("\n", " ")
    assert "Synthetic images: the numbers say nothing about the method." in title
    assert "Partial: 1 of 8 cells have no value." in title
    assert "NEU (synthetic)" in figure.axes[0].get_title()
    assert title in accuracy_over_shots_caption(results)
    assert accuracy_over_shots(results_of(small_grid())).get_suptitle() == ""


def test_caption_defines_n_and_error_bars() -> None:
    caption = accuracy_over_shots_caption(results_of(small_grid()))
    assert "n = 2 per point;" in caption
    assert "bars: ± standard deviation" in caption
    caption = accuracy_over_shots_caption(results_of(small_grid(seeds=[0])))
    assert "one seed" in caption
    assert "bars" not in caption


def test_a_facet_without_values_says_so() -> None:
    params = small_grid(backbones=["alexnet", "vgg"])
    figure = accuracy_over_shots(results_of(params, failed=8))
    assert [text.get_text() for text in figure.axes[1].texts] == ["no results"]


def test_saved_twice_the_bytes_are_equal(tmp_path: Path) -> None:
    params = small_grid()
    one = save(accuracy_over_shots(results_of(params)), tmp_path / "one")
    other = save(accuracy_over_shots(results_of(params)), tmp_path / "other")
    assert [path.name for path in one] == ["one.png", "one.pdf"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert b"Date" not in one[1].read_bytes()


def test_a_users_style_changes_nothing_and_stays(tmp_path: Path) -> None:
    params = small_grid()
    ours = save(accuracy_over_shots(results_of(params)), tmp_path / "ours")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        theirs = save(accuracy_over_shots(results_of(params)), tmp_path / "theirs")
        assert matplotlib.rcParams["font.size"] == 20
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]


def test_facets_of_a_dataset_share_their_scale_and_those_of_two_datasets_do_not() -> None:
    for nets, shared in (
        ([("bsd", "alexnet"), ("neu", "alexnet")], [(0, 1, False)]),
        ([(d, b) for d in ("bsd", "neu") for b in ("alexnet", "vgg")], [(0, 1, True), (2, 3, True), (0, 2, False)]),
    ):
        _, axes = facets(nets, share="row")
        for one, other, together in shared:
            assert axes[0].get_shared_y_axes().joined(axes[one], axes[other]) is together
