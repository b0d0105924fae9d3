"""The figure of test accuracy over training images per class (shots)."""

from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING

from fdl.core.titles import method_title
from fdl.reporting.drawing import (
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
from fdl.reporting.entries import Entry, drawn
from fdl.reporting.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

_DODGE = 0.045  # distance between methods, as a fraction of the axis


def accuracy_over_shots(results: Results) -> "Figure":
    """Draw the soft vote's test accuracy over training images per class, with a facet per dataset and backbone."""
    shots = sorted({bundle.shots for bundle in results.bundles})
    frame = _frame(results, shots)
    with house_style():
        # The backbones of a dataset are side by side and share their y axis. Each dataset has a y axis of its own.
        figure, all_axes = facets(results.nets, share="row")
        for axes, net in zip(all_axes, results.nets, strict=True):
            _facet(axes, results, frame, net, shots)
            if not axes.lines and net[0] not in set(frame["dataset"]):
                axes.set_yticks([])  # without values and chance there is no scale
        label_axes(figure, all_axes, x="training images per class", y="test accuracy (%)")
        legend_below(figure, all_axes[:1], last=["chance"])
        warn(figure, results.collected)
    return figure


def accuracy_over_shots_caption(results: Results) -> str:
    """The caption: what the figure shows, n, error bars and chance."""
    collected = results.collected
    seeds = len({state.cell.seed for state in collected.cells})
    several = "mean over seeds, bars: ± standard deviation, faint marks: the single seeds"
    return caption(
        collected,
        f"Test accuracy of {results.params.members} members by soft vote over training images per class "
        f"(logarithmic axis); {several if seeds > 1 else 'one seed'}; n = {seeds} per point"
        + (" at most" if len(collected.of("done")) < len(collected.cells) else "")
        + "; methods are shifted sideways to keep them apart; dotted: chance, guessing all classes equally often.",
    )


def _frame(results: Results, shots: list[int]) -> "DataFrame":
    """One row per cell that has a value; `at` is the number of shots, shifted so that methods do not overlap."""
    import pandas as pd

    methods = results.methods
    middle = (len(methods) - 1) / 2
    # The distance is in doublings of the shots. All methods stay closer to their number of shots than to the next one.
    gaps = [log2(after / before) for before, after in pairwise(shots)]
    dodge = min([_DODGE * (log2(shots[-1] / shots[0]) + 1), *(0.6 * gap / len(methods) for gap in gaps)])
    return pd.DataFrame(
        [
            {
                "dataset": cell.dataset,
                "backbone": cell.backbone,
                "at": cell.shots * 2 ** ((methods.index(cell.method) - middle) * dodge),
                "method": method_title(cell.method),
                "percent": 100 * accuracy,
            }
            for cell, accuracy in results.accuracy.items()
        ],
        columns=["dataset", "backbone", "at", "method", "percent"],
    )


def _facet(axes: "Axes", results: Results, frame: "DataFrame", net: Net, shots: list[int]) -> None:
    import seaborn as sns

    dataset, backbone = net
    styles, facts = looks(results.methods), results.collected.datasets[dataset]
    here = frame[(frame["dataset"] == dataset) & (frame["backbone"] == backbone)]
    if facts.chance is not None:
        axes.axhline(100 * facts.chance, color="black", linestyle=":", linewidth=1, label="chance", zorder=1)
    if not here.empty:
        order = list(styles["palette"])
        for title in order:
            seeds = here[here["method"] == title]
            colour, marker = styles["palette"][title], styles["markers"][title]
            axes.scatter(
                seeds["at"], seeds["percent"], s=10, zorder=2, color=colour, marker=marker, alpha=0.35, linewidth=0
            )
        sns.lineplot(
            here,
            x="at",
            y="percent",
            hue="method",
            style="method",
            hue_order=order,
            style_order=order,
            palette=styles["palette"],
            markers=styles["markers"],
            dashes=styles["dashes"],
            ax=axes,
            errorbar="sd",
            err_style="bars",
            err_kws={"capsize": 2, "elinewidth": 0.9, "capthick": 0.9},
            linewidth=1.2,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=3,
        )
        axes.legend().remove()
    else:
        say_nothing_there(axes)
    axes.set_title(net_title(results.collected, net))
    axes.set_xscale("log", base=2)
    axes.set_xlim(shots[0] / 2**0.5, shots[-1] * 2**0.5)
    axes.set_xticks(shots, labels=[str(count) for count in shots])
    axes.minorticks_off()


ENTRIES = [
    Entry(
        "figure",
        "accuracy_over_shots",
        "Accuracy over images per class",
        "Test accuracy of the soft vote over training images per class; one panel per dataset and "
        "backbone. Bars: standard deviation over seeds; dotted: chance.",
        drawn(accuracy_over_shots, accuracy_over_shots_caption),
        order=20,
        reading="Look at the distance between the lines and compare it with the bars. Lines at the dotted one are "
        "at chance: such nets have learned nothing, and their comparison says nothing.",
    ),
]
