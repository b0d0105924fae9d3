"""Writes a `Table` (the paper's layout) as CSV, Markdown, LaTeX and HTML, and as text for a terminal.

Shots are training images per class.
"""

import csv
import io
from collections.abc import Callable, Iterable
from itertools import groupby
from textwrap import fill

from fdl.core.titles import BASELINE, method_title
from fdl.reporting.latex import LatexColumn, latex_table
from fdl.reporting.pages import render
from fdl.reporting.tables import DIFFERENCES, Column, Row, Table

_PANEL_SHOTS = 3  # numbers of shots side by side in Markdown and HTML
_TERMINAL = 120  # width of a terminal in characters

# Escapes the characters that Markdown reads as markup, including `$`, with which GitHub marks formulas.
_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def to_csv(table: Table) -> str:
    """A CSV file with plain numbers in % or percentage points.

    Every column of the table gives mean, std, n and failed; a column of differences gives the bounds of the interval
    instead of failed.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["dataset", "backbone", "chance"]
        + [f"{column.name}_{part}" for column in table.columns for part in _parts(column)]
        + ["notes"]
    )
    for row in table.rows:
        line: list[object] = [row.dataset, row.backbone, _number(row.chance)]
        for column in table.columns:
            entry = row.entries[column]
            asked = bool(entry.expected)
            line += [_number(entry.mean), _number(entry.std)]
            if column.difference:
                line += [_number(bound) for bound in entry.interval or (None, None)]
            line.append(entry.n if asked else "")
            line += [] if column.difference else [entry.failed if asked else ""]
        writer.writerow([*line, "; ".join(table.notes[number - 1] for number in row.notes)])
    return text.getvalue()


def _parts(column: Column) -> tuple[str, ...]:
    return ("mean", "std", "low", "high", "n") if column.difference else ("mean", "std", "n", "failed")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def to_markdown(table: Table) -> str:
    """Markdown pipe tables with at most three numbers of shots each."""
    from tabulate import tabulate

    blocks = [f"**{table.warning}**"] * bool(table.warning) + [markdown_text(table.caption)]
    for columns, rows in table.panels(_PANEL_SHOTS):
        head = ["dataset", "backbone", *["chance"] * table.has_chance]
        head += [markdown_text(f"{column.shots}: {column.heading}") for column in columns]
        lines = []
        for row in rows:
            marks = "".join(f" [{number}]" for number in row.notes)
            label = [markdown_text(row.dataset) + marks, markdown_text(row.backbone), *_chance(table, row)]
            lines.append([*label, *(row.entries[column].text for column in columns)])
        align = ["left", "left", *["right"] * (len(head) - 2)]
        blocks.append(tabulate(lines, head, tablefmt="pipe", disable_numparse=True, colalign=align))
    notes = [f"[{number}] {markdown_text(note)}" for number, note in enumerate(table.notes, start=1)]
    # In Markdown, two spaces at the end of a line break it without starting a paragraph.
    blocks.append("  \n".join([*notes, *(markdown_text(remark) for remark in table.remarks)]))
    return "\n\n".join(blocks) + "\n"


def markdown_text(text: str) -> str:
    return text.translate(_MARKDOWN)


def to_text(table: Table) -> str:
    """Plain text without intervals, at most 120 characters wide, with as many numbers of shots side by side as fit."""
    counts = len(_by_shots(table.columns))
    for shots in range(counts, 0, -1):
        blocks = [_text_panel(table, columns, rows) for columns, rows in table.panels(shots)]
        if max(len(line) for block in blocks for line in block.splitlines()) <= _TERMINAL:
            break
    notes = [f"[{number}] {note}" for number, note in enumerate(table.notes, start=1)]
    caption, *remarks = (fill(text, _TERMINAL) for text in (table.caption, *notes, *table.remarks))
    return "\n\n".join([caption, *blocks, "\n".join(remarks)]) + "\n"


def _text_panel(table: Table, columns: list[Column], rows: list[Row]) -> str:
    """Two lines of headings, a rule, and one line per row."""
    shots = ["", "", *[""] * table.has_chance]
    for count, group in _by_shots(columns):
        shots += [f"{count}-shot", *[""] * (len(group) - 1)]
    names = ["dataset", "backbone", *["chance"] * table.has_chance, *(column.heading for column in columns)]
    body = []
    for row in rows:
        marks = "".join(f" [{number}]" for number in row.notes)
        label = [row.dataset + marks, row.backbone, *_chance(table, row)]
        body.append([*label, *(row.entries[column].brief for column in columns)])
    widths = [max(map(len, column)) for column in zip(shots, names, *body, strict=True)]
    lines = []
    for line in (shots, names, ["-" * width for width in widths], *body):
        labels = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
        numbers = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join(labels + numbers).rstrip())
    return "\n".join(lines)


def _chance(table: Table, row: Row) -> list[str]:
    if not table.has_chance:
        return []
    return ["–" if row.chance is None else f"{row.chance:.1f}"]


def to_latex(table: Table) -> str:
    """Two LaTeX tables: mean ± std by number of shots and method, with the best in bold; differences with intervals.

    The second one is left out if there are no differences.
    """
    marks = ["".join(f" [{number}]" for number in row.notes) for row in table.rows]
    labels = [
        LatexColumn("Dataset", [row.dataset + mark for row, mark in zip(table.rows, marks, strict=True)]),
        LatexColumn("Backbone", [row.backbone for row in table.rows]),
    ]
    chance = [LatexColumn("Chance", [text for row in table.rows for text in _chance(table, row)], number=True)]
    scores = [column for column in table.columns if not column.difference]
    notes = [f"[{number}] {note}" for number, note in enumerate(table.notes, start=1)]
    best = " Bold: the best of each number of shots." if len(scores) > len(_by_shots(scores)) else ""
    text = latex_table(
        table.name.replace("_", "-"),
        table.caption + best,
        [*labels, *chance * table.has_chance],
        [_latex_column(table, column, column.heading) for column in scores],
        [*notes, *(remark for remark in table.remarks if remark != DIFFERENCES)],
        warning=table.warning,
    )
    differences = [column for column in table.columns if column.difference]
    if not differences:
        return text
    return text + latex_table(
        f"{table.name.replace('_', '-')}-differences",
        f"{table.title}: differences to classical in points, by training images per class.",
        labels,
        [
            _latex_column(table, column, f"{method_title(column.method)} − {method_title(BASELINE)}")
            for column in differences
        ],
        [*notes, DIFFERENCES],
        warning=table.warning,
    )


def _latex_column(table: Table, column: Column, heading: str) -> LatexColumn:
    rivals = [other for other in table.columns if other.shots == column.shots and not other.difference]
    bold = [
        number
        for number, row in enumerate(table.rows)
        if len(rivals) > 1
        and not column.difference
        and row.entries[column].mean is not None
        and row.entries[column].brief.split(" ")[0]
        == max((f"{row.entries[r].mean:.1f}" for r in rivals if row.entries[r].mean is not None), key=float)
    ]
    texts = [row.entries[column].text for row in table.rows]
    return LatexColumn(heading, texts, number=True, group=f"{column.shots} per class", bold=frozenset(bold))


def _by_shots(columns: Iterable[Column]) -> list[tuple[int, list[Column]]]:
    return [(shots, list(group)) for shots, group in groupby(columns, key=lambda column: column.shots)]


def html_fragment(table: Table) -> str:
    """The table as an HTML `<section>` that can be inserted into a page; texts are escaped."""
    panels = [(_by_shots(columns), rows) for columns, rows in table.panels(_PANEL_SHOTS)]
    return render("table.html", table=table, panels=panels, chance=_chance)


def to_html(table: Table) -> str:
    """The table as a self-contained HTML page."""
    return render("page.html", title=table.title, banner=None, sections=[html_fragment(table)])


FORMATS: dict[str, Callable[[Table], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex, "html": to_html}
