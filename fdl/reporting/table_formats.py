"""Writes a `Table` as CSV, Markdown, LaTeX and HTML, and as text for a terminal."""

import csv
import io
from collections.abc import Callable, Iterable
from itertools import groupby
from textwrap import fill

from fdl.reporting.pages import render
from fdl.reporting.tables import Column, Row, Table

_PANEL_SHOTS = 3  # numbers of shots side by side on a page that scrolls
_LATEX_SHOTS = 2  # on paper
_TERMINAL = 120  # characters

# The characters that LaTeX reads as commands, and those of ours that older engines have no glyph for.
_LATIN = frozenset(map(chr, range(0xC0, 0x100))) - {"×", "÷"}  # letters that LaTeX knows in UTF-8 since 2018
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "−": r"$-$",
        "×": r"$\times$",
        "Δ": r"$\Delta$",
        "†": r"\textsuperscript{\textdagger}",
        "–": "--",
        "…": r"\ldots{}",
    }
)

# What Markdown reads as markup, GitHub's mathematics included.
_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def to_csv(table: Table) -> str:
    """One line per row; mean, std, n and failed of every column (differences: the interval) as plain numbers, in %."""
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
    """Pipe tables of at most three numbers of shots each."""
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
    # Two spaces end a line without starting a paragraph.
    blocks.append("  \n".join([*notes, *(markdown_text(remark) for remark in table.remarks)]))
    return "\n\n".join(blocks) + "\n"


def markdown_text(text: str) -> str:
    return text.translate(_MARKDOWN)


def to_text(table: Table) -> str:
    """Plain text at most 120 characters wide, without intervals; as many numbers of shots side by side as fit."""
    counts = len(_by_shots(table.columns))
    for shots in range(counts, 0, -1):
        blocks = [_text_panel(table, columns, rows) for columns, rows in table.panels(shots)]
        if max(len(line) for block in blocks for line in block.splitlines()) <= _TERMINAL:
            break
    notes = [f"[{number}] {note}" for number, note in enumerate(table.notes, start=1)]
    caption, *remarks = (fill(text, _TERMINAL) for text in (table.caption, *notes, *table.remarks))
    return "\n\n".join([caption, *blocks, "\n".join(remarks)]) + "\n"


def _text_panel(table: Table, columns: list[Column], rows: list[Row]) -> str:
    """Two lines of headings, a rule, one line per row."""
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
        left = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
        right = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join(left + right).rstrip())
    return "\n".join(lines)


def _chance(table: Table, row: Row) -> list[str]:
    if not table.has_chance:
        return []
    return ["–" if row.chance is None else f"{row.chance:.1f}"]


def to_latex(table: Table) -> str:
    """A `table*` with booktabs rules, panels of at most two numbers of shots below each other.

    Needs `\\usepackage{booktabs}` and, for pdfLaTeX before 2020, `\\usepackage{textcomp}`.
    """
    labels = 2 + table.has_chance
    panels = table.panels(_LATEX_SHOTS)
    warning = rf"\textbf{{{latex_text(table.warning)}}} " if table.warning else ""
    widest = max(len(columns) for columns, _ in panels)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{warning}{latex_text(table.caption)}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{ll{'r' * table.has_chance}{'r' * widest}}}",
        r"\toprule",
    ]
    for number, (columns, panel_rows) in enumerate(panels):
        lines += [r"\midrule[\heavyrulewidth]"] * bool(number)
        lines += _latex_head(table, columns, labels)
        for rows in _by_dataset(panel_rows):
            lines.append(r"\midrule")
            for position, row in enumerate(rows):
                marks = rf"\textsuperscript{{{','.join(map(str, row.notes))}}}" if row.notes else ""
                # The dataset's name once per group.
                label = [latex_text(row.dataset) + marks if position == 0 else "", latex_text(row.backbone)]
                label += [latex_text(text) for text in _chance(table, row)]
                lines.append(_latex_line([*label, *(latex_text(row.entries[column].text) for column in columns)]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [rf"\textsuperscript{{{number}}} {latex_text(note)}" for number, note in enumerate(table.notes, start=1)]
    notes += [latex_text(remark) for remark in table.remarks]
    lines += [r"\par\medskip", r"\begin{minipage}{\textwidth}\footnotesize\raggedright"]
    lines += ["\\\\\n".join(notes), r"\end{minipage}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _latex_head(table: Table, panel: list[Column], labels: int) -> list[str]:
    """Shots over methods, with a rule under each number of shots."""
    top, rules, start = [""] * labels, [], labels + 1
    for shots, columns in _by_shots(panel):
        top.append(rf"\multicolumn{{{len(columns)}}}{{c}}{{{shots} per class}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + len(columns) - 1}}}")
        start += len(columns)
    names = ["Dataset", "Backbone", *["Chance"] * table.has_chance, *(latex_text(column.heading) for column in panel)]
    return [_latex_line(top), "".join(rules), _latex_line(names)]


def _by_shots(columns: Iterable[Column]) -> list[tuple[int, list[Column]]]:
    return [(shots, list(group)) for shots, group in groupby(columns, key=lambda column: column.shots)]


def _by_dataset(rows: Iterable[Row]) -> list[list[Row]]:
    return [list(group) for _, group in groupby(rows, key=lambda row: row.dataset)]


def _latex_line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def latex_text(text: str) -> str:
    """Text as pdfLaTeX reads it: no command, and no character that stops it for want of a glyph."""
    return "".join(
        letter if letter.isascii() or letter in _LATIN else f"[U+{ord(letter):04X}]"
        for letter in text.translate(_LATEX)
    )


def html_fragment(table: Table) -> str:
    """The table as an HTML `<section>` to be put into a page; texts are escaped."""
    panels = [(_by_shots(columns), rows) for columns, rows in table.panels(_PANEL_SHOTS)]
    return render("table.html", table=table, panels=panels, chance=_chance)


def to_html(table: Table) -> str:
    """The table as a page that stands alone."""
    return render("page.html", title=table.title, banner=None, sections=[html_fragment(table)])


FORMATS: dict[str, Callable[[Table], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex, "html": to_html}
