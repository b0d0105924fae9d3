"""The forest plot: the gain of a method over the classical ensemble, by dataset and backbone and over all of them."""

from typing import TYPE_CHECKING

from fdl.core.titles import METHOD, method_title, signed_interval
from fdl.evaluation.statistics import LEVEL, MARGIN
from fdl.reporting.answer import compared_method, gain_text, gains
from fdl.reporting.drawing import BAND_COLOUR, COLOURS, caption, house_style, say_nothing_there, warn
from fdl.reporting.entries import Entry, drawn
from fdl.reporting.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LETTERS = 9  # font size in points, readable on a telephone, too


def forest(results: Results) -> "Figure":
    """Draw a row per dataset and backbone, and a last one for all: mean difference and interval, also in digits."""
    from matplotlib.figure import Figure

    method = compared_method(results.collected)
    rows = gains(results, method) if method else []
    with house_style():
        figure = Figure(figsize=(4.9, 0.26 * max(len(rows), 2) + 1.25), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(-MARGIN, MARGIN, color=BAND_COLOUR, zorder=0, linewidth=0)
        axes.axvline(0, color="black", linewidth=0.8, zorder=1)
        reach = 1.5 * MARGIN
        for y, (_, gain) in enumerate(rows):
            if gain is None:
                continue
            pooled = y == len(rows) - 1 and len(rows) > 1
            colour, size = ("black", 8) if pooled else (COLOURS[0], 6)
            if gain.interval:
                axes.hlines(y, *gain.interval, color=colour, linewidth=2.2 if pooled else 1.6, zorder=2)
            axes.plot(gain.mean, y, "D" if pooled else "s", color=colour, markersize=size, zorder=3)
            reach = max(reach, *(1.08 * abs(x) for x in (gain.mean, *(gain.interval or ()))))
        axes.set_yticks(range(len(rows)), labels=[title for title, _ in rows], fontsize=_LETTERS)
        axes.set(xlim=(-reach, reach), ylim=(max(len(rows), 1) - 0.4, -0.6))
        axes.tick_params(axis="x", labelsize=_LETTERS)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        name = method_title(method) if method else ""
        axes.set_xlabel(f"Δ test accuracy, {name} − classical (points)\n← classical better     {name} better →",
                        fontsize=_LETTERS)  # fmt: skip
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(
            range(len(rows)),
            labels=["–" if gain is None else signed_interval(gain.mean, gain.interval) for _, gain in rows],
            fontsize=_LETTERS,
        )
        beside.tick_params(axis="y", length=0)
        beside.spines["right"].set_visible(False)
        if len(rows) > 1:
            axes.axhline(len(rows) - 1.5, color="#999999", linewidth=0.8, linestyle=":")
        if not any(gain for _, gain in rows):
            say_nothing_there(axes)
        warn(figure, results.collected)
    return figure


def forest_caption(results: Results) -> str:
    """The caption: what the figure shows, the number of pairs and how the intervals are computed."""
    method = compared_method(results.collected)
    if method is None:
        return caption(results.collected, "No method to compare with the classical ensemble.")
    rows = gains(results, method)
    last = rows[-1][1]
    if last is None:
        return caption(results.collected, "No pair of cells is done yet.")
    frozen = results.params.claims.grid is not None and method == METHOD
    which = (
        "by the rules of the verdicts (seeds and test images vary)"
        if frozen
        else "by jackknife over the seeds of every dataset (test images held fixed); descriptive only"
    )
    return caption(
        results.collected,
        f"{method_title(method)} minus classical: test accuracy of the soft vote, mean over all numbers of images per "
        f"class and all seeds; {last.pairs:,} pairs, each of the same images, initial weights and batches. Lines: "
        f"{100 * LEVEL:.0f} % intervals, {which}; none is drawn below three seeds. Shaded: ± {MARGIN:g} points. "
        f"All together: {gain_text(last)}.",
    )


ENTRIES = [
    Entry(
        "figure",
        "forest",
        "Gain by dataset and backbone",
        "Test accuracy of the distance loss minus that of the classical ensemble, one row per dataset and "
        "backbone and the pooled value last. Lines: 95 % intervals; shaded: ± 2 points. With fewer than "
        "three seeds no interval is drawn.",
        drawn(forest, forest_caption),
        order=10,
        reading="Marks right of 0 favour the loss, marks left of it the classical ensemble. An interval that "
        "crosses 0 finds no difference; one inside the shaded band finds that the difference is small. In "
        "`lite`, CIFAR-10 lies inside the band, NEU left of 0.",
    ),
]
