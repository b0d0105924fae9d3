"""What makes each table and figure that `targets` names, from the results."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from fdl.reporting import (
    author_tables,
    cam_figures,
    comparison_tables,
    cost_figures,
    cost_tables,
    figures,
    forest_figures,
    listings,
    pair_figures,
    record_figures,
    table_formats,
)
from fdl.reporting.listings import Listing
from fdl.reporting.panels import Sheet, read_rows
from fdl.reporting.results import Results
from fdl.reporting.tables import results_table
from fdl.reporting.targets import Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Drawn: TypeAlias = "Figure | Sheet"


@dataclass(frozen=True)
class MadeTable:
    """A table in all formats."""

    texts: dict[str, str]  # by ending
    fragment: str  # a part of a page


def make_table(results: Results, target: Target) -> MadeTable:
    """A table; the claims have their own writer, `claims.write_claims`."""
    if target.maker == "results":
        combiner, metric = target.subject
        values = results.values(combiner, metric)
        table = results_table(
            results.params, results.collected, values, name=target.name, combiner=combiner, metric=metric
        )
        texts = {ending: write(table) for ending, write in table_formats.FORMATS.items()}
        return MadeTable(texts, table_formats.html_fragment(table))
    listing = _LISTINGS[target.maker](results)
    return MadeTable(
        {ending: write(listing) for ending, write in listings.FORMATS.items()}, listings.to_fragment(listing)
    )


def make_figure(results: Results, target: Target) -> "tuple[Drawn, str]":
    """A figure and its caption."""
    return _FIGURES[target.maker](results, *target.subject)


_LISTINGS: dict[str, Callable[[Results], Listing]] = {
    "combiners": comparison_tables.combiner_table,
    "metrics": comparison_tables.metric_table,
    "ablation": comparison_tables.ablation_table,
    "diversity": comparison_tables.diversity_table,
    "selections": comparison_tables.selection_table,
    "authors": author_tables.author_table,
    "costs": cost_tables.cost_table,
}


def _accuracy(results: Results) -> "tuple[Drawn, str]":
    figure = figures.accuracy_over_shots(results.params, results.collected, results.accuracy)
    return figure, figures.accuracy_over_shots_caption(results.params, results.collected, combiner="soft")


def _cam(results: Results, dataset: str, backbone: str) -> "tuple[Drawn, str]":
    rows = read_rows(results, dataset, backbone)
    figure = cam_figures.cam_figure(results.collected, dataset, backbone, rows)
    return figure, cam_figures.cam_caption(results.collected, rows)


def _descriptors(results: Results, dataset: str, backbone: str) -> "tuple[Drawn, str]":
    rows = read_rows(results, dataset, backbone)
    figure = cam_figures.descriptor_figure(results.collected, dataset, backbone, rows)
    return figure, cam_figures.descriptor_caption(results.collected, rows)


def _training(results: Results, dataset: str) -> "tuple[Drawn, str]":
    figure = record_figures.training_curves(results, dataset)
    return figure, record_figures.training_curves_caption(results, dataset)


def _whole(
    draw: "Callable[[Results], Figure]", caption: Callable[[Results], str]
) -> "Callable[[Results], tuple[Drawn, str]]":
    return lambda results: (draw(results), caption(results))


_FIGURES: "dict[str, Callable[..., tuple[Drawn, str]]]" = {
    "accuracy_over_shots": _accuracy,
    "forest": _whole(forest_figures.forest, forest_figures.forest_caption),
    "gain_over_shots": _whole(pair_figures.gain_over_shots, pair_figures.gain_over_shots_caption),
    "paired_differences": _whole(pair_figures.paired_differences, pair_figures.paired_differences_caption),
    "diversity_and_gain": _whole(pair_figures.diversity_and_gain, pair_figures.diversity_and_gain_caption),
    "reliability": _whole(record_figures.reliability, record_figures.reliability_caption),
    "cam_overlap": _whole(record_figures.cam_overlap, record_figures.cam_overlap_caption),
    "seconds_per_cell": _whole(cost_figures.seconds_per_cell, cost_figures.seconds_per_cell_caption),
    "training": _training,
    "cam": _cam,
    "descriptors": _descriptors,
}
