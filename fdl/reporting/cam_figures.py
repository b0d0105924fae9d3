"""Class activation maps of the members, method above method: where they look, on images that no one chose.

One figure per dataset and backbone, from the `cam.npz` of two records (`fdl.evaluation.cam`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fdl import layout
from fdl.errors import InputError
from fdl.evaluation.cam import left_out, overlap
from fdl.params import Cell, Params
from fdl.reporting.collect import Collected
from fdl.reporting.figures import STYLE, WARNING_COLOUR
from fdl.reporting.titles import BASELINE, SYNTHETIC, backbone_title, dataset_title, method_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

IMAGES = 3  # of a figure, of the first classes: what fits on a page
_PANEL = 0.98  # inches
_WIDTH = 4.2  # inches at least: the title is a line of it
_GAP = 0.07  # between images, as a part of a panel
_LETTERS = 17  # of a class name that fit below a panel
_COLOURS, _ALPHA = "inferno", 0.6
Record = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Rows:
    """What a figure shows: a row of panels per cell and image, of one dataset, backbone, shots and seed."""

    cells: tuple[Cell, ...]  # the baseline first
    records: tuple[Record, ...]  # content of their `cam.npz`


def read_rows(params: Params, collected: Collected, dataset: str, backbone: str) -> Rows | None:
    """Maps of the baseline and the first other method, at the largest number of shots and the first seed with both.

    None where no such cells are done. With a single method in the grid: of this one.

    Raises:
        InputError: a record holds no maps, or the two of them maps of different images.
    """
    here = [state.cell for state in collected.cells if (state.cell.dataset, state.cell.backbone) == (dataset, backbone)]
    done = {state.cell for state in collected.of("done")}
    methods = sorted(dict.fromkeys(cell.method for cell in here), key=lambda method: method != BASELINE)[:2]
    for shots in sorted({cell.shots for cell in here}, reverse=True):
        for seed in dict.fromkeys(cell.seed for cell in here):
            cells = tuple(Cell(dataset, backbone, shots, method, seed) for method in methods)
            if done.issuperset(cells):
                return _read(params, cells)
    return None


def _read(params: Params, cells: tuple[Cell, ...]) -> Rows:
    records = []
    for cell in cells:
        path = layout.record_folder(params, cell) / "cam.npz"
        if not path.is_file():
            raise InputError(f"{path}: the record holds no class activation maps; delete its folder and run again")
        with np.load(path, allow_pickle=False) as content:
            records.append(dict(content))
    if not all(np.array_equal(record["pixels"], records[0]["pixels"]) for record in records):
        keys = " and ".join(cell.key for cell in cells)
        raise InputError(f"{keys}: maps of different test images; delete the older record and run again")
    return Rows(cells, tuple(records))


def cam_figure(collected: Collected, dataset: str, backbone: str, rows: Rows | None) -> "Figure":
    """Image and the members' maps of its *true* class; below each panel what the member predicts.

    Args:
        rows: see `read_rows`; None draws an empty figure that says so.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    facts = collected.datasets[dataset]
    title = f"{dataset_title(dataset, synthetic=facts.synthetic)} · {backbone_title(backbone)}"
    if rows:
        title += f" · {rows.cells[0].shots} images per class"
    with style.context(["default", STYLE]):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=_size(rows), layout="constrained")
        if facts.synthetic:
            title = f"{SYNTHETIC}\n{title}"
        figure.suptitle(title, fontweight="bold", color=WARNING_COLOUR if facts.synthetic else "black", fontsize=8)
        if rows is None:
            figure.text(0.5, 0.4, "no results", ha="center", color="#767676")
        else:
            _draw(figure, rows, facts.classes)
    return figure


def cam_caption(collected: Collected, rows: Rows | None) -> str:
    """What the figure shows, by which rule its images were chosen, and the overlap over all test images."""
    if rows is None:
        return "No finished cells with maps to compare."
    cell, record = rows.cells[0], rows.records[0]
    height, width = record["maps_true"].shape[2:]
    # What one method leaves out, the other leaves out too (docs/claims.md, C4).
    without = reduce(np.logical_or, map(left_out, rows.records))
    means = []
    for one, of in zip(rows.cells, rows.records, strict=True):
        mean, pairs, share = overlap(of["cosines"], without)
        if pairs.any():
            means.append(f"{method_title(one.method)} {mean[pairs > 0].mean():.2f}")
    synthetic = f"{SYNTHETIC} " if collected.datasets[cell.dataset].synthetic else ""
    shown = len(_shown(record))
    which = "class" if shown == len(collected.datasets[cell.dataset].classes) else f"of the first {shown} classes"
    caption = (
        f"{synthetic}Grad-CAM of the true class at the feature map of the distance loss ({height} × {width} cells, "
        "interpolated), its positive part divided by its maximum, empty where nothing is positive; "
        f"{cell.shots} training images per class, seed {cell.seed}. The first test image of each {which}; below "
        "each panel the member's prediction (✓ right, ✗ wrong)."
    )
    if means:
        caption += (
            f" Mean overlap of two members' maps (cosine) over {without.shape[1]} test images: {', '.join(means)}; "
            f"{100 * share:.1f} % of pairs left out for an empty map."
        )
    return caption


def _size(rows: Rows | None) -> tuple[float, float]:
    if rows is None:
        return _WIDTH, 1.2
    images, members = len(_shown(rows.records[0])), len(rows.records[0]["predicted"])
    # Beside the panels: names of the methods; below each: a line; above and below all: titles, colour bar.
    return max((members + 1) * _PANEL + 0.5, _WIDTH), images * len(rows.cells) * (_PANEL + 0.2) + 1.0


def _shown(record: Record) -> range:
    return range(min(IMAGES, len(record["labels"])))


def _draw(figure: "Figure", rows: Rows, classes: tuple[str, ...]) -> None:
    images, members, methods = _shown(rows.records[0]), len(rows.records[0]["predicted"]), len(rows.cells)
    heights = [*[1.0] * methods, _GAP] * len(images)
    grid = figure.add_gridspec(len(heights) - 1, members + 1, height_ratios=heights[:-1])
    for image in images:
        top = image * (methods + 1)
        _image(figure.add_subplot(grid[top, 0]), rows.records[0], image, classes)
        for number, (cell, record) in enumerate(zip(rows.cells, rows.records, strict=True)):
            for member in range(members):
                axes = figure.add_subplot(grid[top + number, member + 1])
                panel = _panel(axes, record, image, member, classes)
                if member == 0:
                    axes.set_ylabel(method_title(cell.method))
                if image == number == 0:
                    axes.set_title(f"member {member}")
    bar = figure.colorbar(panel, ax=figure.axes, location="bottom", shrink=0.5, aspect=40, pad=0.015, ticks=[0, 0.5, 1])
    bar.ax.set_facecolor("#808080")  # the colours lie on grey there too
    bar.set_label("Grad-CAM of the true class, as a part of the map's maximum")


def _image(axes: "Axes", record: Record, image: int, classes: tuple[str, ...]) -> None:
    """The image itself, named by its class."""
    axes.imshow(record["pixels"][image])
    axes.set_xlabel(_short(classes[record["labels"][image]]), fontsize=6.5, labelpad=2, fontweight="bold")
    if image == 0:
        axes.set_title("test image")
    _bare(axes)


def _panel(axes: "Axes", record: Record, image: int, member: int, classes: tuple[str, ...]) -> "AxesImage":
    """A member's map on the image; returns the map's drawing."""
    pixels = record["pixels"][image]
    height, width = pixels.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    # Grey, so that all colour is the map's.
    axes.imshow(pixels @ np.array([0.299, 0.587, 0.114]), cmap="gray", vmin=0, vmax=255, extent=extent)
    cam = record["maps_true"][member, image].astype(np.float32)
    drawn = axes.imshow(cam, cmap=_COLOURS, vmin=0, vmax=1, alpha=_ALPHA, interpolation="bilinear", extent=extent)
    if not cam.any():
        axes.text(0.5, 0.5, "empty", transform=axes.transAxes, ha="center", va="center", color="white", fontsize=7)
    predicted = record["predicted"][member, image]
    right = predicted == record["labels"][image]
    axes.set_xlabel(
        f"{'✓' if right else '✗'} {_short(classes[predicted])}",
        fontsize=6.5,
        labelpad=2,
        color="black" if right else WARNING_COLOUR,
    )
    _bare(axes)
    return drawn


def _bare(axes: "Axes") -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
