"""A method against the classical ensemble, pair by pair: the differences, and what diversity has to do with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from fdl.core.settings import Cell
from fdl.core.titles import backbone_title, dataset_title, method_title
from fdl.evaluation import statistics
from fdl.reporting.drawing import (
    COLOURS,
    MARKERS,
    Net,
    caption,
    facets,
    house_style,
    label_axes,
    legend_below,
    looks,
    net_title,
    say_nothing_there,
    warn,
)
from fdl.reporting.results import SEEDS_FOR_INTERVAL, Results, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Method minus classical, soft vote on test, of one seed."""

    cell: Cell
    accuracy: float  # points
    disagreement: float | None  # points; None: the ensembles have no pairs of members, or were not measured


def measured_differences(results: Results, method: str) -> list[Difference]:
    """All pairs of a method with both values."""
    values, disagreement = results.accuracy, results.values("ensemble", "disagreement")
    return [
        Difference(
            cell,
            100 * (values[cell] - values[twin]),
            100 * (disagreement[cell] - disagreement[twin]) if cell in disagreement and twin in disagreement else None,
        )
        for cell, twin in results.pairs(method)
        if cell in values and twin in values
    ]


@dataclass(frozen=True)
class Interval:
    """A mean difference in points with its 95 % interval."""

    mean: float
    low: float  # NaN: the seeds tell nothing of the spread
    high: float
    n: int


def bundle_interval(differences: Sequence[float]) -> Interval:
    """Of one bundle: t interval over its seeds."""
    low, high = spread(differences).interval or (np.nan, np.nan)
    return Interval(fmean(differences), low, high, len(differences))


def overall_interval(differences: Sequence[Difference]) -> Interval:
    """Of all pairs: jackknife over the seeds of every dataset, the test images held fixed (docs/claims.md)."""
    rows = np.array([[difference.accuracy] for difference in differences])
    datasets, seeds = ([getattr(d.cell, name) for d in differences] for name in ("dataset", "seed"))
    estimate = statistics.jackknife(statistics.weighted_mean, rows, datasets, seeds)
    low, high = estimate.interval(LEVEL) if len(set(seeds)) >= SEEDS_FOR_INTERVAL else (np.nan, np.nan)
    return Interval(float(estimate.value), float(low), float(high), len(rows))


def paired_differences(results: Results) -> "Figure":
    """Accuracy of every method minus classical, by bundle and over all; a facet per dataset and backbone."""
    found = {method: measured_differences(results, method) for method in results.methods[1:]}
    with house_style():
        figure, axes = facets(results.nets, extra=1)
        shots = sorted({bundle.shots for bundle in results.bundles})
        for one, net in zip(axes, results.nets, strict=False):
            _forest(one, results, found, net, shots)
        _overall(axes[-1], results, found)
        label_axes(figure, axes, x="Δ test accuracy (points)", y="training images per class", also=axes[-4:])
        legend_below(figure, axes)
        warn(figure, results.collected)
    return figure


def _forest(axes: "Axes", results: Results, found: dict[str, list[Difference]], net: Net, shots: Sequence[int]) -> None:
    axes.set_title(net_title(results.collected, net))
    axes.set_yticks(range(len(shots)), labels=[str(count) for count in shots])
    axes.set_ylim(len(shots) - 0.5, -0.5)
    widest = 1.0
    for place, method in enumerate(found):
        offset = (place - (len(found) - 1) / 2) * 0.7 / len(found)
        single: dict[float, list[float]] = {}
        for difference in found[method]:
            if _net(difference.cell) == net:
                single.setdefault(shots.index(difference.cell.shots) + offset, []).append(difference.accuracy)
        if single:
            _draw(axes, results, method, {y: bundle_interval(of) for y, of in single.items()}, single)
            widest = max(widest, *(abs(x) for of in single.values() for x in of))
    if not axes.lines:
        say_nothing_there(axes)
    _zero(axes, 1.35 * widest)


def _overall(axes: "Axes", results: Results, found: dict[str, list[Difference]]) -> None:
    """The last facet: one line per method."""
    axes.set_title("all", fontweight="bold")
    axes.set_yticks([])
    axes.set_ylim(max(len(found), 1) - 0.5, -0.5)
    widest = 0.5
    for row, method in enumerate(found):
        if found[method]:
            interval = overall_interval(found[method])
            _draw(axes, results, method, {row: interval}, {})
            widest = max(widest, *(abs(x) for x in (interval.mean, interval.low, interval.high) if np.isfinite(x)))
    if not axes.lines:
        say_nothing_there(axes)
    _zero(axes, 1.1 * widest)


def _draw(
    axes: "Axes",
    results: Results,
    method: str,
    intervals: Mapping[float, Interval],
    single: Mapping[float, Sequence[float]],
) -> None:
    """A method's marks, by their y."""
    of, title = looks(results.methods), method_title(method)
    colour, marker = of["palette"][title], of["markers"][title]
    known = [(y, interval.low, interval.high) for y, interval in intervals.items() if np.isfinite(interval.low)]
    if known:
        axes.hlines(*zip(*known, strict=True), color=colour, linewidth=1.3, capstyle="butt", zorder=2)
    x, y = [x for of_y in single.values() for x in of_y], [y for y, of_y in single.items() for _ in of_y]
    axes.plot(x, y, "|", color="black", markersize=5, markeredgewidth=0.7, alpha=0.6, zorder=3)
    means = [interval.mean for interval in intervals.values()]
    (mark,) = axes.plot(means, list(intervals), marker, color=colour, markersize=5, label=title, zorder=4)
    mark.set(markeredgecolor="white", markeredgewidth=0.6)


def _zero(axes: "Axes", reach: float) -> None:
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    axes.set_xlim(-reach, reach)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def _net(cell: Cell) -> Net:
    return cell.dataset, cell.backbone


def paired_differences_caption(results: Results) -> str:
    """What the figure shows: n, intervals."""
    counts = [len(measured_differences(results, method)) for method in results.methods[1:]]
    if not sum(counts):
        return caption(results.collected, "Differences from the classical ensemble: no finished pairs.")
    named = ", ".join(
        f"{method_title(method)} {count}" for method, count in zip(results.methods[1:], counts, strict=True)
    )
    return caption(
        results.collected,
        "Test accuracy of the soft vote minus that of the classical ensemble of the same seed. Large marks: mean over "
        f"seeds; lines: {100 * LEVEL:.0f} % t interval over seeds, cut where it leaves the facet; strokes: the "
        "single seeds. Every facet has a scale of its own. all: mean over all pairs, interval by jackknife over the "
        f"seeds of every dataset, test images held fixed. n pairs: {named}.",
    )


def diversity_and_gain(results: Results) -> "Figure":
    """Difference of accuracy over difference of the members' disagreement, a mark per pair; a facet per backbone."""
    from matplotlib.figure import Figure

    backbones = list(dict.fromkeys(backbone for _, backbone in results.nets))
    methods = results.methods[1:]
    found = {method: measured_differences(results, method) for method in methods}
    with house_style():
        rows, columns = max(len(methods), 1), len(backbones)
        figure = Figure(figsize=(max(2.4 * columns, 3.4) + 0.4, 2.1 * rows + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for method, line in zip(methods or [""], grid, strict=True):
            for backbone, axes in zip(backbones, line, strict=True):
                here = [d for d in found.get(method, []) if d.cell.backbone == backbone]
                _scatter(axes, results, here)
                axes.set_title(" · ".join(filter(None, [backbone_title(backbone), method_title(method)])))
        everything = list(grid.flat)
        label_axes(figure, everything, x="Δ disagreement (points)", y="Δ test accuracy (points)")
        legend_below(figure, everything)
        warn(figure, results.collected)
    return figure


def _scatter(axes: "Axes", results: Results, differences: Sequence[Difference]) -> None:
    axes.axhline(0, color="black", linewidth=0.8, zorder=1)
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    for number, (dataset, facts) in enumerate(results.collected.datasets.items()):
        here = [d for d in differences if d.cell.dataset == dataset and d.disagreement is not None]
        if here:
            axes.scatter(
                [d.disagreement or 0 for d in here],
                [d.accuracy for d in here],
                s=14,
                marker=("o", *MARKERS)[number % 7],
                color=COLOURS[number % len(COLOURS)],
                alpha=0.75,
                linewidth=0.4,
                edgecolor="white",
                label=dataset_title(dataset, synthetic=facts.synthetic),
            )
    if not axes.collections:
        say_nothing_there(axes)


def diversity_and_gain_caption(results: Results) -> str:
    """What the figure shows: n, and what it cannot show."""
    n = sum(
        difference.disagreement is not None
        for method in results.methods[1:]
        for difference in measured_differences(results, method)
    )
    return caption(
        results.collected,
        "Test accuracy of the soft vote over the share of test images on which two members predict different classes "
        "(mean over pairs of members), both minus those of the classical ensemble of the same seed; a mark per pair of "
        f"cells, all numbers of shots, n = {n}. Worse members disagree more: a cloud that falls to the right is no "
        "proof against diversity, nor one that rises a proof for it (claim C5 compares what members predict).",
    )
