"""docs/adding.md: its blocks, put where the page says, add a method, a dataset and a figure to a whole run."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.projects import ROOT, TINY, write_images

PAGE = (ROOT / "docs/adding.md").read_text()


def block(begins: str) -> str:
    """The page's one block that begins so, with its last line's end."""
    (found,) = (text for text in re.findall(r"```\w+\n(.*?)```", PAGE, flags=re.DOTALL) if text.startswith(begins))
    return str(found)


def insert(path: str, text: str, *, after: str) -> None:
    """Put text below the one line of a file."""
    content = Path(path).read_text()
    assert content.count(after) == 1, after
    Path(path).write_text(content.replace(after, after + text))


def run(*command: str) -> str:
    environment = os.environ | {"PYTHONPATH": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pages_blocks_go_all_the_way_to_the_report(project: Path) -> None:
    for name in ("fdl", "workflow"):
        shutil.copytree(ROOT / name, name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "environment.yml", ".")

    # A method, with the page's settings.
    Path("apart.py").write_text(block('"""Bright places'))
    asked = yaml.safe_load(block("overrides:"))["overrides"]
    # A dataset, from a local folder, some of whose classes are called otherwise there.
    protocol, sources = "fdl/core/protocol.py", "fdl/data/sources.py"
    insert(protocol, block('    "bricks": DatasetProtocol'), after="DATASETS: dict[str, DatasetProtocol] = {\n")
    insert(sources, block('    "bricks": Entry'), after="SOURCES: dict[str, Entry] = {\n")
    write_images(Path("images/bricks"))
    for pool in Path("images/bricks").iterdir():
        (pool / "pitting").rename(pool / "cracked")
        (pool / "no pitting").rename(pool / "sound")
    # A figure.
    Path("fdl/reporting/member_figures.py").write_text(block('"""Accuracy of every'))
    insert("fdl/reporting/targets.py", block('        "members": "Members"'), after="    whole = {\n")
    insert("fdl/reporting/makers.py", "    member_figures,\n", after="    listings,\n")
    figures = '_FIGURES: "dict[str, Callable[..., tuple[Drawn, str]]]" = {\n'
    insert("fdl/reporting/makers.py", block('    "members": _whole'), after=figures)

    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["overrides"] = TINY | {"datasets": ["bricks"], "seeds": [0]} | asked
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    run("bash", "-c", block("python -c"))
    run("snakemake", "--cores", "2")

    with Path("reports/demo/runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["dataset"] for row in rows} == {"bricks"}
    assert {row["method"] for row in rows} == {"classical", "fdl", "apart.descriptors"}
    page = Path("reports/demo/index.html").read_text()
    for shown in ("Bricks", "apart.descriptors", "Members", "mean over 3 finished cells"):
        assert shown in page
    assert Path("reports/demo/figures/members.pdf").stat().st_size > 1000
    assert "CC BY 4.0: name the author." in page
    assert "bricks" in run("python", "-m", "fdl", "data", "list")
