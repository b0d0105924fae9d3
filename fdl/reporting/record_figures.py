"""Figures drawn from the records of single cells: training curves, reliability, overlap of class activation maps.

A cell is one trained ensemble, and a record is the folder with its results. The figures show the cells that
`Results.compared` returns. For each dataset and backbone these have the largest number of shots (training images per
class) for which any seed is finished with all methods, and all such seeds are shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fdl.core.settings import Cell
from fdl.core.titles import backbone_title, method_title
from fdl.evaluation.metrics import ECE_BINS
from fdl.reporting.drawing import (
    Net,
    caption,
    facets,
    house_style,
    label_axes,
    legend_below,
    look,
    looks,
    net_title,
    place_no_empty_labels,
    say_nothing_there,
    warn,
)
from fdl.reporting.entries import Entry, drawn, per_dataset
from fdl.reporting.results import Results, read_arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
# Columns of the history and the titles of their panels. If a column exists once per member, the members are averaged.
_CURVES = {"cross_entropy": "cross-entropy of a member", "cosine": "cosine term", "gaussian": "Gaussian term"}


def training_curves(results: Results, dataset: str) -> "Figure":
    """Draw the cross-entropy and both terms of the distance loss over epochs.

    There is a row per backbone of the dataset that has a seed finished with all methods.
    """
    from matplotlib.figure import Figure

    nets = [net for net in results.nets if net[0] == dataset]
    nets = [net for net in nets if results.compared(*net)] or nets[:1]
    with house_style():
        figure = Figure(figsize=(7.2, 1.7 * len(nets) + 0.8), layout="constrained")
        grid = figure.subplots(len(nets), len(_CURVES), squeeze=False, sharex="row")
        for net, line in zip(nets, grid, strict=True):
            compared = results.compared(*net)
            curves = {method: _mean_curves(results, cells) for method, cells in compared.items()}
            for axes, name in zip(line, _CURVES, strict=True):
                _draw_curves(axes, results, {method: named[name] for method, named in curves.items() if name in named})
                axes.set_title(_CURVES[name])
            shots = next((cells[0].shots for cells in compared.values()), None)
            line[0].set_ylabel(backbone_title(net[1]) + (f"\n{shots} per class" if shots else ""))
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        place_no_empty_labels(grid.flat)
        legend_below(figure, list(grid.flat))
        warn(figure, results.collected)
    return figure


def _mean_curves(results: Results, cells: Sequence[Cell]) -> dict[str, tuple[Floats, Floats]]:
    """Mean over seeds (epochs,) and range over seeds (2, epochs) of every curve of `_CURVES`."""
    histories = [results.history(cell) for cell in cells]
    names = [list(map(str, history.columns)) for history in histories]
    epochs = min(map(len, histories))
    curves = {}
    for name in _CURVES:
        columns = [[column for column in held if column == name or column.startswith(f"{name}_")] for held in names]
        if all(columns):
            rows = np.array([h[c].to_numpy()[:epochs].mean(axis=1) for h, c in zip(histories, columns, strict=True)])
            curves[name] = rows.mean(axis=0), np.array([rows.min(axis=0), rows.max(axis=0)])
    return curves


def _draw_curves(axes: "Axes", results: Results, curves: Mapping[str, tuple[Floats, Floats]]) -> None:
    for method, (mean, (low, high)) in curves.items():
        style = look(results.methods, method)
        epochs = np.arange(1, len(mean) + 1)
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.plot(epochs, mean, **style, linewidth=1.3, label=method_title(method))
    axes.locator_params(nbins=4)
    if not curves:
        axes.set(xticks=[], yticks=[])
        say_nothing_there(axes)


def training_curves_caption(results: Results, dataset: str) -> str:
    """The caption: what the figure shows, and the number of seeds."""
    title = results.collected.datasets[dataset].title
    nets = [net for net in results.nets if net[0] == dataset]
    empty = [backbone_title(backbone) for _, backbone in nets if not results.compared(dataset, backbone)]
    missing = f" No finished pairs of {', '.join(empty)}." * bool(0 < len(empty) < len(nets))
    return caption(
        results.collected,
        f"Training on {title}: mean of the members' cross-entropies on the training batches, and the two terms of the "
        "distance loss (unweighted sums over pairs of members; for classical measured, not minimised). Lines: mean "
        f"over seeds, bands: minimum to maximum. {_seeds(results, nets)}{missing}",
    )


def reliability(results: Results) -> "Figure":
    """Draw the accuracy of the soft vote over its confidence, with a facet per dataset and backbone."""
    return _facets_of_methods(
        results, _draw_reliability, x="confidence (mean probability)", y="accuracy", legend_last=["calibrated"]
    )


_COUNTS = 0.4  # height of a stroke for all images; a bin with half of them takes a fifth of the facet's height


def _draw_reliability(axes: "Axes", results: Results, net: Net) -> None:
    axes.plot([0, 1], [0, 1], ":", color="black", linewidth=1, label="calibrated", zorder=1)
    styles = looks(results.methods)
    for method, cells in results.compared(*net).items():
        bins = np.sum([_soft_vote_bins(results, cell) for cell in cells], axis=0)
        count, confidence, correct = bins[:, bins[0] > 0]
        title = method_title(method)
        size = {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.5}
        style: dict[str, Any] = look(results.methods, method) | size
        axes.plot(
            confidence / count, correct / count, marker=styles["markers"][title], **style, linewidth=1.2, label=title
        )
        # Strokes at the foot of the facet show the share of images in each bin.
        tops = _COUNTS * count / count.sum()
        axes.vlines(confidence / count, 0, tops, color=style["color"], linewidth=2.5, alpha=0.45, zorder=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def _soft_vote_bins(results: Results, cell: Cell) -> Floats:
    """The bins of the soft vote's confidence on test images, (3, bins); see `evaluation.metrics.confidence_bins`."""
    name = f"reliability/{results.params.selections_of(cell.dataset)[0]}"
    return read_arrays(results.params, cell, "correct.npz", name)[name]


def reliability_caption(results: Results) -> str:
    """The caption: what the figure shows, and the number of seeds."""
    return caption(
        results.collected,
        "Accuracy of the soft vote over its confidence (the mean of the members' probabilities for the class it "
        f"picks), test images of all seeds together in {ECE_BINS} bins of equal width, empty ones left out; above "
        "the dotted line the vote is less confident than accurate, below it more. Strokes at the foot: share of images "
        f"per bin. No error bars. {_seeds(results, results.nets)}",
    )


def cam_overlap(results: Results) -> "Figure":
    """Draw how the overlap of the members' maps is distributed over test images.

    There is a facet per dataset and backbone; the lines are cumulative distribution functions.
    """
    return _facets_of_methods(
        results, _draw_overlap, x="overlap of two members' maps (cosine)", y="share of test images"
    )


def _draw_overlap(axes: "Axes", results: Results, net: Net) -> str:
    by_method = image_overlaps(results, net)
    for method, overlaps in by_method.items():
        if len(overlaps.means):
            ordered = np.sort(overlaps.means)
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            style = look(results.methods, method) | {"alpha": max(0.3, 1 - overlaps.left_out)}
            axes.plot(ordered, share, **style, linewidth=1.3, label=method_title(method))
    if not axes.lines:
        say_nothing_there(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    # If the methods leave out different shares, the largest is named.
    left_out = max((overlaps.left_out for overlaps in by_method.values()), default=0.0)
    return f"{100 * left_out:.0f} % of pairs left out" if by_method else ""


@dataclass(frozen=True)
class Overlaps:
    """The overlaps of one method's maps, with all seeds in one array."""

    means: Floats  # mean overlap over pairs of members, for every test image that has a pair
    left_out: float  # share of the pairs of maps that is left out


def image_overlaps(results: Results, net: Net) -> dict[str, Overlaps]:
    """Overlap of the members' maps of the true class on test images, by method.

    A pair of members is left out for an image if one of its maps is empty in any method (docs/claims.md, C4). Images
    without a remaining pair are left out, too.

    Raises:
        InputError: a record's `cam.npz` is missing or damaged.
    """
    from fdl.evaluation.overlap import left_out, on_same_images, overlap

    compared = results.compared(*net)
    means: dict[str, list[Floats]] = {method: [] for method in compared}
    shares: dict[str, list[float]] = {method: [] for method in compared}
    for cells in zip(*compared.values(), strict=True):
        arms = on_same_images(
            [
                read_arrays(results.params, cell, "cam.npz", "cosines", "empty", optional=["signed_positions"])
                for cell in cells
            ]
        )
        paired = len({arm["cosines"].shape for arm in arms}) == 1  # not if a method trains a single net
        for cell, arm in zip(cells, arms, strict=True):
            without = reduce(np.logical_or, map(left_out, arms)) if paired else left_out(arm)
            mean, pairs, share = overlap(arm["cosines"], without)
            means[cell.method].append(mean[pairs > 0])
            shares[cell.method].append(share)
    known = [method for method, values in means.items() if values]
    return {method: Overlaps(np.concatenate(means[method]), fmean(shares[method])) for method in known}


def cam_overlap_caption(results: Results) -> str:
    """The caption: what the figure shows, and the number of seeds."""
    return caption(
        results.collected,
        "Cumulative share of test images by the mean overlap of two members' class activation maps of the true class "
        "(cosine; a pair with an empty map in one method is left out of both, and an image "
        "without a pair too); a line further left means that the members look at more different places; the "
        "more pairs are left out, the fainter the line. "
        "Where more than 10 % of the pairs are left out, the remaining pairs are a biased sample, and claim C4 is "
        "not decided. "
        f"{_seeds(results, results.nets)}",
    )


def _facets_of_methods(results: Results, draw: Any, *, x: str, y: str, legend_last: Sequence[str] = ()) -> "Figure":
    with house_style():
        figure, axes = facets(results.nets, share="all")
        for panel, net in zip(axes, results.nets, strict=True):
            compared = results.compared(*net)
            note = draw(panel, results, net)
            shots = f" · {next(iter(compared.values()))[0].shots}" if compared else ""
            panel.set_title("\n".join(filter(None, [net_title(results.collected, net) + shots, note])))
            if not compared:
                say_nothing_there(panel)
        label_axes(figure, axes, x=x, y=y)
        legend_below(figure, axes, last=legend_last)
        warn(figure, results.collected)
    return figure


def _seeds(results: Results, nets: Sequence[Net]) -> str:
    """The part of a caption that says which cells are shown, and how many seeds."""
    counts = sorted({len(cells) for net in nets for cells in results.compared(*net).values()})
    if not counts:
        return "No finished cells to show."
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"At the largest number of images per class with finished pairs (in the titles); n = {n} seeds."


ENTRIES = [
    Entry(
        "figure",
        "reliability",
        "Reliability",
        "Accuracy of the soft vote over its confidence, for the test images of all seeds together, in "
        "fifteen bins of equal width.",
        drawn(reliability, reliability_caption),
        order=60,
        reading="Points below the diagonal are overconfident, points above it underconfident. The strokes at the foot "
        "say how many images a bin holds: points without many images mean little. On NEU, FDL's votes are "
        "underconfident between 0.3 and 0.7, the classical ones overconfident.",
    ),
    Entry(
        "figure",
        "cam_overlap",
        "Overlap of the members' maps",
        "Cumulative share of test images by the mean overlap of two members' class activation maps of the "
        "true class (cosine, mean over pairs of members).",
        drawn(cam_overlap, cam_overlap_caption),
        order=70,
        reading="A line further to the left has members that look at more different places. Pale lines rest on "
        "few pairs of maps: the titles say how many are left out because a map is empty. On NEU in `lite` "
        "these are 91 %, so the panel decides nothing.",
    ),
    Entry(
        "figure",
        "training",
        "Training",
        "Cross-entropy of the members and both terms of the distance loss over epochs: mean over seeds, "
        "bands from minimum to maximum.",
        drawn(training_curves, training_curves_caption),
        order=90,
        each=per_dataset("training", "Training"),
        written="training_DATASET",
        reading="The cross-entropy shows whether the members learn, the other two panels whether the loss acts: "
        "FDL's lines should be below the classical ones, which are measured but not minimised. On NEU in "
        "`lite`, the members' cross-entropy stays higher with the loss than without it.",
    ),
]
