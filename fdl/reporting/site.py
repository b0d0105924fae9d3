"""The report's page: one file that needs no network, with every table, figure and cell of a preset."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fdl import layout
from fdl.data.sources import SOURCES
from fdl.reporting import claims
from fdl.reporting.cell_details import CellDetails, Details, read_details
from fdl.reporting.claim_tables import Claim
from fdl.reporting.claim_tables import html_fragment as claims_fragment
from fdl.reporting.collect import DatasetFacts
from fdl.reporting.gallery import gallery
from fdl.reporting.pages import render
from fdl.reporting.results import Results
from fdl.reporting.targets import Target, report_files, target_named
from fdl.reporting.titles import SYNTHETIC, dataset_title, metric_title

# Figures of maps stay beside the page, which shows the same maps in its gallery: so it keeps below 15 MB.
_LINKED = ("cam", "descriptors")
_NOT_IN_SUMMARY = ("C2",)  # a line per slice: in the table of claims alone


@dataclass(frozen=True)
class Shown:
    """What the page shows of a target."""

    target: Target
    content: str  # of a table its HTML, of a figure its caption


@dataclass(frozen=True)
class TableSection:
    """A table with the links to its files."""

    name: str
    heading: str
    html: str
    downloads: Sequence[str]  # relative addresses


@dataclass(frozen=True)
class FigureSection:
    """A figure with its caption and the links to its files."""

    name: str
    heading: str
    address: str | None  # data address; None: it is only linked
    caption: str
    downloads: Sequence[str]


@dataclass(frozen=True)
class Parts:
    """What the page shows of the records, besides tables and figures."""

    details: Details
    gallery: str  # HTML
    cells: str  # HTML


def read_parts(results: Results) -> Parts:
    """Read them from the records.

    Raises:
        InputError: a record is damaged, or not the one that was collected.
    """
    details = read_details(results)
    cells = [(cell, _cell_texts(cell)) for cell in details.cells]
    return Parts(
        details,
        gallery=render("gallery.html", gallery=gallery(results)),
        cells=render("cells.html", cells=cells, metric=metric_title("accuracy")),
    )


def page(results: Results, shown: Sequence[Shown], verdicts: Sequence[Claim], parts: Parts, *, summary: str) -> str:
    """The page as a whole; texts of data and users are escaped.

    Args:
        results: of the preset.
        shown: tables and figures, in order; the figures' files are read.
        verdicts: as `claims.evaluate` gave them.
        parts: as `read_parts` gave them.
        summary: the sentence that it begins with.
    """
    params, collected, details = results.params, results.collected, parts.details
    figures = [_figure_section(results, one) for one in shown if one.target.kind == "figure"]
    section = render(
        "report.html",
        title=f"fdl: preset {params.preset}",
        summary=summary,
        counts=_counts(results),
        verdicts=[claim for claim in verdicts if claim.id not in _NOT_IN_SUMMARY],
        no_verdicts=claims.claims_caption(params, verdicts) if not verdicts else "",
        tables=[_table_section(results, one) for one in shown if one.target.kind == "table"],
        claims=_claims_section(results, verdicts),
        figures=[figure for figure in figures if figure.address],
        linked=[figure for figure in figures if not figure.address],
        gallery=parts.gallery,
        cells=parts.cells,
        made=_made(results, details),
        common=details.common,
        data=[_data_texts(name, facts) for name, facts in collected.datasets.items()],
        files=[_relative(results, path) for path in report_files(params)["all"] if not path.endswith("index.html")],
        metric=metric_title("accuracy"),
    )
    banner = SYNTHETIC if collected.synthetic else None
    return render("page.html", title=f"fdl: preset {params.preset}", banner=banner, sections=[section])


def _table_section(results: Results, shown: Shown) -> TableSection:
    target = shown.target
    return TableSection(target.name, target.title, shown.content, _downloads(results, target))


def _claims_section(results: Results, verdicts: Sequence[Claim]) -> TableSection:
    target = target_named(results.params, "claims")
    fragment = claims_fragment(verdicts, claims.claims_caption(results.params, verdicts))
    return TableSection(target.name, target.title, fragment, [*_downloads(results, target), "claims.json"])


def _figure_section(results: Results, shown: Shown) -> FigureSection:
    target = shown.target
    address = None
    if target.maker not in _LINKED:
        content = Path(target.path(results.params, "png")).read_bytes()
        address = "data:image/png;base64," + base64.b64encode(content).decode()
    return FigureSection(target.name, target.title, address, shown.content, _downloads(results, target))


def _downloads(results: Results, target: Target) -> list[str]:
    return [_relative(results, path) for path in target.paths(results.params)]


def _relative(results: Results, path: str) -> str:
    return Path(path).relative_to(layout.report_folder(results.params)).as_posix()


def _counts(results: Results) -> str:
    """How many cells there are of each status."""
    states = results.collected.cells
    found = [(status, sum(state.status == status for state in states)) for status in _STATUSES]
    named = ", ".join(f"{count} {status}" for status, count in found if count)
    return f"{len(states)} cells: {named}."


_STATUSES = ("done", "failed", "missing", "stale", "damaged")


def _cell_texts(cell: CellDetails) -> list[str]:
    """What stands in the columns of the table of cells."""
    key = cell.state.cell
    accuracy = "–" if cell.accuracy is None else f"{cell.accuracy:.1f}"
    seconds = "–" if cell.seconds is None else f"{cell.seconds:.1f}"
    return [key.dataset, key.backbone, str(key.shots), key.method, str(key.seed), cell.state.status, accuracy, seconds]


def _made(results: Results, details: Details) -> list[tuple[str, str]]:
    """How the numbers were made, over all records."""
    params = results.params

    def all_of(key: str) -> str:
        values = {details.common[key]} if key in details.common else {c.details.get(key) for c in details.cells}
        return ", ".join(sorted(value for value in values if value)) or "unknown"

    versions = sorted({key for key in details.common if key.startswith("provenance.versions.")})
    return [
        ("Preset", params.preset),
        ("Settings", f"{layout.results_folder(params).as_posix()}/params/{params.hash()}.yaml"),
        ("Commit of the code", all_of("provenance.git.commit")),
        ("Edited since that commit", all_of("provenance.git.dirty")),
        ("Device", all_of("provenance.device")),
        ("Precision", all_of("provenance.precision")),
        *((key.rpartition(".")[2], details.common[key]) for key in versions),
    ]


def _data_texts(dataset: str, facts: DatasetFacts) -> list[str]:
    """Title, source, notes, test images, terms."""
    terms = SOURCES[dataset].terms if dataset in SOURCES else "your own images"
    if facts.synthetic:
        terms = "made by this program"
    tests = "unknown" if facts.test is None else f"{facts.test:,}"
    return [
        dataset_title(dataset, synthetic=facts.synthetic),
        facts.source,
        "; ".join(facts.notes) or "–",
        tests,
        terms,
    ]
