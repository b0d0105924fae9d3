"""The report's page: one self-contained HTML file with a preset's tables, figures and cells (trained ensembles)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fdl.core import layout
from fdl.core.titles import backbone_title, method_title
from fdl.data.sources import SOURCES
from fdl.evaluation.metrics import METRICS
from fdl.reporting import answer, claims
from fdl.reporting.cell_details import CellDetails, Details, read_details
from fdl.reporting.claim_tables import Claim
from fdl.reporting.claim_tables import html_fragment as claims_fragment
from fdl.reporting.drawing import DPI, notice
from fdl.reporting.gallery import gallery
from fdl.reporting.pages import render
from fdl.reporting.results import Results
from fdl.reporting.targets import Target, entries, report_files, target_named
from fdl.results.collect import DatasetFacts

ANSWER = "forest"  # the figure beside the answer, at the top of the page
PAPER = (
    "Schlagenhauf, Lin & Noack: Discriminative feature learning through feature distance loss. Machine Vision and "
    "Applications 34 (2023), arXiv 2205.11606"
)
_NOT_IN_SUMMARY = ("C2",)  # C2 has a row per slice, which only the table of claims shows


@dataclass(frozen=True)
class Shown:
    """A target (table or figure) and its content on the page."""

    target: Target
    content: str  # HTML of a table, caption of a figure


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
    address: str | None  # data URL; None if the page only links to the figure
    width: float  # inches
    caption: str
    downloads: Sequence[str]


@dataclass(frozen=True)
class Parts:
    """The parts of the page that are read from the records, besides tables and figures."""

    details: Details
    gallery: str  # HTML of the gallery of maps
    without_images: str  # names of the datasets whose maps are drawn without the test images
    cells: str  # HTML of the table of cells


def read_parts(results: Results) -> Parts:
    """Read the parts of the page from the records.

    Raises:
        InputError: a record is damaged, or not the one that was collected.
    """
    details = read_details(results)
    cells = [(cell, _cell_texts(results, cell)) for cell in details.cells]
    maps = gallery(results)
    return Parts(
        details,
        gallery=render("gallery.html", gallery=maps),
        without_images=", ".join(dict.fromkeys(show.dataset for show in maps.exhibits if not show.photographs)),
        cells=render("cells.html", cells=cells, metric=METRICS["accuracy"].title),
    )


def page(results: Results, shown: Sequence[Shown], verdicts: Sequence[Claim], parts: Parts, *, check: str) -> str:
    """The HTML of the page; texts are escaped.

    Args:
        results: results of the preset.
        shown: tables and figures, in order; the files of the figures must exist, they are read here.
        verdicts: as `claims.evaluate` returned them.
        parts: as `read_parts` returned them.
        check: sentence on the mean accuracy compared with chance, which tells whether the nets learned anything.
    """
    params, collected, details = results.params, results.collected, parts.details
    figures = [_figure_section(results, target) for target in shown if target.target.kind == "figure"]
    answered = next(figure for figure in figures if figure.name == ANSWER)
    method = answer.compared_method(collected)
    title = answer.question(method)
    caveat, more = answer.first_sentence(params.claims.remark or "")
    section = render(
        "report.html",
        title=title,
        compared=answer.compared(method, params.members),
        about=_about(results, details),
        answer=answer.answer(results, verdicts),
        caveat=caveat,
        more=more,
        answered=answered,
        check=check,
        at_chance=answer.at_chance(results),
        counts=_counts(results),
        no_images=parts.without_images,
        verdicts=[claim for claim in verdicts if claim.id not in _NOT_IN_SUMMARY],
        no_verdicts=claims.claims_caption(params, verdicts) if not verdicts else "",
        tables=[_table_section(results, target) for target in shown if target.target.kind == "table"],
        claims=_claims_section(results, verdicts),
        figures=[figure for figure in figures if figure.address and figure is not answered],
        linked=[figure for figure in figures if not figure.address],
        gallery=parts.gallery,
        cells=parts.cells,
        made=_made(results, details),
        common=details.common,
        data=[_data_texts(name, facts) for name, facts in collected.datasets.items()],
        files=[_relative(results, path) for path in report_files(params)["all"] if not path.endswith("index.html")],
        metric=METRICS["accuracy"].title,
    )
    banner = notice(collected).replace("\n", " ")
    return render("page.html", title=f"{title} fdl, preset {params.preset}", banner=banner, sections=[section])


def _about(results: Results, details: Details) -> list[str]:
    """The facts below the answer: paper, preset, number of cells, commit of the code, machine."""
    states = results.collected.cells
    code = _all_of(details, "provenance.git.commit")
    machine = _all_of(details, "provenance.processor", "provenance.device")
    return [
        PAPER,
        f"preset {results.params.preset}",
        f"{len(results.collected.of('done')):,} of {len(states):,} ensembles trained",
        f"trained with commit {', '.join(commit[:7] for commit in code.split(', '))}",
        f"on {machine}, {_all_of(details, 'provenance.precision')}",
    ]


def _table_section(results: Results, shown: Shown) -> TableSection:
    target = shown.target
    return TableSection(target.name, target.title, shown.content, _downloads(results, target))


def _claims_section(results: Results, verdicts: Sequence[Claim]) -> TableSection:
    target = target_named(results.params, "claims")
    fragment = claims_fragment(verdicts, claims.claims_caption(results.params, verdicts))
    return TableSection(target.name, target.title, fragment, [*_downloads(results, target), "claims.json"])


def _figure_section(results: Results, shown: Shown) -> FigureSection:
    target = shown.target
    content = Path(target.path(results.params, "png")).read_bytes()
    width = int.from_bytes(content[16:20]) / DPI  # the PNG header holds it in bytes 16 to 19
    data = "data:image/png;base64," + base64.b64encode(content).decode()
    address = None if entries()[target.maker].linked else data
    return FigureSection(target.name, target.title, address, width, shown.content, _downloads(results, target))


def _downloads(results: Results, target: Target) -> list[str]:
    return [_relative(results, path) for path in target.paths(results.params)]


def _relative(results: Results, path: str) -> str:
    return Path(path).relative_to(layout.report_folder(results.params)).as_posix()


def _counts(results: Results) -> str:
    """The number of cells of each status, as a sentence."""
    states = results.collected.cells
    counts = [(status, sum(state.status == status for state in states)) for status in _STATUSES]
    named = ", ".join(f"{count:,} {status}" for status, count in counts if count)
    return f"{len(states):,} cells: {named}."


_STATUSES = ("done", "failed", "missing", "stale", "damaged")


def _cell_texts(results: Results, cell: CellDetails) -> list[str]:
    """A row of the table of cells."""
    key = cell.state.cell
    accuracy = "–" if cell.accuracy is None else f"{cell.accuracy:.1f}"
    seconds = "–" if cell.seconds is None else f"{cell.seconds:.1f}"
    names = [
        results.collected.datasets[key.dataset].title,
        backbone_title(key.backbone),
        str(key.shots),
        method_title(key.method),
    ]
    return [*names, str(key.seed), cell.state.status, accuracy, seconds]


def _made(results: Results, details: Details) -> list[tuple[str, str]]:
    """How the numbers were made, as (name, value), over all records."""
    params = results.params
    versions = sorted({key for key in details.common if key.startswith("provenance.versions.")})
    return [
        ("Preset", params.preset),
        ("Settings", f"{layout.results_folder(params).as_posix()}/params/{params.hash()}.yaml"),
        ("Commit of the code", _all_of(details, "provenance.git.commit")),
        ("Edited since that commit", _all_of(details, "provenance.git.dirty")),
        ("Device", _all_of(details, "provenance.device")),
        ("Precision", _all_of(details, "provenance.precision")),
        *((key.rpartition(".")[2], details.common[key]) for key in versions),
    ]


def _all_of(details: Details, *keys: str) -> str:
    """The different values of all records for the first of these keys that any record has."""
    for key in keys:
        values = {details.common[key]} if key in details.common else {c.details.get(key) for c in details.cells}
        if known := sorted(value for value in values if value):
            return ", ".join(known)
    return "unknown"


def _data_texts(dataset: str, facts: DatasetFacts) -> list[str]:
    """A row of the table of datasets: title, source, notes, number of test images, terms of use."""
    terms = SOURCES[dataset].terms if dataset in SOURCES else "your own images"
    if facts.synthetic:
        terms = "made by this program"
    tests = "unknown" if facts.test is None else f"{facts.test:,}"
    return [
        facts.title,
        facts.source,
        "; ".join(facts.notes) or "–",
        tests,
        terms,
    ]
