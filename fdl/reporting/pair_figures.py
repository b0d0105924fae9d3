"""Figures of the differences between a method and the classical ensemble, and of how these relate to diversity.

A pair consists of a cell (one trained ensemble) of the method and the classical cell with the same dataset, backbone,
shots and seed. Shots are training images per class.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fdl.core.settings import Cell
from fdl.core.titles import backbone_title, method_title
from fdl.evaluation.statistics import LEVEL, MARGIN
from fdl.reporting.answer import Gain, pooled_gain
from fdl.reporting.drawing import (
    BAND_COLOUR,
    COLOURS,
    MARKERS,
    Net,
    caption,
    facets,
    house_style,
    label_axes,
    legend_below,
    look,
    looks,
    net_title,
    say_nothing_there,
    warn,
)
from fdl.reporting.entries import Entry, drawn
from fdl.reporting.results import SEEDS_FOR_INTERVAL, Results, differences, spread
from fdl.results.measures import ENSEMBLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND = f"± {MARGIN:g} points"


def gains_by_method(results: Results) -> dict[str, dict[Cell, float]]:
    """Test accuracy of the soft vote minus that of the classical cell, in points, by method and cell.

    Cells whose pair is not complete are left out.
    """
    return {method: differences(results.accuracy, method) for method in results.methods[1:]}


def gain_over_seeds(gains: Sequence[float]) -> Gain:
    """The mean of gains (in points, one per seed) with its 95 % t interval."""
    return Gain(fmean(gains), spread(gains).interval, len(gains))


def _by_shots(gains: Mapping[Cell, float], net: Net) -> dict[int, list[float]]:
    """The gains for a dataset and backbone, by number of shots, with a value per seed."""
    by_shots: dict[int, list[float]] = {}
    for cell in sorted(cell for cell in gains if (cell.dataset, cell.backbone) == net):
        by_shots.setdefault(cell.shots, []).append(gains[cell])
    return by_shots


def paired_differences(results: Results) -> "Figure":
    """Draw the accuracy of every method minus classical, seed by seed, with a facet per dataset and backbone.

    If there are several methods, an additional facet shows the means over all pairs.
    """
    by_method = gains_by_method(results)
    with house_style():
        several = len(by_method) > 1  # the mean of a single method is in the figure `forest`
        figure, axes = facets(results.nets, extra=several)
        shots, reach = sorted({bundle.shots for bundle in results.bundles}), _reach(by_method)
        for panel, net in zip(axes, results.nets, strict=False):
            _forest(panel, results, by_method, net, shots, reach)
        if several:
            _overall(axes[-1], results, by_method, reach)
        label_axes(
            figure, axes, x="Δ test accuracy (points)", y="training images per class", also=axes[-4:] if several else ()
        )
        legend_below(figure, axes, last=[_BAND])
        warn(figure, results.collected)
    return figure


def _reach(by_method: Mapping[str, Mapping[Cell, float]]) -> float:
    """The limit of the x axes on both sides of 0, in points.

    The axes show every seed and the band of ± 2 points; wider intervals are cut.
    """
    seen = [abs(gain) for gains in by_method.values() for gain in gains.values()]
    return 1.08 * max([1.5 * MARGIN, *seen])


def _forest(
    axes: "Axes",
    results: Results,
    by_method: Mapping[str, Mapping[Cell, float]],
    net: Net,
    shots: Sequence[int],
    reach: float,
) -> None:
    axes.set_title(net_title(results.collected, net))
    axes.set_yticks(range(len(shots)), labels=[str(count) for count in shots])
    axes.set_ylim(len(shots) - 0.5, -0.5)
    for place, method in enumerate(by_method):
        offset = (place - (len(by_method) - 1) / 2) * 0.7 / len(by_method)
        single = {shots.index(count) + offset: gains for count, gains in _by_shots(by_method[method], net).items()}
        if single:
            _draw(axes, results, method, {y: gain_over_seeds(gains) for y, gains in single.items()}, single)
    if not axes.lines:
        say_nothing_there(axes)
    _zero(axes, reach)


def _overall(axes: "Axes", results: Results, by_method: Mapping[str, Mapping[Cell, float]], reach: float) -> None:
    """Draw the last facet, with one row per method."""
    axes.set_title("all settings", fontweight="bold")
    axes.set_yticks([])
    axes.set_ylim(max(len(by_method), 1) - 0.5, -0.5)
    for row, (method, gains) in enumerate(by_method.items()):
        if pooled := pooled_gain(gains):
            _draw(axes, results, method, {row: pooled}, {})
    if not axes.lines:
        say_nothing_there(axes)
    _zero(axes, reach)


def _draw(
    axes: "Axes",
    results: Results,
    method: str,
    means: Mapping[float, Gain],
    single: Mapping[float, Sequence[float]],
) -> None:
    """Draw a method's means with intervals and its single gains; both are keyed by their y coordinate."""
    styles, title = looks(results.methods), method_title(method)
    colour, marker = styles["palette"][title], styles["markers"][title]
    known = [(y, *gain.interval) for y, gain in means.items() if gain.interval]
    if known:
        axes.hlines(*zip(*known, strict=True), color=colour, linewidth=1.3, capstyle="butt", zorder=2)
    x, y = [x for of_y in single.values() for x in of_y], [y for y, of_y in single.items() for _ in of_y]
    axes.plot(x, y, "|", color="black", markersize=5, markeredgewidth=0.7, alpha=0.6, zorder=3)
    (mark,) = axes.plot(
        [gain.mean for gain in means.values()], list(means), marker, color=colour, markersize=5, label=title, zorder=4
    )
    mark.set(markeredgecolor="white", markeredgewidth=0.6)


def _zero(axes: "Axes", reach: float) -> None:
    axes.axvspan(-MARGIN, MARGIN, color=BAND_COLOUR, linewidth=0, zorder=0, label=_BAND)
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    axes.set_xlim(-reach, reach)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def paired_differences_caption(results: Results) -> str:
    """The caption: what the figure shows, the intervals and the numbers of pairs."""
    counts = {method: len(gains) for method, gains in gains_by_method(results).items()}
    if not any(counts.values()):
        return caption(results.collected, "Differences from the classical ensemble: no finished pairs.")
    overall = (
        "All settings: mean over all pairs, interval by jackknife over the seeds of every dataset, test images held "
        "fixed. "
    ) * (len(counts) > 1)
    named = ", ".join(f"{method_title(method)} {count}" for method, count in counts.items())
    return caption(
        results.collected,
        "Test accuracy of the soft vote minus that of the classical ensemble of the same seed. Large marks: mean over "
        f"seeds; lines: {100 * LEVEL:.0f} % t interval over seeds, cut where it leaves the facet; strokes: the "
        f"single seeds; shaded: {_BAND}. All facets have the same scale. {overall}Number of pairs: {named}.",
    )


def gain_over_shots(results: Results) -> "Figure":
    """Draw the accuracy of every method minus classical over shots, with a facet per dataset and backbone."""
    by_method = gains_by_method(results)
    shots = sorted({bundle.shots for bundle in results.bundles})
    means = {
        (net, method): {count: gain_over_seeds(values) for count, values in _by_shots(gains, net).items()}
        for net in results.nets
        for method, gains in by_method.items()
    }
    drawn_means = [gain for by_shots in means.values() for gain in by_shots.values()]
    # The limit of all y axes on both sides of 0. The axes show every mean, and every bound of an interval that is at
    # most twice as far from 0 as the farthest mean or 1.5 margins.
    farthest = max([1.5 * MARGIN, *(abs(gain.mean) for gain in drawn_means)])
    bounds = [abs(bound) for gain in drawn_means for bound in gain.interval or ()]
    reach = 1.08 * max([farthest, *(bound for bound in bounds if bound <= 2 * farthest)])
    with house_style():
        figure, axes = facets(results.nets, share="all")
        for panel, net in zip(axes, results.nets, strict=True):
            for place, method in enumerate(by_method):
                _draw_gains(panel, results, method, means[net, method], 0.13 * (place - (len(by_method) - 1) / 2))
            if not panel.lines:
                say_nothing_there(panel)
            panel.axhspan(-MARGIN, MARGIN, color=BAND_COLOUR, linewidth=0, zorder=0, label=_BAND)
            panel.axhline(0, color="black", linewidth=0.8, zorder=1)
            panel.set(title=net_title(results.collected, net), ylim=(-reach, reach), xscale="log")
            panel.set_xlim(shots[0] / 2**0.5, shots[-1] * 2**0.5)
            panel.set_xticks(shots, labels=[str(count) for count in shots])
            panel.minorticks_off()
        label_axes(figure, axes, x="training images per class", y="Δ test accuracy (points)")
        legend_below(figure, axes, last=[_BAND])
        warn(figure, results.collected)
    return figure


def _draw_gains(axes: "Axes", results: Results, method: str, means: Mapping[int, Gain], doublings: float) -> None:
    """Draw a method's means and intervals by number of shots.

    They are shifted to the right by this many doublings of the shots, so that methods do not overlap.
    """
    if not means:
        return
    styles, title = looks(results.methods), method_title(method)
    style: dict[str, Any] = look(results.methods, method)
    x = [shots * 2**doublings for shots in means]
    known = [(place, *gain.interval) for place, gain in zip(x, means.values(), strict=True) if gain.interval]
    if known:
        axes.vlines(*zip(*known, strict=True), color=style["color"], linewidth=1.2, zorder=2)
    (line,) = axes.plot(x, [gain.mean for gain in means.values()], **style, linewidth=0.9, zorder=3)
    line.set(marker=styles["markers"][title], markersize=4, markeredgecolor="white", markeredgewidth=0.5, label=title)


def gain_over_shots_caption(results: Results) -> str:
    """The caption: what the figure shows, and that its intervals are only descriptive."""
    seeds = len({state.cell.seed for state in results.collected.cells})
    return caption(
        results.collected,
        "Test accuracy of the soft vote minus that of the classical ensemble of the same seed, over training images "
        f"per class. Marks: mean over at most {seeds} seeds; lines: {100 * LEVEL:.0f} % t interval over seeds, cut "
        f"where it leaves the facet, none below {SEEDS_FOR_INTERVAL} seeds; shaded: {_BAND}. All facets have the same "
        "scale. The intervals are of each setting by itself, unadjusted, the test images held fixed: descriptive "
        "only. The verdicts are under Claims.",
    )


def diversity_and_gain(results: Results) -> "Figure":
    """Draw the difference in accuracy over the difference in the members' disagreement, with a mark per pair.

    There is a column of facets per backbone and a row per method.
    """
    from matplotlib.figure import Figure

    backbones = list(dict.fromkeys(backbone for _, backbone in results.nets))
    methods = results.methods[1:]
    with house_style():
        rows, columns = max(len(methods), 1), len(backbones)
        figure = Figure(figsize=(max(2.4 * columns, 3.4) + 0.4, 2.1 * rows + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for method, line in zip(methods or [""], grid, strict=True):
            pairs = _disagreement_and_gain(results, method)
            for backbone, axes in zip(backbones, line, strict=True):
                _scatter(axes, results, {cell: pair for cell, pair in pairs.items() if cell.backbone == backbone})
                axes.set_title(" · ".join(filter(None, [backbone_title(backbone), method_title(method)])))
        everything = list(grid.flat)
        label_axes(figure, everything, x="Δ disagreement (points)", y="Δ test accuracy (points)")
        legend_below(figure, everything)
        warn(figure, results.collected)
    return figure


def _disagreement_and_gain(results: Results, method: str) -> dict[Cell, tuple[float, float]]:
    """Differences in disagreement and in accuracy, both in points, for each pair that has both.

    A method that trains a single net has no disagreement.
    """
    disagreement = differences(results.values(ENSEMBLE, "disagreement"), method)
    gains = differences(results.accuracy, method)
    return {cell: (disagreement[cell], gain) for cell, gain in gains.items() if cell in disagreement}


def _scatter(axes: "Axes", results: Results, pairs: Mapping[Cell, tuple[float, float]]) -> None:
    axes.axhline(0, color="black", linewidth=0.8, zorder=1)
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    for number, (dataset, facts) in enumerate(results.collected.datasets.items()):
        here = [pair for cell, pair in pairs.items() if cell.dataset == dataset]
        if here:
            axes.scatter(
                [disagreement for disagreement, _ in here],
                [gain for _, gain in here],
                s=14,
                marker=("o", *MARKERS)[number % 7],
                color=COLOURS[number % len(COLOURS)],
                alpha=0.75,
                linewidth=0.4,
                edgecolor="white",
                label=facts.title,
            )
    if not axes.collections:
        say_nothing_there(axes)


def diversity_and_gain_caption(results: Results) -> str:
    """The caption: what the figure shows, n, and what it cannot show."""
    n = sum(len(_disagreement_and_gain(results, method)) for method in results.methods[1:])
    return caption(
        results.collected,
        "Test accuracy of the soft vote over the share of test images on which two members predict different classes "
        "(mean over pairs of members), both minus those of the classical ensemble of the same seed; a mark per pair of "
        f"cells, all numbers of shots, n = {n:,}. Worse members disagree more, so neither a "
        "falling nor a rising cloud proves anything about diversity; claim C5 compares what members predict.",
    )


ENTRIES = [
    Entry(
        "figure",
        "gain_over_shots",
        "Gain over images per class",
        "Test accuracy minus that of the classical ensemble of the same seed, over training images per "
        "class. Marks: mean over seeds; lines: 95 % t intervals over seeds, none below three seeds; "
        "shaded: ± 2 points. All facets have the same scale.",
        drawn(gain_over_shots, gain_over_shots_caption),
        order=30,
        reading="The paper expects the largest gain with the fewest images: marks above 0 on the left that fall "
        "towards the right. In `lite`, neither panel shows it.",
    ),
    Entry(
        "figure",
        "paired_differences",
        "Differences from classical",
        "Test accuracy of every method minus that of the classical ensemble of the same seed. Large "
        "marks: mean over seeds; lines: 95 % t interval over seeds; strokes: the single seeds; shaded: ± "
        "2 points. All facets have the same scale.",
        drawn(paired_differences, paired_differences_caption),
        order=40,
        reading="Each stroke is one seed. If the strokes lie on both sides of 0, single comparisons are luck, and "
        "only the mean over seeds says something. On NEU with 10 images per class they do.",
    ),
    Entry(
        "figure",
        "diversity_and_gain",
        "Diversity and gain",
        "Difference in accuracy over difference in the members' disagreement, both from the classical "
        "ensemble of the same seed; one mark per pair of ensembles.",
        drawn(diversity_and_gain, diversity_and_gain_caption),
        order=50,
        reading="If diversity itself made ensembles better, the cloud would rise to the right. Worse members also "
        "disagree more, so neither a rising nor a falling cloud proves anything. In `lite`, the members of NEU's "
        "ensembles disagree by 27 to 63 points more with the loss, and the accuracy changes by −14 to +5 points.",
    ),
]
