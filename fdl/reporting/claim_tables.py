"""A claim with its verdict, and the table of claims as CSV, Markdown, LaTeX and HTML."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from fdl.core import titles
from fdl.reporting.entries import Entry
from fdl.reporting.latex import LatexColumn, latex_table, latex_text
from fdl.reporting.pages import render
from fdl.reporting.table_formats import markdown_text

_WIDTHS = (0.13, 0.17, 0.1, 0.16, 0.14, 0.1, 0.04, 0.05)  # of the LaTeX columns, as fractions of the text width
_HEADINGS = ("Claim", "Verdict", "Slice", "By dataset", "Estimate", "Without a dataset", "Seeds", "Cells")
HARMS_LESS = "the loss harms less with fewer shots"  # replaces the verdict "supported" on C3 if there is no gain
INCOMPLETE = "incomplete"  # first word of the reason while cells of the frozen grid are missing
_DECIMALS = {"nats": 3, "correlation": 3}  # by unit; all others have two
Part = dict[str, float | None]  # numbers by name, such as estimate, low and high


@dataclass(frozen=True)
class Claim:
    """A claim on the frozen grid or a slice of it, with its estimate and verdict.

    The frozen grid is the set of cells (trained ensembles) that the preset fixed before its first training.
    """

    id: str
    text: str
    slice: str
    unit: str
    estimate: float | None
    low: float | None
    high: float | None
    level: float
    df: float | None
    p: float | None  # of the hypothesis of no difference, adjusted if the claim belongs to a family of tests
    p_equivalence: float | None  # of equivalence, adjusted likewise; None if the unit is not percentage points
    low_equivalence: float | None  # bounds of the 90 % interval, which lies within ± 2 points in case of equivalence
    high_equivalence: float | None
    seeds: int  # smallest number of seeds of any bundle (dataset, backbone and number of images per class)
    most_seeds: int  # largest such number
    found: int  # number of cells that have a value
    cells: int  # number of cells that the frozen grid asks for
    failed: tuple[str, ...]  # keys of the cells that diverged
    by_dataset: dict[str, Part]  # the estimate for each dataset alone; empty if there is only one
    without: dict[str, float | None]  # the estimate without each dataset in turn
    spread: Part  # by dataset: standard deviation of a pair's difference between seeds, within its bundle
    precision: str
    seeds_for_equivalence: int | None  # see `Estimate.seeds_for_equivalence`
    beside: str  # text that is printed after the estimate
    verdict: str | None  # None: no verdict is given
    reason: str
    sensitivity: str  # the result of an alternative rule
    remark: str  # the preset's caveat (`claims.remark`)
    rules: int  # version of the rules
    grid: str  # hash of the frozen grid
    titles: dict[str, str]  # printed names of the datasets

    @property
    def reading(self) -> str:
        """The verdict as it is printed, with its reason."""
        if self.verdict is None or self.verdict == "undecided":
            return f"{self.verdict or 'no verdict'} ({self.reason})"
        return f"{self.verdict}{',' if ',' in self.verdict else ''} on this grid ({self.reason})"

    @property
    def word(self) -> str:
        """The verdict in one or two words, for the badges on the page."""
        if self.reason.startswith(INCOMPLETE):
            return INCOMPLETE
        return "harms less" if self.verdict == HARMS_LESS else (self.verdict or "no verdict").partition(",")[0]

    @property
    def by_dataset_text(self) -> str:
        """`CIFAR-10 +0.05 [−0.53, +0.64]; NEU −3.41 [−5.74, −1.08]`, or `–`."""
        texts = []
        for name, part in self.by_dataset.items():
            interval = f" {self.interval(part['low'], part['high'])}" if part["low"] is not None else ""
            texts.append(f"{self.titles[name]} {self.amount(part['estimate'])}{interval}")
        return "; ".join(texts) or "–"

    @property
    def estimate_text(self) -> str:
        """`−1.68 [−2.82, −0.54] points`, and the text that is printed after it."""
        if self.estimate is None:
            return "–"
        interval = f" {self.interval(self.low, self.high)}" if self.low is not None else ""
        beside = f"; {self.beside}" if self.beside else ""
        if self.unit == "ratio":
            return f"ratio {self.amount(self.estimate)}{beside}"
        return f"{self.amount(self.estimate)}{interval} {self.unit}{beside}"

    @property
    def summary_text(self) -> str:
        """`−1.7 [−2.8, −0.5] points`, rounded like the report's answer; estimates in other units as `estimate_text`."""
        if self.estimate is None or self.unit != "points":
            return self.estimate_text.partition(";")[0]
        known = (self.low, self.high) if self.low is not None and self.high is not None else None
        return f"{titles.signed_interval(self.estimate, known)} {self.unit}"

    def amount(self, value: float | None) -> str:
        """A number in the claim's unit, with its sign unless it is a ratio."""
        text = signed(value, _DECIMALS.get(self.unit, 2))
        return text.lstrip("+") if self.unit == "ratio" else text

    def interval(self, low: float | None, high: float | None) -> str:
        """`[−2.82, −0.54]`, in the claim's unit."""
        return interval_text(low, high, _DECIMALS.get(self.unit, 2))


def _rows(claims: Sequence[Claim]) -> list[list[str]]:
    return [
        [
            f"{claim.id} {claim.text}",
            f"{claim.reading}. {claim.sensitivity}" if claim.sensitivity else claim.reading,
            claim.slice,
            claim.by_dataset_text,
            claim.estimate_text,
            _without_text(claim),
            f"{claim.seeds} to {claim.most_seeds}" if claim.seeds < claim.most_seeds else str(claim.seeds),
            f"{claim.found:,} of {claim.cells:,}",
        ]
        for claim in claims
    ]


def _without_text(claim: Claim) -> str:
    known = sorted((value, name) for name, value in claim.without.items() if value is not None)
    if not known:
        return "–"
    (low, first), (high, last) = known[0], known[-1]
    return f"{claim.amount(low)} ({claim.titles[first]}) to {claim.amount(high)} ({claim.titles[last]})"


def interval_text(low: float | None, high: float | None, decimals: int = 2) -> str:
    """`[−2.82, −0.54]`."""
    return f"[{signed(low, decimals)}, {signed(high, decimals)}]"


def signed(value: float | None, decimals: int = 2) -> str:
    """The rounded number with its sign, a true minus sign if it is negative; `–` for None."""
    return "–" if value is None else f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "−")


def as_written(claim: Claim) -> dict[str, Any]:
    """All fields of a claim and its `reading`; without `titles`, because files name datasets by their keys."""
    known = asdict(claim) | {"reading": claim.reading}
    del known["titles"]
    return known


def to_csv(claims: Sequence[Claim]) -> str:
    """A CSV file with one row per claim and all of its fields."""
    text = io.StringIO(newline="")
    names = [*(field.name for field in fields(Claim) if field.name != "titles"), "reading"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for claim in claims:
        line = as_written(claim) | {"failed": "; ".join(claim.failed)}
        for name in ("without", "spread"):
            line[name] = "; ".join(f"{dataset} {value}" for dataset, value in getattr(claim, name).items())
        line["by_dataset"] = claim.by_dataset_text
        writer.writerow(line)
    return text.getvalue()


def to_markdown(claims: Sequence[Claim], caption: str) -> str:
    """A pipe table below the caption."""
    from tabulate import tabulate

    lines = [[markdown_text(text) for text in row] for row in _rows(claims)]
    table = [tabulate(lines, _HEADINGS, tablefmt="pipe", disable_numparse=True)] if claims else []
    return "\n\n".join([markdown_text(caption), *table]) + "\n"


def to_latex(claims: Sequence[Claim], caption: str) -> str:
    """LaTeX floats of at most a page each, with the caption's details below the last; just the caption without claims.

    The details are all sentences of the caption but the first.
    """
    if not claims:
        return latex_text(caption) + "\n"
    first, _, details = caption.partition(". ")
    columns = [
        LatexColumn(heading, texts, width=width)
        for heading, texts, width in zip(_HEADINGS, zip(*_rows(claims), strict=True), _WIDTHS, strict=True)
    ]
    return latex_table("claims", f"{first}.", columns[:1], columns[1:], [details])


def html_fragment(claims: Sequence[Claim], caption: str) -> str:
    """The table as an HTML `<section>` that can be inserted into a page; texts are escaped."""
    return render("claims.html", caption=caption, headings=_HEADINGS, rows=_rows(claims))


def to_html(claims: Sequence[Claim], caption: str, *, banner: str | None) -> str:
    """The table as a self-contained HTML page."""
    return render("page.html", title="Claims", banner=banner, sections=[html_fragment(claims, caption)])


ENTRIES = [
    Entry(
        "table",
        "claims",
        "Claims",
        "A verdict for each claim of the paper, on the grid that the preset fixed beforehand. The tests "
        "were fixed before the runs (docs/claims.md).",
        None,
        order=90,
        reading="Read the verdict first, then the interval, then *without a dataset*: if the estimate changes its "
        "sign there, the verdict rests on one dataset. C1 in `lite` is contradicted, with −1.68 [−2.82, "
        "−0.54] points; without NEU the estimate is +0.05. *Incomplete* means that part of the grid is "
        "not trained yet.",
    ),
]
