"""Contact sheets: what a dataset's training pool looks like, with the k-shot images marked."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fdl.core import files, layout
from fdl.core.settings import Params
from fdl.core.titles import SYNTHETIC, dataset_title
from fdl.data.pools import TRAIN
from fdl.data.prepare import Prepared, load
from fdl.data.splits import Split, load_split, write_split

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

_WIDTH = 1536  # pixels of a line of images
_GAP, _FRAME = 12, 4  # pixels between images; the frame is drawn there, never on an image
_MARGIN = 24
_LINES = 2  # of images per class, more if the marked ones need them
_SHEET_LINES = 20  # at most, on one sheet
_MARK, _WARNING, _TEXT, _FAINT, _HAIRLINE = "#0072b2", "#b34400", "#1a1a1a", "#6b6b6b", "#c8c8c8"


def write_contact_sheets(params: Params, dataset: str, shots: int, draw: int, pool: int | None = None) -> list[Path]:
    """Write PNG sheets of a prepared dataset's training pool: a row of images per class, those of one draw framed.

    A pool that is too large is thinned evenly; all images of the draw are shown. Classes that do not fit
    go to further sheets. The draw is made if it is not there yet.

    Returns:
        `reports/data/<source>/<dataset>/<shots>shot-draw<draw>.png`, or `…-1of5.png` to `…-5of5.png`.

    Raises:
        InputError: the dataset is not prepared, or a class holds fewer than `shots` images.
    """
    prepared = load(layout.prepared_folder(params, dataset, pool))
    path = layout.split_file(params, dataset, shots, draw, pool)
    if not path.exists():
        write_split(params, dataset, shots, draw, pool)
    split = load_split(path, prepared)
    title = dataset_title(params.protocol(dataset).title, synthetic=prepared.synthetic)
    tile = _tile(prepared.images.shape[1])
    columns = _WIDTH // (tile + _GAP)
    rows = [_chosen(prepared, split, label, columns) for label in range(len(prepared.classes))]
    lines = max(-(-len(chosen) // columns) for chosen in rows)
    per_sheet = max(1, _SHEET_LINES // lines)
    starts = range(0, len(rows), per_sheet)
    folder = layout.REPORTS / "data" / params.source_of(dataset) / layout.dataset_name(params, dataset, pool)
    sheets = []
    for number, start in enumerate(starts, start=1):
        suffix = f"-{number}of{len(starts)}" if len(starts) > 1 else ""
        blocks = [_block(prepared, split, label, rows[label]) for label in range(start, len(rows))[:per_sheet]]
        sheet = _sheet(_heading(title, prepared, split, shots), blocks, tile, columns)
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        sheets.append(folder / f"{shots}shot-draw{draw}{suffix}.png")
        files.write_atomically(sheets[-1], buffer.getvalue())
    return sheets


def _tile(size: int) -> int:
    """Side of an image on the sheet: small images are enlarged by a whole factor, large ones reduced."""
    return size * (72 // size) if size <= 72 else min(size, 96)


def _chosen(prepared: Prepared, split: Split, label: int, columns: int) -> NDArray[np.int64]:
    """Rows of a class that are shown, in pool order: all of the draw, and others evenly from the whole pool."""
    pool = np.flatnonzero((prepared.pools == TRAIN) & (prepared.labels == label))
    others = pool[~np.isin(pool, split.train)]
    drawn = len(pool) - len(others)
    lines = max(_LINES, -(-(drawn + columns // 2) // columns))
    places = min(len(others), lines * columns - drawn)
    spread = others[np.linspace(0, len(others) - 1, places).round().astype(np.int64)] if places else others[:0]
    return np.sort(np.concatenate([pool[np.isin(pool, split.train)], spread]))


@dataclass(frozen=True)
class _Block:
    """One class on a sheet."""

    name: str
    about: str
    images: NDArray[np.uint8]
    marked: NDArray[np.bool_]


def _block(prepared: Prepared, split: Split, label: int, rows: NDArray[np.int64]) -> _Block:
    pool = int(((prepared.pools == TRAIN) & (prepared.labels == label)).sum())
    about = f"{pool:,} images" if pool == len(rows) else f"{len(rows)} of {pool:,}"
    return _Block(prepared.classes[label], about, prepared.rows(rows), np.isin(rows, split.train))


def _heading(title: str, prepared: Prepared, split: Split, shots: int) -> list[tuple[str, str, int]]:
    """Text, colour and size of each line above the images."""
    size = prepared.images.shape[1]
    rule = "the first of each class" if split.rule == "first" else "random"
    lines = [
        (f"{title}: training pool", _TEXT, 26),
        (f"Framed: the {shots} training images per class of draw {split.draw} ({rule})", _MARK, 17),
        (f"Source: {prepared.source}, {size} × {size} pixels; in the order of the pool", _FAINT, 17),
    ]
    lines += [(note[:1].upper() + note[1:], _FAINT, 17) for note in prepared.notes if note != "synthetic images"]
    return [*lines, (SYNTHETIC, _WARNING, 17)] if prepared.synthetic else lines


def _sheet(heading: list[tuple[str, str, int]], blocks: list[_Block], tile: int, columns: int) -> Image:
    from PIL import Image, ImageDraw

    step, name_font, about_font = tile + _GAP, _font(16, bold=True), _font(13)
    labels = [_wrapped(block.name.replace("_", " "), 170, name_font) for block in blocks]
    left = _MARGIN + 170 + _GAP
    # A line of images at least as high as its label.
    heights = [
        max(-(-len(block.images) // columns) * step, 20 * len(label) + 22) + 2 * _GAP
        for block, label in zip(blocks, labels, strict=True)
    ]
    width = left + columns * step + _MARGIN
    texts = [
        (line, colour, size)
        for text, colour, size in heading
        for line in _wrapped(text, width - 2 * _MARGIN, _font(size, bold=size > 20))
    ]
    top = _MARGIN + sum(round(1.5 * size) for _, _, size in texts) + _GAP
    sheet = Image.new("RGB", (width, top + sum(heights) + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    y = _MARGIN
    for line, colour, size in texts:
        pen.text((_MARGIN, y), line, fill=colour, font=_font(size, bold=size > 20))
        y += round(1.5 * size)
    y = top
    for block, label, height in zip(blocks, labels, heights, strict=True):
        pen.line((_MARGIN, y, width - _MARGIN, y), fill=_HAIRLINE)
        for number, line in enumerate(label):
            pen.text((_MARGIN, y + _GAP + 20 * number), line, fill=_TEXT, font=name_font)
        pen.text((_MARGIN, y + _GAP + 20 * len(label) + 2), block.about, fill=_FAINT, font=about_font)
        for place, (pixels, marked) in enumerate(zip(block.images, block.marked, strict=True)):
            line_number, column = divmod(place, columns)
            corner = (left + column * step, y + _GAP + line_number * step)
            edge = _FRAME if marked else 1
            box = (corner[0] - edge, corner[1] - edge, corner[0] + tile + edge - 1, corner[1] + tile + edge - 1)
            pen.rectangle(box, fill=_MARK if marked else _HAIRLINE)
            filter_ = Image.Resampling.NEAREST if tile % len(pixels) == 0 else Image.Resampling.LANCZOS
            sheet.paste(Image.fromarray(pixels).resize((tile, tile), filter_), corner)
        y += height
    return sheet


def _font(size: int, *, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans comes with matplotlib: the same letters everywhere, and most alphabets."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _wrapped(text: str, width: int, font: FreeTypeFont) -> list[str]:
    """The text in lines of at most `width` pixels, broken between words, and within a word that is too long."""
    lines = [""]
    for word in text.split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
