"""The LaTeX tables go through a compiler: `make test-latex`."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fdl.reporting.report import write_report
from fdl.results.collect import collect
from tests.reporting.fabricate import fabricate, small_grid

PDFLATEX = shutil.which("pdflatex")
pytestmark = pytest.mark.skipif(
    PDFLATEX is None, reason="needs pdflatex; on Debian: apt-get install texlive-latex-recommended"
)
# Every character that LaTeX reads as its own, and those that pdfLaTeX has no glyph for.
NASTY = r"100 % of A&B_c, $5 #1 {x} ^~ \input{/etc/passwd} ± − ≤ × Δ – † ä É 漢"
DOCUMENT = r"""\documentclass{article}
\usepackage[a4paper,landscape,margin=1.5cm]{geometry}
\usepackage{array,booktabs,longtable,textcomp}
\begin{document}
%s
\end{document}
"""


def compile_tables(folder: Path) -> str:
    """Compile all tables of a report in one document; the compiler's log."""
    tables = sorted((folder / "tables").glob("*.tex"))
    assert len(tables) > 5
    text = DOCUMENT % "\n".join(rf"\input{{tables/{table.name}}}\clearpage" for table in tables)
    (folder / "all.tex").write_text(text, encoding="ascii")
    command = [PDFLATEX or "", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    log = (folder / "all.log").read_text(errors="replace")
    assert done.returncode == 0, done.stdout[-1500:]
    assert (folder / "all.pdf").stat().st_size > 10_000
    return log


def test_every_table_compiles(project: Path) -> None:
    params = small_grid()
    fabricate(params, failed={"neu/alexnet/5shot/fdl/seed1"}, notes=[NASTY])
    collect(params)
    write_report(params)
    log = compile_tables(project / "reports" / "demo")
    assert "Missing character" not in log
    assert "undefined" not in log.replace("There were undefined references", "")
