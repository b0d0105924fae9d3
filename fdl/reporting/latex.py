"""LaTeX tables that fit on a page, with escaped text and numbers aligned at the decimal point.

A table is one or more `table*` floats with booktabs rules and siunitx columns, so it can be pasted into documents of
one or two columns. A table that is too wide is continued below with its label columns repeated; one that is too long is
continued in another float.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from textwrap import wrap

# `_LATEX` escapes the characters that LaTeX reads as commands, and those we use for which older engines have no glyph.
_LATIN = frozenset(map(chr, range(0xC0, 0x100))) - {"×", "÷"}  # LaTeX has read these letters as UTF-8 since 2018
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
_NEEDS = r"% needs \usepackage{array,booktabs,siunitx}; for pdfLaTeX before 2020 also textcomp"
_OPENING = (  # siunitx 2 and 3 both accept these options
    r"\begin{table*}",
    r"\centering\scriptsize\setlength{\tabcolsep}{3pt}\setlength{\belowcaptionskip}{5pt}",
    r"\sisetup{detect-weight,mode=text,separate-uncertainty,retain-explicit-plus,table-align-text-post=false}",
)
_WIDTH = 120  # characters in \scriptsize that fit into a line of 16.5 cm
_SPACE = 1.6  # width of the space between columns, in characters
_LINES = 58  # rows per float, which leaves room for caption and notes on the page
_WORD = 12  # characters; a longer heading is broken into lines, unless the texts below it are as wide
_STAR = "*: the 95 % interval excludes 0."

# Matches `41.2 ± 1.3` and `+1.2 [−0.3, +2.7]`, each optionally followed by ` (n=4)` and `†`.
_DIGITS = r"[+−]?\d+(?:\.\d+)?"
_NUMBER = re.compile(
    rf"(?P<mean>{_DIGITS})(?: ± (?P<std>{_DIGITS}))?(?: \[(?P<low>{_DIGITS}), (?P<high>{_DIGITS})\])?"
    r"(?P<after>(?: \(n=\d+\))?†?)"
)


@dataclass(frozen=True)
class LatexColumn:
    """A column of a table."""

    heading: str
    texts: Sequence[str]  # a text per row
    number: bool = False  # aligned at the decimal point if all texts are numbers, otherwise to the right
    width: float | None = None  # of running text, as a fraction of the text width; None: as wide as its texts
    group: str = ""  # heading above the headings of neighbouring columns with the same group
    bold: frozenset[int] = frozenset()  # numbers of the rows that are bold

    @property
    def needs(self) -> float:
        """The width that it needs, in characters."""
        if self.width:
            return self.width * _WIDTH + _SPACE
        return max(map(len, [*_broken(self.heading, self.texts), *self.texts])) + _SPACE


def latex_text(text: str) -> str:
    """Escape a text for pdfLaTeX: it then holds no commands and no characters for which there is no glyph."""
    return "".join(
        letter if letter.isascii() or letter in _LATIN else f"[U+{ord(letter):04X}]"
        for letter in text.translate(_LATEX)
    )


def latex_table(
    name: str,
    caption: str,
    labels: Sequence[LatexColumn],
    columns: Sequence[LatexColumn],
    notes: Sequence[str],
    *,
    warning: str = "",
) -> str:
    """A table as LaTeX floats. All texts are plain; they are escaped here.

    Args:
        name: name of the `\\label`, after `tab:`.
        caption: text above the table.
        labels: columns that identify a row; every part of the table starts with them. Of equal texts in consecutive
            rows of the first label column, only the first one is printed.
        columns: all other columns. A part of the table leaves out rows that have no text in any of its columns.
        notes: lines below the last float.
        warning: printed in bold before the caption.
    """
    bold = rf"\textbf{{{latex_text(warning)}}} " if warning else ""
    if any("*" in _marked(text) for column in columns if column.number for text in column.texts):
        notes = [*notes, _STAR]
    floats = _floats(labels, columns)
    lines = [_NEEDS]
    for number, parts in enumerate(floats):
        continued = r"\addtocounter{table}{-1}" if number else ""
        named = _named(labels[0], parts) if len(floats) > 1 else ""
        what = rf"{latex_text(caption)}{' ' * bool(named)}{named}\label{{tab:{name}}}"
        what = what if not number else f"(continued) {named}".strip()
        lines += [*_OPENING, rf"{continued}\caption{{{bold}{what}}}"]
        for position, (columns_here, rows) in enumerate(parts):
            lines += [r"\par\medskip"] * bool(position)
            lines += _tabular(labels, columns_here, rows)
        if number == len(floats) - 1:
            lines += _notes(notes)
        lines.append(r"\end{table*}")
    return "\n".join(lines) + "\n"


def _named(label: LatexColumn, parts: Sequence["_Part"]) -> str:
    """The values of the first label column that a float holds, such as `NEU, BSD.`; empty if it is running text."""
    if label.width:
        return ""
    texts = dict.fromkeys(re.sub(r"( \[\d+\])+$", "", label.texts[row]) for _, rows in parts for row in rows)
    return latex_text(f"{', '.join(texts)}.")


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    marked = [re.sub(r"^\[(\d+)\]", r"\\textsuperscript{\1}", latex_text(note)) for note in notes]
    return [r"\par\medskip", r"\begin{minipage}{\textwidth}\raggedright", "\\\\\n".join(marked), r"\end{minipage}"]


_Part = tuple[Sequence[LatexColumn], Sequence[int]]  # columns, rows


def _floats(labels: Sequence[LatexColumn], columns: Sequence[LatexColumn]) -> list[list[_Part]]:
    """The parts of a table by float; the parts in a float are below each other."""
    floats: list[list[_Part]] = [[]]
    left = float(_LINES)
    for panel in _panels(labels, columns):
        rows = [row for row in range(len(labels[0].texts)) if any(column.texts[row] for column in panel)]
        heights = {row: max(_height(column, row) for column in (*labels, *panel)) for row in rows}
        whole = sum(heights.values())
        if floats[-1] and whole > left:  # a part that does not fit below the others starts a new float
            floats.append([])
            left = _LINES
        parts, left = _pages(labels[0], heights, left)
        floats[-1] += [(panel, parts[0])] if parts[0] else []
        floats += [[(panel, part)] for part in parts[1:]]
        left -= 4  # headings and rules
    return floats


def _pages(label: LatexColumn, heights: dict[int, float], left: float) -> tuple[list[list[int]], float]:
    """Distribute rows over floats.

    Rows that do not fit are broken between values of the label, and within a value only if its rows fill more than a
    page.

    Args:
        label: the first label column.
        heights: lines that each row takes.
        left: lines that are free in the first float.

    Returns:
        The rows by float, and the number of lines that are free in the last float.
    """
    parts: list[list[int]] = [[]]
    fits = sum(heights.values()) <= left
    for _, members in groupby(heights, key=lambda row: "" if fits else label.texts[row]):
        block = list(members)
        size = sum(heights[row] for row in block)
        if parts[-1] and left < size <= _LINES:
            parts.append([])
            left = _LINES
        # All floats get about the same length, because a last float with only a few rows would look lost.
        spare = _LINES - size / max(1, ceil(size / _LINES)) - max(heights[row] for row in block)
        for row in block:
            if parts[-1] and heights[row] > left - max(0, spare) * (size > _LINES):
                parts.append([])
                left = _LINES
            parts[-1].append(row)
            left -= heights[row]
    return parts, left


def _height(column: LatexColumn, row: int) -> float:
    """Number of lines that an entry of the table takes."""
    return ceil(len(column.texts[row]) / (0.9 * column.width * _WIDTH)) + 0.5 if column.width else 1


def _panels(labels: Sequence[LatexColumn], columns: Sequence[LatexColumn]) -> list[Sequence[LatexColumn]]:
    """Distribute the columns over as few parts as fit beside the labels, about equally wide.

    A group of columns that fits into a part is not broken.
    """
    free = _WIDTH - sum(label.needs for label in labels)
    count = len(_filled(columns, free))
    narrow = next(width for width in range(1, int(free) + 2) if len(_filled(columns, min(width, free))) == count)
    return _filled(columns, min(narrow, free))


def _filled(columns: Sequence[LatexColumn], width: float) -> list[Sequence[LatexColumn]]:
    panels: list[list[LatexColumn]] = [[]]
    used = 0.0
    for _, members in groupby(enumerate(columns), key=lambda item: item[1].group or item[0]):
        group = [column for _, column in members]
        blocks = [group] if sum(column.needs for column in group) <= width else [[column] for column in group]
        for block in blocks:
            needs = sum(column.needs for column in block)
            if panels[-1] and used + needs > width:
                panels.append([])
                used = 0.0
            panels[-1] += block
            used += needs
    return list(panels)


def _tabular(labels: Sequence[LatexColumn], columns: Sequence[LatexColumn], rows: Sequence[int]) -> list[str]:
    printed = [*labels, *columns]
    aligned = [_aligned(column, rows) for column in printed]
    names: list[str] = []
    for column, (specification, spans, _) in zip(printed, aligned, strict=True):
        heading = r"\\".join(latex_text(line) for line in _broken(column.heading, column.texts))
        if r"\\" in heading:
            heading = rf"\shortstack{{{heading}}}"
        if spans > 1:
            heading = rf"\multicolumn{{{spans}}}{{c}}{{{heading}}}"
        elif specification.startswith("S"):
            heading = f"{{{heading}}}"
        names.append(heading)
    lines = [rf"\begin{{tabular}}{{{''.join(specification for specification, _, _ in aligned)}}}", r"\toprule"]
    lines += _groups(printed, [spans for _, spans, _ in aligned])
    lines += [_line(names), r"\midrule"]
    first = [labels[0].texts[row] for row in rows] if labels else []
    several = len(set(first)) > 1 and len(set(first)) < len(first)
    for position in range(len(rows)):
        cells = [texts[position] for _, _, texts in aligned]
        if labels and position and first[position] == first[position - 1]:
            cells[0] = ""
        elif position and (several or any(column.width for column in printed)):
            lines.append(r"\addlinespace")
        lines.append(_line(cells))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _groups(columns: Sequence[LatexColumn], spans: Sequence[int]) -> list[str]:
    """The line above the headings, with a rule under each group."""
    if not any(column.group for column in columns):
        return []
    cells, rules, start = [], [], 1
    for group, members in groupby(zip(columns, spans, strict=True), key=lambda pair: pair[0].group):
        width = sum(span for _, span in members)
        end = start + width - 1
        cells += [rf"\multicolumn{{{width}}}{{c}}{{{latex_text(group)}}}"] if group else [""] * width
        rules += [rf"\cmidrule(lr){{{start}-{end}}}"] if group else []
        start += width
    return [_line(cells), "".join(rules)]


def _broken(heading: str, texts: Sequence[str]) -> list[str]:
    """Break a heading into lines that are not much wider than the texts below it."""
    return wrap(heading, max(_WORD, *map(len, texts)), break_long_words=False) if texts else [heading]


def _line(cells: Sequence[str]) -> str:
    # LaTeX would read a bracket at the start of a line as an argument of the line break before it.
    first, *rest = cells
    return " & ".join([f"{{}}{first}" if first.startswith("[") else first, *rest]) + r" \\"


def _aligned(column: LatexColumn, rows: Sequence[int]) -> tuple[str, int, list[str]]:
    """Format a column for `tabular`.

    Numbers are as wide as the widest of all rows, not only of the given ones, so that all parts of a table look alike.

    Returns:
        The column's specification, the number of `tabular` columns that it takes, and the entries of the given rows.
    """
    texts = [column.texts[row] for row in rows]
    if column.width:
        specification = rf">{{\raggedright\arraybackslash}}p{{{column.width}\textwidth}}"
        return specification, 1, [latex_text(text).replace("/", r"/\allowbreak{}") for text in texts]
    every = [_NUMBER.fullmatch(text) for text in column.texts]
    known = [match for match in every if match]
    words = [text for text, match in zip(column.texts, every, strict=True) if not match]
    if not column.number or not known or any(letter.isdigit() for text in words for letter in text):
        return "r" if column.number else "l", 1, [_raised(latex_text(text)) for text in texts]
    intervals = any(match["low"] for match in known)
    cells = []
    for row, text in zip(rows, texts, strict=True):
        match = every[row]
        weight = r"\bfseries " if row in column.bold else ""
        if match is None:
            word = latex_text(text)
            cells.append(rf"\multicolumn{{3}}{{c}}{{{word}}}" if intervals else f"{{{word}}}")
        elif intervals:
            cells.append(_with_interval(match, weight))
        else:
            cells.append(f"{weight}{_plain(match)}{_after(match['after'])}")
    widest = max((match["after"] for match in known), key=len)
    space = f",table-space-text-post={{{_after(widest)}}}" * bool(widest)
    if not intervals:
        specification = _format([m["mean"] for m in known], [m["std"] for m in known if m["std"]])
        return f"S[{specification}{space}]", 1, cells
    mean = _format([match["mean"] for match in known], [])
    bounds = _format([bound for match in known for bound in (match["low"], match["high"]) if bound], [])
    specification = (
        f"S[{mean}]@{{\\,}}S[{bounds},table-space-text-pre={{[}},table-space-text-post={{,}}]@{{\\,}}"
        f"S[{bounds},table-space-text-post={{]*{_after(widest)}}}]"
    )
    return specification, 3, cells


def _raised(text: str) -> str:
    """A label such as `NEU [1] [2]`, with the numbers of its notes as superscripts."""
    label, *marks = re.split(r" \[(\d+)\](?=$| \[)", text)
    numbers = ",".join(filter(None, marks))
    return rf"{label}\textsuperscript{{{numbers}}}" if numbers else label


def _with_interval(match: re.Match[str], weight: str) -> str:
    """Mean, lower and upper bound in three columns, with a star if the interval excludes 0."""
    after = _after(match["after"])
    if not match["low"]:
        return f"{weight}{_ascii(match['mean'])} & {{}} & {after or '{}'}"
    mean, low, high = (_ascii(match[name]) for name in ("mean", "low", "high"))
    star = "*" if "*" in _marked(match[0]) else ""
    return f"{weight}{mean} & {{[}}{low}{{,}} & {high}{{]{star}}}{after}"


def _marked(text: str) -> str:
    """The text, with a star appended if it is a difference whose interval excludes 0."""
    match = _NUMBER.fullmatch(text)
    if match is None or not match["low"]:
        return text
    low, high = float(_ascii(match["low"])), float(_ascii(match["high"]))
    return f"{text}*" if low > 0 or high < 0 else text


def _plain(match: re.Match[str]) -> str:
    std = rf" \pm {match['std']}" if match["std"] else ""
    return _ascii(match["mean"]) + std


def _after(text: str) -> str:
    return rf"{{\normalfont\,{latex_text(text.strip())}}}" if text else ""


def _ascii(number: str) -> str:
    return number.replace("−", "-")


def _format(means: Sequence[str], stds: Sequence[str]) -> str:
    """The siunitx option for numbers with these numbers of digits, such as `table-format=+2.1(2)`."""
    whole = max(len(mean.lstrip("+−").partition(".")[0]) for mean in means)
    decimals = max(len(mean.partition(".")[2]) for mean in means)
    sign = "+" if any(mean[0] in "+−" for mean in means) else ""
    digits = max((len(std.partition(".")[0]) for std in stds), default=-decimals) + decimals
    return f"table-format={sign}{whole}" + f".{decimals}" * bool(decimals) + f"({digits})" * bool(digits)
