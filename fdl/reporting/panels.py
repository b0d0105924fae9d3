"""Panels of the members' maps on test images, which the figures of class activation maps and of descriptors share.

They are drawn with Pillow, because matplotlib takes ten times as long for a hundred small images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fdl.core.errors import InputError
from fdl.core.settings import Cell
from fdl.core.titles import SYNTHETIC
from fdl.evaluation.overlay import IMAGES, SIDE, Record, enlarged, image_shown, on_grey, shown_images, votes_right
from fdl.reporting.drawing import DPI, WARNING_COLOUR, net_title
from fdl.reporting.results import Results, read_arrays
from fdl.results.collect import Collected

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

# All lengths are in inches.
_PANEL, _SPACE = SIDE / DPI, 0.06  # side of a panel, and space beside it
_LABEL = 0.16  # space below a panel for its line of text
_GAP = 0.1  # additional space between images
_SIDE, _TOP, _BOTTOM = 0.25, 0.52, 0.5  # space for the names of methods, the titles and the colour bar
_WIDTH = 4.2  # smallest width of a sheet, so that the title fits into one line
_HEIGHT = 10.2  # largest height of a sheet, that of an A4 page without its margins
_LONG = 17  # longest label in characters that fits beside a row in the normal font size
_LETTER_SIZE = 6.5  # font size of the text below a panel, in points


@dataclass(frozen=True)
class Rows:
    """The cells that a figure compares: one per method, of the same dataset, backbone, shots and seed.

    The figure shows a row of panels per cell and image.
    """

    cells: tuple[Cell, ...]  # the baseline first
    records: tuple[Record, ...]  # arrays of each cell's `cam.npz`

    def shown(self, classes: int = IMAGES) -> list[int]:
        """Positions of the images to show, see `shown_images`."""
        return shown_images(self.records, classes)

    def agreed(self, image: int) -> bool:
        """Whether all soft votes classify an image correctly. Older records hold no votes and are ignored."""
        return bool(votes_right(self.records)[image])


def read_rows(results: Results, dataset: str, backbone: str) -> Rows | None:
    """Read the records of the first seed that `Results.compared` returns; None if no seed is finished.

    Raises:
        InputError: a record holds no maps, or the records hold maps of different images.
    """
    cells = tuple(cells[0] for cells in results.compared(dataset, backbone).values())
    return rows_of(results, cells) if cells else None


def rows_of(results: Results, cells: tuple[Cell, ...]) -> Rows:
    """Read the maps of cells of the same dataset, restricted to the images that all records hold.

    Raises:
        InputError: as `read_rows`.
    """
    records: list[Record] = [read_arrays(results.params, cell, "cam.npz") for cell in cells]
    # Older records hold fewer images.
    common = reduce(np.intersect1d, [record["positions"] for record in records])
    records = [_only(record, common) for record in records]
    # Records that were exported to a machine without the images hold no pixels.
    alike = not all("pixels" in record for record in records) or all(
        np.array_equal(record["pixels"], records[0]["pixels"]) for record in records
    )
    if not common.size or not alike:
        keys = " and ".join(cell.key for cell in cells)
        raise InputError(
            f"{keys}: maps of different test images; make them again with "
            "`python -m fdl cam`, where weights were kept, or delete the older record and run again"
        )
    return Rows(cells, tuple(records))


def _only(record: Record, positions: NDArray[np.int64]) -> Record:
    """The record, restricted to the images at these positions among the test images."""
    kept = np.isin(record["positions"], positions)
    by_axis = (
        ("labels", "positions", "pixels", "voted"),
        ("maps_true", "maps_predicted", "descriptors", "descriptor_mask", "predicted"),
    )
    part = {
        name: record[name].compress(kept, axis)
        for axis, names in enumerate(by_axis)
        for name in names
        if name in record
    }
    return {**record, **part}


def draw_nothing(collected: Collected, dataset: str, backbone: str, why: str) -> "Sheet":
    """A sheet without panels that says why there are none."""
    sheet = Sheet(_WIDTH, 1.2)
    _title(sheet, collected, dataset, net_title(collected, (dataset, backbone)))
    sheet.text(why, sheet.width / 2, 0.8, colour="#767676")
    return sheet


@dataclass(frozen=True)
class MapRow:
    """A row of panels below an image: one map per member."""

    label: str  # text at its left
    maps: NDArray[np.floating]  # (M, n, H', W') in [0, 1]: members, images, height, width
    record: Record  # holds the predictions
    predictions: bool = True  # whether the predictions are written below the panels


def fitting(rows: Rows, lines: Sequence[MapRow]) -> tuple[list[int], float]:
    """The images that fit on a page, and the side of a panel in inches; it is reduced if not even one image fits."""
    labels = sum(_LABEL * line.predictions + _SPACE for line in lines) + _GAP
    free = _HEIGHT - _TOP - _BOTTOM
    count = max(1, int(free / (labels + len(lines) * _PANEL)))
    return rows.shown()[:count], min(_PANEL, (free / count - labels) / len(lines))


def draw_maps(
    collected: Collected, rows: Rows, lines: Sequence[MapRow], classes: tuple[str, ...], *, scale: str
) -> "Sheet":
    """Draw every image and, beside it, its rows of maps, with the member's prediction below each panel.

    Args:
        collected: what the verb `collect` gathered about the grid.
        rows: the cells that are compared; they choose the images.
        lines: the rows of maps of every image, from top to bottom.
        classes: names of the classes, by label.
        scale: label of the colour bar.
    """
    members = max(len(line.maps) for line in lines)
    shown, side = fitting(rows, lines)
    heights = [side + _LABEL * line.predictions + _SPACE for line in lines]
    block = sum(heights) + _GAP
    size = _column(members, side), _TOP + len(shown) * block + _BOTTOM
    sheet = Sheet(max(size[0], _WIDTH), size[1])
    cell = rows.cells[0]
    title = f"{net_title(collected, (cell.dataset, cell.backbone))} · {cell.shots} images per class · seed {cell.seed}"
    _title(sheet, collected, cell.dataset, title)
    for number, image in enumerate(shown):
        pixels, label = image_shown(rows.records[0], image), rows.records[0]["labels"][image]
        for row, line in enumerate(lines):
            top = _TOP + number * block + sum(heights[:row])
            if row == 0:
                name = f"{'* ' * (not rows.agreed(image))}{classes[label]}"
                sheet.panel(pixels, 0, top, side, _fitting(name, side, bold=True), bold=True)
            size_of_letters = 7 if len(line.label) <= _LONG * side / _PANEL else 5
            sheet.text(line.label, _column(0, side) - 0.1, top + side / 2, size=size_of_letters, upwards=True)
            for member, maps in enumerate(line.maps):
                predicted = line.record["predicted"][member, image]
                correct = predicted == line.record["labels"][image]
                mark = _fitting(f"{'✓' if correct else '✗'} {classes[predicted]}", side) if line.predictions else ""
                colour, left = "black" if correct else WARNING_COLOUR, _column(member, side)
                sheet.panel(on_grey(pixels, maps[image], round(side * DPI)), left, top, side, mark, colour=colour)
                if not maps[image].any():
                    sheet.text("empty", left + side / 2, top + side / 2, colour="white")
    columns = [(0.0, "test image"), *((_column(member, side), f"member {member}") for member in range(members))]
    for left, text in columns:
        sheet.text(text, left + side / 2, _TOP - 0.1, size=8 if side == _PANEL else 5)
    _colour_bar(sheet, scale)
    return sheet


def _column(member: int, side: float) -> float:
    """Left edge of a member's panels in inches. The rows' labels are between the image and the first member."""
    return _SIDE + (member + 1) * (side + _SPACE)


@dataclass(frozen=True)
class Text:
    """A line of text, centred at a point of a sheet."""

    text: str
    x: float  # inches from the left
    y: float  # inches from the top
    size: float  # points
    colour: str
    bold: bool
    upwards: bool  # whether it is rotated to run from bottom to top


class Sheet:
    """A page of panels and texts; coordinates are in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.canvas = np.full((round(height * DPI), round(width * DPI), 3), 255, np.uint8)
        self.texts: list[Text] = []

    def panel(
        self,
        pixels: NDArray[np.uint8],
        left: float,
        top: float,
        side: float,
        label: str,
        *,
        colour: str = "black",
        bold: bool = False,
    ) -> None:
        """Draw an image (H, W, 3), uint8, as a square panel, and a line of text below it unless it is empty."""
        y, x, dots = round(top * DPI), round(left * DPI), round(side * DPI)
        self.canvas[y : y + dots, x : x + dots] = enlarged(pixels, dots)
        if label:
            self.text(label, left + side / 2, top + side + _LABEL / 2, size=_LETTER_SIZE, colour=colour, bold=bold)

    def text(
        self,
        text: str,
        x: float,
        y: float,
        *,
        size: float = 7,
        colour: str = "black",
        bold: bool = False,
        upwards: bool = False,
    ) -> None:
        """Add a line of text, centred at a point."""
        self.texts.append(Text(text, x, y, size, colour, bold, upwards))

    def picture(self) -> "Image":
        """The sheet as an image, with `DPI` dots per inch."""
        from PIL import Image, ImageDraw

        picture = Image.fromarray(self.canvas)
        draw = ImageDraw.Draw(picture)
        for text in self.texts:
            font, place = _font(text.size, text.bold), (text.x * DPI, text.y * DPI)
            if not text.upwards:
                draw.text(place, text.text, fill=text.colour, font=font, anchor="mm")
                continue
            _, _, width, height = font.getbbox(text.text)
            across = Image.new("RGB", (round(width), round(height) + 4), "white")
            ImageDraw.Draw(across).text((0, 0), text.text, fill=text.colour, font=font)
            turned = across.rotate(90, expand=True)
            picture.paste(turned, (round(place[0] - turned.width / 2), round(place[1] - turned.height / 2)))
        return picture


@cache
def _font(size: float, bold: bool) -> "FreeTypeFont":
    """The font of the other figures. Pillow's basic layout gives the same pixels on every machine."""
    import matplotlib
    from PIL import ImageFont

    file = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' * bold}.ttf"
    return ImageFont.truetype(file, round(size * DPI / 72), layout_engine=ImageFont.Layout.BASIC)


def _title(sheet: Sheet, collected: Collected, dataset: str, title: str) -> None:
    synthetic = collected.datasets[dataset].synthetic
    colour = WARNING_COLOUR if synthetic else "black"
    for number, line in enumerate([*[SYNTHETIC] * synthetic, title]):
        sheet.text(line, sheet.width / 2, 0.1 + 0.14 * number, size=8, bold=True, colour=colour)


def _colour_bar(sheet: Sheet, label: str) -> None:
    """Draw the colour bar, with the colours as they look on medium grey."""
    width, left, top = sheet.width / 2, sheet.width / 4, sheet.height - _BOTTOM + 0.06
    scale = on_grey(np.full((1, 1, 3), 128, np.uint8), np.linspace(0, 1, 256, dtype=np.float32)[None])[0]
    places = np.linspace(0, SIDE - 1, round(width * DPI)).round().astype(int)
    y, x = round(top * DPI), round(left * DPI)
    sheet.canvas[y : y + round(0.08 * DPI), x : x + len(places)] = scale[places]
    for value, text in ((0, "0"), (0.5, "0.5"), (1, "1")):
        sheet.text(text, left + value * width, top + 0.16)
    sheet.text(label, sheet.width / 2, top + 0.31)


@cache
def _fitting(text: str, side: float, *, bold: bool = False) -> str:
    """The text, cut at its end if it is wider than a panel."""
    font = _font(_LETTER_SIZE, bold)
    if font.getlength(text) <= side * DPI:
        return text
    return next(cut for end in range(len(text), -1, -1) if font.getlength(cut := f"{text[:end]}…") <= side * DPI)


def which_images(collected: Collected, rows: Rows, lines: Sequence[MapRow]) -> str:
    """The part of a caption that names the cells and the rule that chose the images."""
    cell, shown = rows.cells[0], len(fitting(rows, lines)[0])
    which = "class" if shown == len(collected.datasets[cell.dataset].classes) else f"of the first {shown} classes"
    labels = rows.records[0]["labels"]
    tried = int(np.unique(labels, return_counts=True)[1].max())
    rule = f" It is the first of at most {tried} that the soft votes of all methods get right, or (*) the first."
    each = f"each {which}" if shown > 1 else "the first class"
    return (
        f"{cell.shots} training images per class, seed {cell.seed}. A test image of {each}; below the panels the "
        f"member's prediction (✓ right, ✗ wrong).{rule if tried > 1 else ' It is the first of its class.'}"
        + (
            ""
            if "pixels" in rows.records[0]
            else " The records came without the test images, so the maps lie on plain grey."
        )
    )
