"""Tables: their numbers worked out by hand, and every format against a file that was read by eye.

After a wanted change, `python -m tests.reporting.test_tables` writes the files below golden/ again.
"""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fdl.core.settings import Cell, Params, load
from fdl.reporting import pages
from fdl.reporting.table_formats import FORMATS, to_csv, to_html, to_latex, to_markdown, to_text
from fdl.reporting.tables import Column, Table, Value, results_table
from fdl.results.collect import CellState, Collected, DatasetFacts
from tests.reporting.fabricate import PARAMS_FILE, facts_of_all, results_in_memory, small_grid

GOLDEN = Path(__file__).with_name("golden")
NASTY = r"100 % of A&B_c, $5 #1 {x} <script>alert(1)</script> ^~ \input{/etc/passwd} | *b* `c` [d](e) – †"

# Soft-vote test accuracies of seeds 0 and 1; None: diverged.
VALUES: dict[tuple[int, str], tuple[float | None, ...]] = {
    (3, "classical"): (0.40, 0.44),
    (3, "fdl"): (0.45, 0.47),
    (5, "classical"): (0.50, 0.50),
    (5, "fdl"): (None, 0.56),
}


def small_table(*, synthetic: bool = True, note: str = "subset of 10 of 300 images per class") -> Table:
    """NEU and AlexNet with `VALUES`."""
    return table_of(
        small_grid(),
        VALUES,
        DatasetFacts(
            "NEU (synthetic)" if synthetic else "NEU",
            synthetic,
            "synthetic",
            (note,),
            ("a", "b", "c", "d", "e", "f"),
            300,
        ),
    )


def table_of(
    params: Params, results: dict[tuple[int, str], tuple[float | None, ...]], facts: DatasetFacts, *, missing: int = 0
) -> Table:
    """A table of one dataset and backbone; the last `missing` cells have no record."""
    cells = params.cells()
    found = {cell: results[cell.shots, cell.method][cell.seed] for cell in cells[: len(cells) - missing]}
    values = {cell: value for cell, value in found.items() if value is not None}
    states = [
        CellState(cell, "done", "settings")
        if cell in values
        else CellState(cell, "failed", "settings", epoch=12, reason="member 2: the cross-entropy is nan")
        if cell in found
        else CellState(cell, "missing", "settings")
        for cell in cells
    ]
    collected = Collected(states, dict.fromkeys((cell.dataset for cell in cells), facts))
    return results_table(results_in_memory(params, collected, values), "soft", "accuracy")


def full_table(params: Params, *, synthetic: bool = False) -> Table:
    """Every cell has the accuracy 50 %."""
    values = dict.fromkeys(params.cells(), 0.5)
    states = [CellState(cell, "done", "settings") for cell in values]
    collected = Collected(states, facts_of_all(params, synthetic=synthetic, classes=("a", "b")))
    return results_table(results_in_memory(params, collected, values), "soft", "accuracy")


def texts(table: Table) -> list[str]:
    (row,) = table.rows
    return [row.entries[column].text for column in table.columns]


class Cells(HTMLParser):
    """The texts of an HTML table's cells, row by row; the scripts of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.scripts: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        if self.inside:
            self.rows[-1][-1] += data


@pytest.mark.parametrize("ending", FORMATS)
def test_small_table_is_written_as_before(ending: str) -> None:
    assert FORMATS[ending](small_table()) == (GOLDEN / f"accuracy.{ending}").read_text()


def test_numbers_are_those_worked_out_by_hand() -> None:
    # 3 shots: (40, 44) → 42 ± √8; (45, 47) → 46 ± √2; differences 5 and 3. 5 shots: seed 0 of FDL diverged.
    scores = ["42.0 ± 2.8", "46.0 ± 1.4"]
    assert texts(small_table()) == [*scores, "+4.0", "50.0 ± 0.0", "56.0 (n=1)†", "+6.0 (n=1)"]
    assert small_table().rows[0].entries[Column(3, "fdl", difference=True)].brief == "+4.0"
    # Three seeds with differences 3, 4 and 5: half width t(0.975, 2) · 1 / √3 = 4.303 / 1.732 = 2.48.
    assert Value(4.0, 1.0, 3, 3, difference=True).text == "+4.0 [+1.5, +6.5]"
    (row,) = small_table().rows
    assert row.chance == pytest.approx(100 / 6)


def test_html_holds_the_same_cells() -> None:
    parser = Cells()
    parser.feed(to_html(small_table()))
    assert parser.rows[0] == ["Dataset", "Backbone", "Chance", "3 per class", "5 per class"]
    assert parser.rows[1] == ["classical", "FDL", "Δ"] * 2
    assert parser.rows[2] == ["NEU (synthetic)1", "AlexNet", "16.7", *texts(small_table())]


def test_epochs_that_depend_on_the_shots_are_said_with_them() -> None:
    params = small_grid(grid=[{"shots": [3], "epochs": 60}, {"shots": [5], "epochs": 40}])
    assert any("; epochs 60 at 3 per class, 40 at 5 per class; " in text for text in full_table(params).remarks)
    assert any("; epochs 6; " in text for text in full_table(small_grid()).remarks)


def test_a_dataset_without_images_at_hand_has_empty_rows_and_a_note() -> None:
    facts = DatasetFacts("NEU", False, "local", (), ("a", "b", "c", "d", "e", "f"), 300)
    table = table_of(small_grid(absent={"tex": "no images at hand"}, backbones=["alexnet", "vgg"]), VALUES, facts)
    assert [(row.dataset, row.backbone) for row in table.rows[2:]] == [("TEX", "AlexNet"), ("TEX", "VGG")]
    assert [entry.text for entry in table.rows[2].entries.values()] == ["–"] * 6
    assert table.notes == ["TEX: no images at hand"]
    assert "| TEX [1]" in to_markdown(table)


def test_cells_that_all_failed_or_have_no_record_differ() -> None:
    params = small_grid(shots=[3])
    facts = DatasetFacts("NEU", False, "local")
    table = table_of(params, {(3, "classical"): (None, None), (3, "fdl"): (0.4, 0.5)}, facts, missing=2)
    assert texts(table) == ["failed†", "–", "–"]
    assert any("2 of 4 cells diverged" in remark and "epoch 12" in remark for remark in table.remarks)
    assert any("2 of 4 cells are left out" in remark for remark in table.remarks)
    assert table.rows[0].chance is None


def test_seeds_that_agree_to_the_image_are_no_certainty() -> None:
    # Of 300 test images FDL gets 31 more in both seeds; the two differences are not the same float.
    classical, fdl = (121 / 300, 90 / 300), (152 / 300, 121 / 300)
    assert fdl[0] - classical[0] != fdl[1] - classical[1]
    table = table_of(
        small_grid(shots=[3]), {(3, "classical"): classical, (3, "fdl"): fdl}, DatasetFacts("NEU", False, "local")
    )
    assert texts(table)[-1] == "+10.3"


def test_one_seed_has_no_spread() -> None:
    table = table_of(small_grid(seeds=[0]), VALUES | {(5, "fdl"): (0.56,)}, DatasetFacts("NEU", False, "local"))
    assert texts(table) == ["40.0", "45.0", "+5.0", "50.0", "56.0", "+6.0"]
    assert "one seed (0)" in table.caption
    assert ",classical_3shot_std," in to_csv(table)


def test_one_method_has_no_difference() -> None:
    table = table_of(small_grid(methods=["fdl"], shots=[3]), VALUES, DatasetFacts("NEU", False, "local"))
    assert texts(table) == ["46.0 ± 1.4"]
    assert not any("Δ" in remark for remark in table.remarks)


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    values: dict[tuple[int, str], tuple[float | None, ...]] = {(3, "classical"): (0.4,), (3, "fdl"): (0.3996,)}
    table = table_of(small_grid(shots=[3], seeds=[0]), values, DatasetFacts("NEU", False, "local"))
    assert texts(table) == ["40.0", "40.0", "0.0"]


@pytest.mark.parametrize("write", [to_csv, to_markdown, to_latex, to_html, to_text])
def test_synthetic_and_notes_are_marked_in_the_table_itself(write: Callable[[Table], str]) -> None:
    text = write(small_table())
    assert "NEU (synthetic)" in text
    assert "subset of 10 of 300 images per class" in text
    assert "synthetic" not in write(small_table(synthetic=False)).lower()


@pytest.mark.parametrize("write", [to_markdown, to_latex, to_html])
def test_a_synthetic_table_warns(write: Callable[[Table], str]) -> None:
    assert "Synthetic images: the numbers say nothing about the method." in write(small_table())


def test_latex_escapes_everything() -> None:
    text = to_latex(small_table(note=NASTY))
    assert (
        r"\textsuperscript{1} 100 \% of A\&B\_c, \$5 \#1 \{x\} \textless{}script\textgreater{}alert(1)"
        r"\textless{}/script\textgreater{} \textasciicircum{}\textasciitilde{} "
        r"\textbackslash{}input\{/etc/passwd\} | *b* `c` [d](e) -- \textsuperscript{\textdagger}"
    ) in text
    assert text.isascii()  # pdfLaTeX has no glyph for ± or −


def test_html_escapes_everything() -> None:
    text = to_html(small_table(note=NASTY))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "A&amp;B_c" in text
    parser = Cells()
    parser.feed(text)
    (ours,) = parser.scripts
    assert ours.strip() == (Path(pages.__file__).parent / "templates" / "page.js").read_text().strip()


def test_markdown_escapes_everything() -> None:
    text = to_markdown(small_table(note=NASTY))
    assert r"A&amp;B\_c, \$5 #1 {x} &lt;script&gt;alert(1)" in text
    assert r"\| \*b\* \`c\` \[d\](e)" in text


@pytest.mark.parametrize(("preset", "panels"), [("demo", 1), ("lite", 1), ("paper", 2)])
def test_terminal_text_fits_and_has_a_line_per_row(preset: str, panels: int) -> None:
    params = load(PARAMS_FILE, preset=preset)
    table = full_table(params, synthetic=preset == "demo")
    lines = to_text(table).splitlines()
    assert max(map(len, lines)) <= 120
    assert sum("AlexNet" in line for line in lines) == panels * len(params.datasets)


def test_rows_without_cells_stay_out_of_a_panel() -> None:
    params = load(PARAMS_FILE, preset="authors")
    table = full_table(params)
    (_, few), (_, many) = table.panels(3)
    assert len(table.rows) == 18
    assert len(few) == 15
    assert [(row.dataset, row.backbone) for row in many][:2] == [("CIFAR-10", "VGG"), ("CIFAR-100", "VGG")]
    assert "Empty: not in the grid." in table.remarks


def test_values_of_a_plug_in_stand_beside_their_own_difference() -> None:
    params = small_grid(shots=[3])
    cells = [Cell("neu", "alexnet", 3, method, seed) for method in ("classical", "fdl", "mine") for seed in (0, 1)]
    values = dict(zip(cells, (0.4, 0.44, 0.45, 0.47, 0.3, 0.32), strict=True))
    collected = Collected(
        [CellState(cell, "done", "settings") for cell in cells],
        {"neu": DatasetFacts("NEU", False, "local", (), ("a", "b"))},
    )
    table = results_table(results_in_memory(params, collected, values), "soft", "accuracy")
    assert [column.heading for column in table.columns] == ["classical", "FDL", "Δ", "mine", "Δ"]
    assert texts(table)[-2:] == ["31.0 ± 1.4", "−11.0"]


if __name__ == "__main__":
    for ending, write in FORMATS.items():
        (GOLDEN / f"accuracy.{ending}").write_text(write(small_table()))
