"""What all figures share: style, facets (a panel per dataset and backbone), colours and markers, saving.

Figures are readable in grey and by colour-blind readers, and equal results give byte-identical files. Every figure is a
matplotlib `Figure` of its own; pyplot's global state is not used.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fdl.core import files
from fdl.core.titles import BASELINE, SYNTHETIC, backbone_title, method_title
from fdl.results.collect import Collected

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

Net = tuple[str, str]  # dataset, backbone

# Okabe & Ito's palette without yellow. Dark and light colours alternate, so that neighbours also differ in grey.
BASELINE_COLOUR = "#8c8c8c"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
MARKERS = ("s", "^", "D", "v", "P", "X")
WARNING_COLOUR = "#b34400"
BAND_COLOUR = "#dbe7f0"  # shades the differences that are too small to matter
_DASHES = ("", (6, 1.5), (4, 1.5, 1, 1.5), (1.5, 1.5), (8, 2, 2, 2), (3, 1))
_BASELINE_DASH = (3, 1.5)
DPI = 200  # dots per inch
_COMPRESSION = 3  # PNG level, 0 to 9: a third of the time that the default takes, and files a few percent larger
_FACET = (2.35, 1.75)  # width and height in inches
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    # The automatic place is the same, because no ticks are above the facets, but finding it means measuring all ticks.
    "axes.titley": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType; journals reject Type 3
    "savefig.dpi": DPI,
}
_OPTIONS: dict[str, dict[str, Any]] = {  # of `savefig` by format; the metadata holds no date
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": _COMPRESSION}},
    "pdf": {"metadata": {"CreationDate": None}},
}


@contextmanager
def house_style() -> Iterator[None]:
    """Context in which figures are drawn in the house style, whatever the user's matplotlibrc says."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def save(figure: "Figure", stem: Path, *, endings: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write the figure to `<stem>.<ending>` in every format, without dates in the files; return their paths."""
    paths = []
    with house_style():
        # The layout is computed once for all files, because `savefig` would draw everything again for each.
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            figure.set_layout_engine(None)
        for ending in endings:
            content = io.BytesIO()
            figure.savefig(content, format=ending, **_OPTIONS[ending])
            path = stem.with_name(f"{stem.name}.{ending}")
            files.write_atomically(path, content.getvalue())
            paths.append(path)
    return paths


def save_picture(picture: "Image", stem: Path) -> list[Path]:
    """Write the picture to `<stem>.png`; return the path in a list."""
    content, path = io.BytesIO(), stem.with_suffix(".png")
    picture.save(content, "png", dpi=(DPI, DPI), compress_level=_COMPRESSION)
    files.write_atomically(path, content.getvalue())
    return [path]


def facets(
    nets: Sequence[Net], *, share: Literal["row", "all"] | None = None, extra: int = 0
) -> tuple["Figure", list["Axes"]]:
    """A figure with a facet per dataset and backbone, in a row per dataset if all datasets have the same backbones.

    Args:
        nets: (dataset, backbone) pairs, in order.
        share: which facets share their y axis. "all": all of them; "row": those of the same dataset, if each dataset
            has a row of its own; None: none.
        extra: number of additional facets at the end.

    Returns:
        The figure, and its axes: first those of `nets` in order, then the additional ones.
    """
    from matplotlib.figure import Figure

    rows, columns = _shape(nets)
    row_each = rows == len({dataset for dataset, _ in nets}) and rows * columns == len(nets)
    if extra:
        rows = -(-(len(nets) + extra) // columns)
    large = 1.6 if rows * columns == 1 else 1.0
    size = max(large * _FACET[0] * columns, 3.4) + 0.4, large * _FACET[1] * rows + 0.6
    figure = Figure(figsize=size, layout="constrained")
    sharey: Any = "all" if share == "all" else "row" if share == "row" and row_each else False
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for unused in axes[len(nets) + extra :]:
        unused.set_axis_off()
    return figure, axes[: len(nets) + extra]


def _shape(nets: Sequence[Net]) -> tuple[int, int]:
    """Numbers of rows and columns: a row per dataset if all datasets have the same backbones, else rows of three."""
    datasets = {dataset for dataset, _ in nets}
    backbones = {backbone for _, backbone in nets}
    if len(backbones) > 1 and len(nets) == len(datasets) * len(backbones):
        return len(datasets), len(backbones)
    columns = min(len(nets), 3)
    return -(-len(nets) // columns), columns


def net_title(collected: Collected, net: Net) -> str:
    """Title of a facet, such as `NEU (synthetic) · AlexNet`."""
    dataset, backbone = net
    return f"{collected.datasets[dataset].title} · {backbone_title(backbone)}"


def looks(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colours, markers and dashes by printed name of the method, as seaborn takes them.

    The baseline is grey and dashed. The others get the colours in the order of `methods`.
    """
    others = [method for method in methods if method != BASELINE]
    chosen: dict[str, dict[str, Any]] = {"palette": {}, "markers": {}, "dashes": {}}
    for method in methods:
        number = others.index(method) % len(COLOURS) if method in others else 0
        title, baseline = method_title(method), method == BASELINE
        chosen["palette"][title] = BASELINE_COLOUR if baseline else COLOURS[number]
        chosen["markers"][title] = "o" if baseline else MARKERS[number]
        chosen["dashes"][title] = _BASELINE_DASH if baseline else _DASHES[number]
    return chosen


def look(methods: Sequence[str], method: str) -> dict[str, Any]:
    """Colour and line style of one method, as matplotlib takes them."""
    styles = looks(methods)
    title = method_title(method)
    dashes = styles["dashes"][title]
    return {"color": styles["palette"][title], "linestyle": (0, dashes) if dashes else "-"}


def label_axes(figure: "Figure", axes: Sequence["Axes"], *, x: str, y: str, also: Sequence["Axes"] = ()) -> None:
    """Label the axes once: x below the last row and below the facets in `also`, y at the left of the figure."""
    for panel in axes:  # not with supxlabel, which the legend would cover
        place = panel.get_subplotspec()
        lowest = panel in also or (place is not None and place.is_last_row())
        panel.set(xlabel=x if lowest else "", ylabel="")
    place_no_empty_labels(axes)
    figure.supylabel(y, fontsize=8)


def place_no_empty_labels(axes: Iterable["Axes"]) -> None:
    """Fix the place of empty labels, because the layout would measure the ticks of all neighbours to find one."""
    for axis in (axis for panel in axes for axis in (panel.xaxis, panel.yaxis)):
        if not axis.label.get_text():
            axis.set_label_coords(0, 0)


def legend_below(figure: "Figure", axes: Sequence["Axes"], *, last: Sequence[str] = ()) -> None:
    """Draw one legend below the figure with the labels of all these axes; those in `last` are at its end."""
    handles: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = sorted(handles, key=lambda label: label in last)
    if order:
        columns = min(len(order), 4)
        figure.legend(
            [handles[label] for label in order], order, loc="outside lower center", ncols=columns, frameon=False
        )


def say_nothing_there(axes: "Axes") -> None:
    """Write "no results" into a facet without values, above the middle, where the line of no difference may be."""
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # covers lines that every facet has
    axes.text(0.5, 0.7, "no results", transform=axes.transAxes, ha="center", va="center", color="#767676", bbox=behind)


def warn(figure: "Figure", collected: Collected) -> None:
    """Write the text of `notice` above the figure, because a figure may be seen without its caption."""
    if text := notice(collected):
        figure.suptitle(text, fontsize=8, fontweight="bold", color=WARNING_COLOUR)


def notice(collected: Collected) -> str:
    """A warning that images are synthetic or results partial, one line each, because figures can be narrow; or ""."""
    parts = [SYNTHETIC] if collected.synthetic else []
    without = len(collected.cells) - len(collected.of("done"))
    if without:
        parts.append(f"Partial: {without:,} of {len(collected.cells):,} cells have no value.")
    return "\n".join(parts)


def caption(collected: Collected, text: str) -> str:
    """The text of a caption, preceded by the text of `notice`."""
    return f"{notice(collected)} {text}".lstrip().replace("\n", " ")
