"""The LaTeX tables: what is split, aligned and marked; and all go through a compiler: `make test-latex`."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fdl.reporting.latex import LatexColumn, latex_table
from fdl.reporting.report import write_report
from fdl.results.collect import collect
from tests.reporting.fabricate import fabricate, small_grid

PDFLATEX = shutil.which("pdflatex")
# Every character that LaTeX reads as its own, and those that pdfLaTeX has no glyph for.
NASTY = r"100 % of A&B_c, $5 #1 {x} ^~ \input{/etc/passwd} ± − ≤ × Δ – † ä É 漢"
DOCUMENT = r"""\documentclass%s{article}
\usepackage[a4paper,margin=2.2cm]{geometry}
\usepackage{array,booktabs,siunitx,textcomp}
\begin{document}
%s
\end{document}
"""


def rows_of(text: str) -> list[str]:
    """The lines of all tabulars."""
    return [line for line in text.splitlines() if line.endswith(r"\\") and "&" in line]


def table(*columns: LatexColumn, rows: int) -> str:
    labels = [LatexColumn("Dataset", ["NEU", *["BSD"] * (rows - 1)])]
    return latex_table("t", "A caption.", labels, columns, ["[1] a note"])


def test_numbers_are_aligned_with_room_for_the_widest() -> None:
    column = LatexColumn("Accuracy", ["4.2 ± 1.3", "41.2 ± 10.3 (n=2)†", "–"], number=True, bold=frozenset({0}))
    text = table(column, rows=3)
    after = r"{\normalfont\,(n=2)\textsuperscript{\textdagger}}"
    assert rf"{{lS[table-format=2.1(3),table-space-text-post={{{after}}}]}}" in text
    assert rows_of(text)[1:] == [
        r"NEU & \bfseries 4.2 \pm 1.3 \\",
        rf"BSD & 41.2 \pm 10.3{after} \\",
        r" & {--} \\",
    ]


def test_an_interval_that_excludes_0_has_a_star_and_the_star_a_note() -> None:
    gains = ["+1.2 [−0.3, +2.7]", "−3.4 [−5.7, −1.1]", "–", "+6.0 (n=1)"]
    text = table(LatexColumn("Δ", gains, number=True), rows=4)
    assert [line.partition(" & ")[2] for line in rows_of(text)[1:]] == [
        r"+1.2 & {[}-0.3{,} & +2.7{]} \\",
        r"-3.4 & {[}-5.7{,} & -1.1{]*} \\",
        r"\multicolumn{3}{c}{--} \\",
        r"+6.0 & {} & {\normalfont\,(n=1)} \\",
    ]
    assert r"*: the 95 \% interval excludes 0." in text
    assert "excludes 0" not in table(LatexColumn("Δ", gains[:1], number=True), rows=1)


def test_what_is_no_number_is_not_aligned() -> None:
    text = table(LatexColumn("Seeds", ["4 of 5", "5 of 5"], number=True), rows=2)
    assert r"\begin{tabular}{lr}" in text


def test_columns_that_do_not_fit_are_continued_below_with_their_labels() -> None:
    groups = [LatexColumn(name, ["41.2 ± 1.3"], number=True, group=shots) for shots in "abcdefg" for name in ("x", "y")]
    text = table(*groups, rows=1)
    assert text.count(r"\begin{table*}") == 1
    assert text.count(r"\begin{tabular}") == 2
    heads = [line for line in text.splitlines() if r"\multicolumn{2}{c}" in line]
    assert [line.count("multicolumn") for line in heads] == [4, 3]  # groups stay whole, the parts are about equal
    assert text.count("Dataset") == 2


def test_rows_that_do_not_fit_on_a_page_go_into_another_float() -> None:
    text = table(LatexColumn("Accuracy", ["41.2"] * 130, number=True), rows=130)
    floats = text.split(r"\begin{table*}")[1:]
    assert [len(rows_of(one)) - 1 for one in floats] == [44, 44, 42]
    assert text.count(r"\label{tab:t}") == 1
    assert [r"\caption{(continued) BSD.}" in one for one in floats] == [False, True, True]
    assert r"\caption{A caption. NEU, BSD.\label{tab:t}}" in floats[0]
    assert [r"\textsuperscript{1} a note" in one for one in floats] == [False, False, True]


def test_a_long_table_is_split_between_datasets() -> None:
    names = ["NEU [1]"] * 30 + ["BSD [1] [2]"] * 20 + ["TEX"] * 40
    accuracy = LatexColumn("Accuracy", ["41.2"] * 90, number=True)
    text = latex_table("t", "A caption.", [LatexColumn("Dataset", names)], [accuracy], ["[1] a note"])
    floats = text.split(r"\begin{table*}")[1:]
    assert [len(rows_of(one)) - 1 for one in floats] == [50, 40]
    assert r"\caption{A caption. NEU, BSD.\label{tab:t}}" in floats[0]
    assert r"\caption{(continued) TEX.}" in floats[1]
    short = latex_table("t", "A caption.", [LatexColumn("Dataset", names[:3])], [accuracy], [])
    assert r"\caption{A caption.\label{tab:t}}" in short


def compile_tables(folder: Path, *, columns: str) -> str:
    """Compile all tables of a report in one document; the compiler's log."""
    tables = sorted((folder / "tables").glob("*.tex"))
    assert len(tables) > 5
    text = DOCUMENT % (columns, "\n".join(rf"\input{{tables/{table.name}}}\clearpage" for table in tables))
    (folder / "all.tex").write_text(text, encoding="ascii")
    command = [PDFLATEX or "", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    log = (folder / "all.log").read_text(errors="replace")
    assert done.returncode == 0, done.stdout[-1500:]
    assert (folder / "all.pdf").stat().st_size > 10_000
    return log


def siunitx() -> bool:
    """Whether LaTeX is there, and the package that aligns numbers."""
    found = shutil.which("kpsewhich")
    return bool(PDFLATEX and found) and not subprocess.run([found or "", "siunitx.sty"], capture_output=True).returncode


@pytest.mark.skipif(not siunitx(), reason="on Debian: apt-get install texlive-latex-recommended texlive-science")
@pytest.mark.parametrize("columns", ["", "[twocolumn]"])
def test_every_table_compiles_and_stays_on_its_page(project: Path, columns: str) -> None:
    grid = {"datasets": ["cifar10", "cifar100", "miniimagenet", "neu", "bsd"], "backbones": ["alexnet", "vgg"]}
    params = small_grid(**grid, shots=[3, 5, 10, 20, 50, 100], seeds=[0, 1, 2])
    fabricate(params, failed={"neu/alexnet/5shot/fdl/seed1"}, notes=[NASTY])
    collect(params)
    write_report(params)
    log = compile_tables(project / "reports" / "demo", columns=columns)
    assert "Missing character" not in log
    assert "undefined" not in log.replace("There were undefined references", "")
    assert re.findall(r"Overfull \\hbox.*|Float too large.*", log) == []
