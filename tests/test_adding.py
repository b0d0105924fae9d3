"""docs/adding.md: its blocks, put where the page says, add one of everything to a whole run."""

import csv
import html
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


def name_in(line_begins: str, name: str, path: str, *, before: str) -> None:
    """Add a name to the one line of a file that begins so, before another that stands there."""
    content = Path(path).read_text()
    (line,) = (line for line in content.splitlines() if line.startswith(line_begins))
    assert line.count(before) == 1, line
    Path(path).write_text(content.replace(line, line.replace(before, name + before)))


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
    # A backbone, on that dataset.
    models, names = "fdl/models/__init__.py", "fdl/core/titles.py"
    Path("fdl/models/plain.py").write_text(block('"""A small convolutional'))
    name_in("from fdl.models import", "plain, ", models, before="resnet")
    vgg = "        net = Member(vgg.features(blocks), vgg.head(filters * size**2, hidden, num_classes, dropout))\n"
    insert(models, block('    elif variant == "plain"'), after=vgg)
    insert(models, block('        "plain": (layers'), after="    dense = {\n")
    name_in("BACKBONES = ", '"plain", ', protocol, before='"alexnet"')
    name_in("_BACKBONES = ", "plain|", "fdl/core/grid.py", before="alexnet")
    name_in("_BACKBONES = ", '"plain": "Plain", ', names, before='"alexnet"')
    alexnet = '            "alexnet": BackboneProtocol("alexnet", 1e-4, (0.5, 0.05), 1e-3, False),\n'
    bricks = block('    "bricks": DatasetProtocol')
    assert Path(protocol).read_text().count(bricks) == 1
    bricks_with_plain = bricks.replace(alexnet, alexnet + block('            "plain": BackboneProtocol'))
    Path(protocol).write_text(Path(protocol).read_text().replace(bricks, bricks_with_plain))
    # A metric with its table.
    metrics, measures, targets = "fdl/evaluation/metrics.py", "fdl/results/measures.py", "fdl/reporting/targets.py"
    insert(metrics, block("def kappa") + "\n\n", after="ECE_BINS = 15\n\n\n")
    insert(metrics, block('    "kappa": kappa'), after='METRICS = {\n    "accuracy": accuracy,\n')
    insert(measures, block('    "kappa": (-1.0'), after="RANGES: dict[str, tuple[float, float]] = {\n")
    insert(targets, block("    tables.append"), after='titles[metric], ("soft", metric)) for metric in metrics]\n')
    # A combiner.
    voting = Path("fdl/evaluation/voting.py")
    parts = [voting.read_text(), block("def most_certain"), block('VOTES["certain"]')]
    voting.write_text("\n\n".join(parts))
    name_in("_COMBINER = ", "certain|", measures, before="soft|")
    insert(names, block('    "certain":'), after='    "soft": "soft vote",\n')
    # A table.
    Path("fdl/reporting/extreme_tables.py").write_text(block('"""The worst and'))
    insert(targets, block('        "extremes": "Worst'), after="    others = {\n")
    insert("fdl/reporting/makers.py", "    extreme_tables,\n", after="    cost_tables,\n")
    insert("fdl/reporting/makers.py", block('    "extremes": extreme_tables'), after="[Results], Listing]] = {\n")
    Path("workflow/report/extremes.rst").write_text("The worst and the best seed.\n")
    # A figure.
    Path("fdl/reporting/member_figures.py").write_text(block('"""Accuracy of every'))
    insert(targets, block('        "members": "Members"'), after="    whole = {\n")
    insert("fdl/reporting/makers.py", "    member_figures,\n", after="    listings,\n")
    figures = '_FIGURES: "dict[str, Callable[..., tuple[Drawn, str]]]" = {\n'
    insert("fdl/reporting/makers.py", block('    "members": _whole'), after=figures)

    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["overrides"] = TINY | {"datasets": ["bricks"], "backbones": ["plain"], "seeds": [0]} | asked
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    run("bash", "-c", block("python -c"))
    run("snakemake", "--cores", "2")

    with Path("reports/demo/runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["dataset"] for row in rows} == {"bricks"}
    assert {row["method"] for row in rows} == {"classical", "fdl", "apart.descriptors"}
    page = html.unescape(Path("reports/demo/index.html").read_text())
    assert {row["backbone"] for row in rows} == {"plain"}
    assert {"certain", "soft"} <= {row["combiner"] for row in rows if row["metric"] == "kappa"}
    added = ("Cohen's kappa", "Most certain member", "Worst and best seed", "Plain")
    for shown in ("Bricks", "apart.descriptors", "Members", "mean over 3 finished cells", *added):
        assert shown in page
    assert Path("reports/demo/figures/members.pdf").stat().st_size > 1000
    assert "CC BY 4.0: name the author." in page
    assert "bricks" in run("python", "-m", "fdl", "data", "list")
