"""The report as a whole: its files, its page, its headline."""

import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fdl.core.errors import InputError
from fdl.core.settings import Params
from fdl.reporting.report import headline, write_report
from fdl.reporting.targets import report_files
from fdl.results.collect import collect
from tests.reporting.fabricate import PARAMS_FILE, fabricate, small_grid

NASTY = "<img src=x onerror=alert(1)> & \"quotes\" 'and' {{ 7 * 7 }}"
WARNING = "Synthetic images: the numbers say nothing about the method."


def reported(params: Params) -> dict[str, bytes]:
    """The files of a report by path."""
    return {str(path): path.read_bytes() for path in write_report(params)}


@pytest.fixture
def params(project: Path) -> Params:
    """Eight cells with records."""
    grid = small_grid()
    fabricate(grid)
    collect(grid)
    return grid


class Links(HTMLParser):
    """Every address that a page names, its tags and the targets within it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "srcset", "poster", "data")]
        self.targets |= {value or "" for name, value in attrs if name == "id"}


def test_the_files_written_are_those_announced(params: Params) -> None:
    assert sorted(reported(params)) == sorted(report_files(params)["made"])
    assert all(Path(path).is_file() for path in report_files(params)["all"])


def test_a_second_report_has_the_same_bytes(params: Params) -> None:
    assert reported(params) == reported(params)


def test_records_of_another_day_give_the_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, reports = small_grid(), []
    for day, seconds in {"one": 1.0, "other": 77.0}.items():
        (tmp_path / day).mkdir()
        monkeypatch.chdir(tmp_path / day)
        fabricate(grid, seconds=seconds, shuffle=day == "other")
        collect(grid)
        reports.append(reported(grid))
    one, other = reports
    differing = {path for path in one if one[path] != other[path]}
    # What says how long it took differs, and nothing else.
    costs = [*(f"tables/costs.{ending}" for ending in ("csv", "md", "tex", "html")), "index.html"]
    costs += ["figures/seconds_per_cell.png", "figures/seconds_per_cell.pdf"]
    assert one.keys() == other.keys()
    assert differing == {f"reports/demo/{name}" for name in costs}


def test_the_page_stands_alone(params: Params) -> None:
    page = reported(params)["reports/demo/index.html"].decode()
    links = Links()
    links.feed(page)
    assert not links.tags & {"link", "iframe", "object", "embed", "base"}
    assert not re.findall(r"url\((?!data:image/png;base64,)|@import|https?://(?!www\.w3\.org)", page)
    for address in links.addresses:
        if address.startswith("#"):
            assert address[1:] in links.targets
        elif not address.startswith("data:image/png;base64,"):
            assert Path("reports/demo", address).is_file()
    assert "figures/accuracy_over_shots.pdf" in links.addresses


def test_synthetic_images_are_marked_everywhere(params: Params) -> None:
    files = reported(params)
    for path, content in files.items():
        if "claims" in path:  # no frozen grid: it holds no number
            continue
        if path.endswith((".html", ".md", ".tex")):
            assert WARNING in content.decode()
        if path.endswith(".csv"):
            lines = list(csv.DictReader(io.StringIO(content.decode())))
            ours = [line for line in lines if line.get("expected") != "0"]  # not the authors' numbers alone
            assert lines
            assert all("synthetic" in line["dataset"] for line in ours)
    assert '<p class="banner"' in files["reports/demo/index.html"].decode()
    assert WARNING in headline(params).splitlines()


def test_real_images_are_not_called_synthetic(project: Path) -> None:
    grid = small_grid(source="local")
    fabricate(grid)
    collect(grid)
    for path, content in reported(grid).items():
        if not path.endswith((".png", ".pdf")):
            assert "synthetic" not in content.decode().lower()
    assert "ynthetic" not in headline(grid)


def test_headline_numbers_are_those_worked_out_by_hand(project: Path) -> None:
    grid = small_grid()
    # 20 % in seed 0, 24 % in seed 1, four cells each: mean 22; chance 100/6; above it 5.33. Of two seeds no interval:
    # s = 2.83, t(0.975, 1) = 12.706, so it would be ± 12.706 · 2.83 / √2 = 25.41.
    fabricate(grid, accuracy={cell: 0.2 + 0.04 * cell.seed for cell in grid.cells()})
    collect(grid)
    text = headline(grid)
    assert (
        "Mean test accuracy 22.0 %, +5.3 points against chance, all methods together (n = 8 of 8 cells)."
        in text.splitlines()
    )
    assert (
        "Does the feature distance loss help? No answer: the images are synthetic (FDL − classical is 0.0 points "
        "of test accuracy (too few seeds for an interval) over 4 pairs)." in text.splitlines()
    )
    assert text.splitlines()[-1] == "Report: reports/demo/index.html"
    (row,) = [line for line in text.splitlines() if line.startswith("NEU")]
    assert re.split(r"  +", row) == [
        "NEU (synthetic)", "AlexNet", "16.7", "22.0 ± 2.8", "22.0 ± 2.8", "0.0", "22.0 ± 2.8", "22.0 ± 2.8", "0.0"
    ]  # fmt: skip


def test_chance_is_each_datasets_own(project: Path) -> None:
    grid = small_grid(datasets=["neu", "bsd"], shots=[3], methods=["fdl"], seeds=[0])
    fabricate(grid, accuracy={cell: {"neu": 0.5, "bsd": 0.6}[cell.dataset] for cell in grid.cells()})
    collect(grid)
    # (50 − 16.67 + 60 − 50) / 2
    assert "Mean test accuracy 55.0 %, +21.7 points against chance" in headline(grid)


def test_one_cell_has_no_interval(project: Path) -> None:
    grid = small_grid(shots=[3], methods=["fdl"], seeds=[0])
    fabricate(grid, accuracy=dict.fromkeys(grid.cells(), 0.5))
    collect(grid)
    write_report(grid)
    assert "+33.3 points against chance, all methods together (n = 1 of 1 cells)." in headline(grid)


class CellRows(HTMLParser):
    """The rows of the page's table of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = self.cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = self.inside or (tag == "table" and "cells" in (dict(attrs).get("class") or ""))
        if self.inside and tag == "tr":
            self.rows.append([])
        if self.inside and tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "table"
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[-1][-1] += data


def cell_rows(page: str) -> list[list[str]]:
    parser = CellRows()
    parser.feed(page)
    return parser.rows


def test_failed_and_missing_cells_are_listed_with_their_reason(project: Path) -> None:
    grid = small_grid()
    fabricate(grid, failed={"neu/alexnet/3shot/fdl/seed0"}, skip={"neu/alexnet/5shot/fdl/seed1"})
    collect(grid, partial=True)
    page = reported(grid)["reports/demo/index.html"].decode()
    assert "8 cells: 6 done, 1 failed, 1 missing." in page
    texts = [[text.strip() for text in row] for row in cell_rows(page)]
    (failed,) = [row for row in texts if row[5] == "failed"]
    assert failed[:8] == ["NEU (synthetic)", "AlexNet", "3", "FDL", "0", "failed", "–", "2.0"]
    assert failed[8].startswith("epoch 12: member 2: the cross-entropy is nan")
    assert ["NEU (synthetic)", "AlexNet", "5", "FDL", "1", "missing", "–", "–", ""] in texts
    assert "n = 6 of 8 cells" in headline(grid)


def test_a_report_of_nothing_but_failed_cells_is_still_written(project: Path) -> None:
    grid = small_grid()
    fabricate(grid, failed={cell.key for cell in grid.cells()})
    collect(grid)
    write_report(grid)
    assert "None of 8 cells has a value." in headline(grid)
    assert "failed†" in headline(grid)


def test_texts_of_the_data_cannot_write_html(project: Path) -> None:
    grid = small_grid()
    fabricate(grid, notes=[NASTY], classes=[NASTY, *"bcdef"])
    collect(grid)
    page = reported(grid)["reports/demo/index.html"].decode()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; &#34;quotes&#34; &#39;and&#39; {{ 7 * 7 }}" in page


def test_the_verb_says_what_to_do_first(project: Path) -> None:
    with pytest.raises(InputError, match="fdl collect"):
        write_report(small_grid())
    with pytest.raises(InputError, match="fdl collect"):
        headline(small_grid())


def test_the_command_line_starts_without_the_plotting_packages() -> None:
    code = "import sys, fdl.reporting.report; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=PARAMS_FILE.parent
    )
    loaded = set(result.stdout.split())
    assert "fdl.reporting.table_formats" in loaded
    assert not loaded & {"pandas", "matplotlib", "seaborn", "scipy", "jinja2"}
