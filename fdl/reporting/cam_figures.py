"""Figures of the members' class activation maps, and of the descriptors that the distance loss drives apart.

A descriptor is the masked channel mean of a feature map. There is one figure of each kind per dataset and backbone,
with one row of maps per method, drawn from the `cam.npz` of the cells' records (`fdl.evaluation.cam`).
"""

from collections.abc import Callable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from fdl.core.titles import SYNTHETIC, method_title
from fdl.evaluation.overlap import left_out, on_same_images, overlap
from fdl.reporting.entries import Entry, per_net
from fdl.reporting.panels import MapRow, Rows, Sheet, draw_maps, draw_nothing, read_rows, which_images
from fdl.reporting.results import Results
from fdl.results.collect import Collected

_NOTHING = "No finished cells with maps to compare."
_OLD = (
    "The records hold no descriptors: they were made before these were kept. "
    "`python -m fdl cam` adds them where the weights were kept (keep_weights)."
)


def cam_figure(collected: Collected, dataset: str, backbone: str, rows: Rows | None) -> Sheet:
    """Draw each test image and, for each member, the map of the class that it predicts, named below the panel.

    Args:
        collected: what the verb `collect` gathered about the grid.
        dataset, backbone: of the figure.
        rows: see `panels.read_rows`; if None, the figure only says that there are no results.
    """
    if rows is None:
        return draw_nothing(collected, dataset, backbone, "no results")
    scale = "Grad-CAM of the predicted class, as a part of the map's maximum"
    classes = collected.datasets[dataset].classes
    return draw_maps(collected, rows, _map_rows(rows), classes, scale=scale)


def _map_rows(rows: Rows) -> list[MapRow]:
    return [
        MapRow(method_title(cell.method), record["maps_predicted"], record)
        for cell, record in zip(rows.cells, rows.records, strict=True)
    ]


def cam_caption(collected: Collected, rows: Rows | None) -> str:
    """What the figure shows, how its images were chosen, and how far the maps of all test images overlap."""
    if rows is None:
        return _NOTHING
    height, width = rows.records[0]["maps_predicted"].shape[2:]
    caption = (
        f"{_synthetic(collected, rows)}Grad-CAM of the {_score(rows)} of the class that the member predicts, at the "
        "feature map of the "
        f"distance loss ({height} × {width} cells, interpolated), its positive part divided by its maximum, empty "
        f"where nothing is positive; {which_images(collected, rows, _map_rows(rows))}"
    )
    return caption + _overlaps(rows)


def _score(rows: Rows) -> str:
    """The score whose gradient the maps use. Older records do not name it; theirs is the probability."""
    return " and ".join(sorted({str(record.get("score", "probability")) for record in rows.records}))


def _overlaps(rows: Rows) -> str:
    """Mean overlap by method; empty if the methods have different numbers of members, or no pair of them."""
    records = on_same_images(rows.records)
    if len({record["cosines"].shape for record in records}) > 1:
        return ""
    # A pair of maps that one method leaves out is left out of all of them (docs/claims.md, C4).
    without = reduce(np.logical_or, map(left_out, records))
    means, share = [], 0.0
    for cell, record in zip(rows.cells, records, strict=True):
        mean, pairs, share = overlap(record["cosines"], without)
        if pairs.any():
            means.append(f"{method_title(cell.method)} {mean[pairs > 0].mean():.2f}")
    if not means:
        return ""
    return (
        f" Mean overlap of two members' maps of the true class (cosine) over {without.shape[1]} test images: "
        f"{', '.join(means)}; {100 * share:.1f} % of pairs left out for an empty map."
    )


def descriptor_figure(collected: Collected, dataset: str, backbone: str, rows: Rows | None) -> Sheet:
    """Draw the members' descriptors of each image, whole and as the distance loss masks them.

    Args:
        collected: what the verb `collect` gathered about the grid.
        dataset, backbone: of the figure.
        rows: see `panels.read_rows`; if None or without descriptors, the figure only says why it is empty.
    """
    if rows is None:
        return draw_nothing(collected, dataset, backbone, "no results")
    if not has_descriptors(rows):
        return draw_nothing(collected, dataset, backbone, "no descriptors in these records: see the caption")
    classes = collected.datasets[dataset].classes
    scale = "descriptor, as a part of its maximum"
    return draw_maps(collected, rows, _descriptor_rows(rows), classes, scale=scale)


def _descriptor_rows(rows: Rows) -> list[MapRow]:
    lines = []
    for cell, record in zip(rows.cells, rows.records, strict=True):
        whole = _of_maximum(record["descriptors"].astype(np.float32))
        title = method_title(cell.method)
        lines.append(MapRow(title, whole, record))
        masked = np.where(record["descriptor_mask"], whole, 0)
        lines.append(MapRow(f"{title}, masked", masked, record, predictions=False))
    return lines


def has_descriptors(rows: Rows) -> bool:
    """Whether all records hold descriptors; older ones do not."""
    return all("descriptors" in record and "descriptor_mask" in record for record in rows.records)


def _of_maximum(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """The positive part of each map (..., H', W'), divided by its maximum; a map without a positive value becomes 0."""
    peak = maps.max(axis=(-2, -1), keepdims=True)
    return np.where(peak > 0, np.clip(maps, 0, None) / np.where(peak > 0, peak, 1), 0).astype(np.float32)


def descriptor_caption(collected: Collected, rows: Rows | None) -> str:
    """What the figure shows, or why it is empty."""
    if rows is None:
        return _NOTHING
    if not has_descriptors(rows):
        return _OLD
    height, width = rows.records[0]["descriptors"].shape[2:]
    return (
        f"{_synthetic(collected, rows)}Descriptors, the channel means of the feature maps ({height} × {width} cells, "
        "interpolated), divided by their maximum; below each the same with the cells at or below its mean set to 0, "
        "as the distance loss compares them. They know nothing of classes; "
        f"{which_images(collected, rows, _descriptor_rows(rows))}"
    )


def _synthetic(collected: Collected, rows: Rows) -> str:
    return f"{SYNTHETIC} " if collected.datasets[rows.cells[0].dataset].synthetic else ""


def _drawn(
    draw: Callable[[Collected, str, str, Rows | None], Sheet], caption: Callable[[Collected, Rows | None], str]
) -> Callable[[Results, str, str], tuple[Sheet, str]]:
    def make(results: Results, dataset: str, backbone: str) -> tuple[Sheet, str]:
        rows = read_rows(results, dataset, backbone)
        return draw(results.collected, dataset, backbone, rows), caption(results.collected, rows)

    return make


# The page links to these figures instead of embedding them, because its gallery shows the same maps. This keeps the
# page below 15 MB.
ENTRIES = [
    Entry(
        "figure",
        "cam",
        "Class activation maps",
        "Grad-CAM maps of the class that each member predicts. Members are side by side, classical above "
        "FDL, on the same test images: one of each of the first classes, the first of a few that both "
        "soft votes get right, or else the first.",
        _drawn(cam_figure, cam_caption),
        order=110,
        each=per_net("cam", "Class activation maps"),
        written="cam_DATASET_BACKBONE",
        endings=("png",),
        linked=True,
        reading="Bright is where a member looks for the class that it predicts; an empty map is dark all over. If "
        "the loss separates the members by place, FDL's row should show bright places that differ more "
        "than those of the classical row.",
    ),
    Entry(
        "figure",
        "descriptors",
        "Descriptors",
        "Channel means of the members' feature maps, whole and as the distance loss masks them, on the "
        "same test images.",
        _drawn(descriptor_figure, descriptor_caption),
        order=120,
        each=per_net("descriptors", "Descriptors"),
        written="descriptors_DATASET_BACKBONE",
        endings=("png",),
        linked=True,
        reading="These are the maps that the loss compares. Each is divided by its own maximum, so only differences "
        "of place show: members whose maps differ by scale alone look alike here (docs/findings.md says how far "
        "they do on NEU).",
    ),
]
