"""The figure of the seconds that a cell, one trained ensemble, takes."""

from typing import TYPE_CHECKING

from fdl.core.titles import backbone_title, method_title
from fdl.reporting.cost_tables import grouped_costs
from fdl.reporting.drawing import caption, house_style, label_axes, legend_below, looks, say_nothing_there, warn
from fdl.reporting.entries import Entry, drawn
from fdl.reporting.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def seconds_per_cell(results: Results) -> "Figure":
    """Draw the seconds of the finished cells, with a facet per backbone and a row per dataset in it."""
    import pandas as pd
    import seaborn as sns
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    rows = [
        {
            "backbone": costs.backbone,
            "dataset": results.collected.datasets[costs.dataset].title,
            "method": method_title(costs.method),
            "seconds": seconds,
        }
        for costs in grouped_costs(results)
        for seconds in costs.done["seconds"]
    ]
    frame = pd.DataFrame(rows, columns=["backbone", "dataset", "method", "seconds"])
    styles, backbones = looks(results.methods), list(dict.fromkeys(backbone for _, backbone in results.nets))
    datasets = [facts.title for facts in results.collected.datasets.values()]
    dodge = 0.4 if len(results.methods) > 1 else False  # seaborn divides it by the number of methods minus 1
    with house_style():
        size = 2.3 * len(backbones) + 1.4, 0.25 * len(datasets) * max(len(results.methods) / 2, 1) + 1.2
        figure = Figure(figsize=size, layout="constrained")
        axes = list(figure.subplots(1, len(backbones), squeeze=False, sharex=True, sharey=True).flat)
        for panel, backbone in zip(axes, backbones, strict=True):
            here = frame[frame["backbone"] == backbone]
            if here.empty:
                say_nothing_there(panel)
            else:
                sns.pointplot(
                    here, x="seconds", y="dataset", hue="method", order=datasets, hue_order=list(styles["palette"]),
                    palette=styles["palette"], markers=list(styles["markers"].values()), estimator="median",
                    errorbar=("pi", 100), dodge=dodge, linestyle="none", markersize=4, err_kws={"linewidth": 1.2},
                    ax=panel,
                )  # fmt: skip
                panel.legend().remove()
                panel.set_xscale("log")
                panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                panel.minorticks_off()
            panel.set_title(backbone_title(backbone))
            panel.grid(visible=True, axis="x")
            panel.grid(visible=False, axis="y")
        label_axes(figure, axes, x="seconds per cell", y="")
        legend_below(figure, axes)
        warn(figure, results.collected)
    return figure


def seconds_per_cell_caption(results: Results) -> str:
    """The caption: what the figure shows, the number of cells and their devices."""
    n = sum(len(costs.done) for costs in grouped_costs(results))
    devices = ", ".join(sorted(set(results.costs["device"]))) or "no device"
    return caption(
        results.collected,
        "Seconds of a cell (one ensemble trained, evaluated and mapped), logarithmic axis; marks: median over shots "
        f"and seeds, lines: minimum to maximum; n = {n:,} cells on {devices}. Times of different devices or loads of a "
        "machine are not comparable.",
    )


ENTRIES = [
    Entry(
        "figure",
        "seconds_per_cell",
        "Seconds per cell",
        "Seconds per trained ensemble on a logarithmic axis. Marks: median over shots and seeds; lines: minimum to "
        "maximum.",
        drawn(seconds_per_cell, seconds_per_cell_caption),
        order=80,
        reading="Compare methods within a dataset and backbone, and only if their lines are short: long ones come "
        "from a machine with other work.",
    ),
]
