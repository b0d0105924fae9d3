"""Tables of plain rows, written as CSV, Markdown, LaTeX and HTML.

Tables in the paper's layout, with the numbers of shots (training images per class) side by side, are in
`fdl.reporting.tables`.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fdl.reporting.latex import LatexColumn, latex_table
from fdl.reporting.pages import render
from fdl.reporting.table_formats import markdown_text

Raw = dict[str, str | float | int | None]


@dataclass(frozen=True)
class Column:
    """A printed column."""

    heading: str
    width: float | None = None  # of running text, as a fraction of LaTeX's text width; None: a number or a name
    number: bool = False  # whether it is aligned to the right
    # Whether it identifies the row. Such columns come first. If there is none, the first column counts as one.
    label: bool = False


@dataclass(frozen=True)
class Line:
    """A row, as texts for readers and as values for programs."""

    texts: Sequence[str]  # a text per column
    raw: Raw  # values by column of the CSV
    printed: bool = True  # whether the LaTeX table holds it, too


@dataclass(frozen=True)
class Listing:
    """A table, ready to be written in any format."""

    name: str  # file name without ending
    title: str
    warning: str  # empty if the images are real
    caption: str
    columns: Sequence[Column]
    raw_columns: Sequence[str]
    lines: Sequence[Line]
    remarks: Sequence[str]


def to_csv(listing: Listing) -> str:
    """A CSV file with plain numbers."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, listing.raw_columns, lineterminator="\n")
    writer.writeheader()
    for line in listing.lines:
        writer.writerow({key: _plain(value) for key, value in line.raw.items()})
    return text.getvalue()


def _plain(value: str | float | int | None) -> str | int:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else value


def to_markdown(listing: Listing) -> str:
    """A Markdown pipe table between caption and remarks."""
    from tabulate import tabulate

    head = [markdown_text(column.heading) for column in listing.columns]
    lines = [[markdown_text(text) for text in line.texts] for line in listing.lines]
    align = ["right" if column.number else "left" for column in listing.columns]
    blocks = [f"**{listing.warning}**"] * bool(listing.warning) + [markdown_text(listing.caption)]
    blocks.append(
        tabulate(lines, head, tablefmt="pipe", disable_numparse=True, colalign=align) if lines else "No rows."
    )
    # In Markdown, two spaces at the end of a line break it without starting a paragraph.
    blocks.append("  \n".join(markdown_text(remark) for remark in listing.remarks))
    return "\n\n".join(block for block in blocks if block) + "\n"


def to_latex(listing: Listing) -> str:
    """LaTeX floats of at most a page each; rows whose `printed` is false are left out."""
    lines = [line for line in listing.lines if line.printed]
    columns = [
        LatexColumn(column.heading, [line.texts[place] for line in lines], number=column.number, width=column.width)
        for place, column in enumerate(listing.columns)
    ]
    hidden = len(listing.lines) - len(lines)
    left_out = [
        f"{hidden} rows outside the grid or without a result are left out here; they are in {listing.name}.csv."
    ] * bool(hidden)
    labels = sum(column.label for column in listing.columns) or 1
    return latex_table(
        listing.name.replace("_", "-"),
        listing.caption,
        columns[:labels],
        columns[labels:],
        [*listing.remarks, *left_out],
        warning=listing.warning,
    )


def to_fragment(listing: Listing) -> str:
    """The table as an HTML `<section>` that can be inserted into a page; texts are escaped."""
    return render("listing.html", table=listing)


def to_html(listing: Listing) -> str:
    """The table as a self-contained HTML page."""
    return render("page.html", title=listing.title, banner=None, sections=[to_fragment(listing)])


FORMATS: dict[str, Callable[[Listing], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex, "html": to_html}
