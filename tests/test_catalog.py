"""What the Snakemake workflow catalog asks for, and the module that its users deploy."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from tests.projects import ROOT, write_images, write_params


def test_the_catalog_finds_what_it_asks_for():
    catalog = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert catalog["usage"] == {"software-stack-deployment": {"conda": True}, "report": True}
    assert (ROOT / "workflow/Snakefile").is_file()
    assert (ROOT / "config/README.md").is_file()
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme


def test_the_module_that_the_settings_page_shows_runs_the_workflow(project):
    """The page's own lines, with the path of this clone in place of the address."""
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "config/README.md").read_text(), flags=re.DOTALL)
    Path("workflow").mkdir()
    snakefile, changes = re.subn(r"github\(.*\)", repr(str(ROOT / "workflow/Snakefile")), shown)
    assert changes == 1
    Path("workflow/Snakefile").write_text(snakefile)
    write_images()
    write_params(project / "params.yaml", seeds=[0])
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--", "data"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path("data/splits/local/bsd-32/3shot/draw0.json").exists()
