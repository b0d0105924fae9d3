"""The figures: readable in grey and by the colour-blind, the same bytes for the same results.

A figure function returns a matplotlib `Figure` of its own (nothing global); `save` writes it.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdl import records
from fdl.params import Cell, Params
from fdl.reporting.collect import Collected
from fdl.reporting.titles import (
    BASELINE,
    SYNTHETIC,
    backbone_title,
    combiner_title,
    dataset_title,
    method_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

# Okabe & Ito's palette without its yellow: dark, light, dark, … so that neighbours differ in grey.
_BASELINE_COLOUR = "#8c8c8c"
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_MARKERS = ("s", "^", "D", "v", "P", "X")
_DASHES = ("", (6, 1.5), (4, 1.5, 1, 1.5), (1.5, 1.5), (8, 2, 2, 2), (3, 1))
WARNING_COLOUR = "#b34400"
_FACET = (2.35, 1.75)  # inches
_DODGE = 0.045  # between methods, as a part of the axis
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "savefig.dpi": 200,
}


def accuracy_over_shots(params: Params, collected: Collected, values: Mapping[Cell, float]) -> "Figure":
    """Test accuracy over training images per class; a facet per dataset and backbone.

    Args:
        values: accuracy per cell in [0, 1]; see `collect.headline_values`.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    grid = list(dict.fromkeys((state.cell.dataset, state.cell.backbone) for state in collected.cells))
    rows, columns = _facets(grid)
    shots = sorted({state.cell.shots for state in collected.cells})
    frame = _frame(collected, values, shots)
    with style.context(["default", STYLE]):  # whatever the user's matplotlibrc says
        large = 1.6 if len(grid) == 1 else 1.0
        size = (max(large * _FACET[0] * columns, 3.4) + 0.4, large * _FACET[1] * rows + 0.6)
        figure = Figure(figsize=size, layout="constrained")
        # A dataset's backbones stand side by side and share their scale; other datasets have their own.
        all_axes = figure.subplots(rows, columns, squeeze=False, sharey="row" if rows * columns == len(grid) else False)
        for axes, pair in zip(all_axes.flat, [*grid, *[None] * (rows * columns - len(grid))], strict=True):
            if pair is None:
                axes.set_axis_off()
            else:
                _facet(axes, collected, frame, *pair, shots=shots)
        for axes in all_axes[-1]:  # no supxlabel: the legend would be put on top of it
            axes.set_xlabel("training images per class")
        figure.supylabel("test accuracy (%)", fontsize=8)
        _legend(figure, all_axes.flat[0])
        if notice := _notice(collected):
            figure.suptitle(notice, fontsize=8, fontweight="bold", color=WARNING_COLOUR)
    return figure


def accuracy_over_shots_caption(params: Params, collected: Collected, *, combiner: str) -> str:
    """What the figure shows: n, error bars, chance."""
    seeds = len({state.cell.seed for state in collected.cells})
    several = "mean over seeds, bars: ± standard deviation, faint marks: the single seeds"
    return (
        f"{_notice(collected)} ".lstrip().replace("\n", " ")
        + f"Test accuracy of {params.members} members by {combiner_title(combiner)} over training images per class "
        + f"(logarithmic axis); {several if seeds > 1 else 'one seed'}; n = {seeds} per point"
        + (" at most" if len(collected.of("done")) < len(collected.cells) else "")
        + "; methods are set off sideways to keep them apart; dotted: guessing all classes equally often."
    )


_UNDATED: dict[str, dict[str, None]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}}


def save(figure: "Figure", stem: Path, *, endings: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write `<stem>.png` and `<stem>.pdf`, without dates in them; return the files."""
    from matplotlib import style

    paths = []
    with style.context(["default", STYLE]):
        for ending in endings:
            content = io.BytesIO()
            figure.savefig(content, format=ending, metadata=_UNDATED[ending])
            path = stem.with_name(f"{stem.name}.{ending}")
            records.write_atomically(path, content.getvalue())
            paths.append(path)
    return paths


def _facets(grid: list[tuple[str, str]]) -> tuple[int, int]:
    """Rows and columns: a row per dataset if every dataset has the same backbones, else rows of three."""
    datasets = list(dict.fromkeys(dataset for dataset, _ in grid))
    backbones = list(dict.fromkeys(backbone for _, backbone in grid))
    if len(backbones) > 1 and len(grid) == len(datasets) * len(backbones):
        return len(datasets), len(backbones)
    columns = min(len(grid), 3)
    return -(-len(grid) // columns), columns


def _frame(collected: Collected, values: Mapping[Cell, float], shots: list[int]) -> "DataFrame":
    """One line per cell with a value; `at` is the shots, methods set off from each other."""
    import pandas as pd

    methods = list(dict.fromkeys(state.cell.method for state in collected.cells))
    middle = (len(methods) - 1) / 2
    # In doublings of the shots; all methods of one number of shots stay nearer to it than to the next one.
    gaps = [log2(after / before) for before, after in pairwise(shots)]
    dodge = min([_DODGE * (log2(shots[-1] / shots[0]) + 1), *(0.6 * gap / len(methods) for gap in gaps)])
    return pd.DataFrame(
        [
            {
                "dataset": cell.dataset,
                "backbone": cell.backbone,
                "at": cell.shots * 2 ** ((methods.index(cell.method) - middle) * dodge),
                "method": method_title(cell.method),
                "percent": 100 * values[cell],
            }
            for cell in (state.cell for state in collected.cells)
            if cell in values
        ],
        columns=["dataset", "backbone", "at", "method", "percent"],
    )


def _looks(collected: Collected) -> dict[str, dict[str, Any]]:
    """Colours, markers and dashes by method title: the baseline grey and dashed."""
    methods = list(dict.fromkeys(state.cell.method for state in collected.cells))
    others = [method for method in methods if method != BASELINE]
    looks: dict[str, dict[str, Any]] = {"palette": {}, "markers": {}, "dashes": {}}
    for method in methods:
        number = others.index(method) % len(_COLOURS) if method in others else 0
        title, baseline = method_title(method), method == BASELINE
        looks["palette"][title] = _BASELINE_COLOUR if baseline else _COLOURS[number]
        looks["markers"][title] = "o" if baseline else _MARKERS[number]
        looks["dashes"][title] = (3, 1.5) if baseline else _DASHES[number]
    return looks


def _facet(
    axes: "Axes", collected: Collected, frame: "DataFrame", dataset: str, backbone: str, *, shots: list[int]
) -> None:
    import seaborn as sns

    looks = _looks(collected)
    facts = collected.datasets[dataset]
    here = frame[(frame["dataset"] == dataset) & (frame["backbone"] == backbone)]
    if facts.chance is not None:
        axes.axhline(100 * facts.chance, color="black", linestyle=":", linewidth=1, label="chance", zorder=1)
    if not here.empty:
        order = list(looks["palette"])
        common = {"data": here, "x": "at", "y": "percent", "hue": "method", "style": "method", "ax": axes}
        common |= {"hue_order": order, "style_order": order, "palette": looks["palette"], "markers": looks["markers"]}
        sns.scatterplot(**common, s=10, alpha=0.35, linewidth=0, legend=False, zorder=2)
        sns.lineplot(
            **common,
            dashes=looks["dashes"],
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
        axes.text(0.5, 0.5, "no results", transform=axes.transAxes, ha="center", va="center", color="#767676")
    axes.set_title(f"{dataset_title(dataset, synthetic=facts.synthetic)} · {backbone_title(backbone)}")
    axes.set(xlabel="", ylabel="")
    axes.set_xscale("log", base=2)
    axes.set_xlim(shots[0] / 2**0.5, shots[-1] * 2**0.5)
    axes.set_xticks(shots, labels=[str(count) for count in shots])
    axes.minorticks_off()


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    # Chance last.
    order = sorted(range(len(labels)), key=lambda position: labels[position] == "chance")
    figure.legend(
        [handles[position] for position in order],
        [labels[position] for position in order],
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
    )


def _notice(collected: Collected) -> str:
    """What a reader must know who sees the figure alone."""
    parts = [SYNTHETIC] if collected.synthetic else []
    without = len(collected.cells) - len(collected.of("done"))
    if without:
        parts.append(f"Partial: {without} of {len(collected.cells)} cells have no value.")
    return "\n".join(parts)  # together they are wider than a figure of two facets
