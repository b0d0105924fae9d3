"""Generates the lists in docs/report.md from the entries of tables, figures, metrics and so on (`make format`)."""

import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path

from fdl.core.controls import CONTROLS
from fdl.core.method_sources import method_source, registered
from fdl.core.protocol import DATASETS
from fdl.data.sources import SOURCES
from fdl.evaluation.metrics import sentence
from fdl.evaluation.voting import COMBINERS
from fdl.reporting.entries import FORMATS, Entry
from fdl.reporting.targets import entries
from fdl.results.measures import measures

EXAMPLE = Path("reports/published/lite/figures")


def lists() -> dict[str, str]:
    """The generated Markdown by name of the list."""
    return {
        "tables and figures": _table(["name", "what it shows", "files"], _entries()),
        "how to read them": "".join(_sections()),
        "metrics": _table(["`metric`", "title", "meaning", "values", "better"], _measures()),
        "combiners": _table(["`combiner`", "title", "trained", "shown"], _combiners()),
        "methods": _table(["`method`", "title", "what it is"], _methods()),
        "datasets": _table(["`dataset`", "title", "classes", "pixels", "licence"], _datasets()),
    }


def filled(text: str) -> str:
    """The text of a page with its lists replaced by new ones.

    A list begins with a comment that holds its name and ends with the comment `end`.
    """
    for name, table in lists().items():
        before, begin, after = text.partition(f"<!-- {name}: written by `make format` -->\n")
        if begin:
            text = before + begin + table + "<!-- end -->" + after.partition("<!-- end -->")[2]
    return text


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _names(entry: Entry) -> list[str]:
    return (entry.written or entry.name).split(", ")


def _sections() -> list[str]:
    """For each entry that explains how to read it, a section with this explanation and its published figure, if any."""
    sections = []
    for entry in entries().values():
        if entry.reading:
            example = EXAMPLE / f"{entry.name}.png"
            lines = [f"### {_names(entry)[0]}", f"**{entry.title}.** {entry.reading}"]
            if example.is_file():
                lines.append(f"![{entry.title}, preset lite](../{example.as_posix()})")
            sections.append("\n\n".join(lines) + "\n\n")
    return sections


def _entries() -> list[list[str]]:
    rows = []
    for entry in entries().values():
        names = ", ".join(f"`{name}`" for name in _names(entry))
        if entry.reading:
            names = f"[{names}](#{_names(entry)[0].lower()})"
        endings = entry.endings or FORMATS[entry.kind]
        files = endings[0] if len(endings) == 1 else f"{{{','.join(endings)}}}"
        rows.append([names, entry.shows, f"`{entry.kind}s/NAME.{files}`"])
    return rows


def _measures() -> list[list[str]]:
    rows = []
    for name, measure in measures().items():
        low, high = ("" if abs(limit) == inf else f"{limit:g}".replace("-", "−") for limit in measure.limits)
        unit = f" {measure.unit}" if measure.unit else ""
        values = f"{low} to {high}" if low and high else f"{low or 'any'}{' or more' if low else ''}"
        rows.append([f"`{name}`", measure.title, measure.meaning or "–", values + unit, measure.better or "–"])
    return rows


def _combiners() -> list[list[str]]:
    return [
        [f"`{name}`", about.title, "yes" if about.trained else "no", "yes" if about.shown else "no"]
        for name, about in COMBINERS.items()
    ]


def _methods() -> list[list[str]]:
    about = {name: sentence(control.remark) + "." for name, control in CONTROLS.items()}
    return [
        [f"`{name}`", entry.title, about.get(name) or method_source(name).summary]
        for name, entry in registered().items()
    ]


def _datasets() -> list[list[str]]:
    return [
        [f"`{name}`", about.title, str(len(about.classes)), str(about.image_size), SOURCES[name].licence]
        for name, about in DATASETS.items()
    ]


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
