"""docs/adding.md: its blocks, put where the page says, add one of everything to a whole run.

Each is one module, or a function and its entry in one file, and is then found in the tables, on the page, in
`runs.csv`, in MLflow and in the documentation.
"""

import csv
import html
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.projects import ROOT, TINY, write_images

ONE_BUNDLE = {"datasets": ["bricks"], "backbones": ["plain"], "seeds": [0], "heads": ["blend"]}
PAGE = (ROOT / "docs/adding.md").read_text()


def block(begins: str) -> str:
    """The page's one block that begins so, with its last line's end."""
    (found,) = (text for text in re.findall(r"```\w+\n(.*?)```", PAGE, flags=re.DOTALL) if text.startswith(begins))
    return str(found)


def insert(path: Path, text: str, *, after: str = "", before: str = "") -> None:
    """Put text below, or above, the one place of a file that reads so."""
    content = path.read_text()
    assert content.count(after or before) == 1, after or before
    path.write_text(content.replace(after or before, after + text + before))


def add_method(folder: Path) -> None:
    (folder / "apart.py").write_text(block('"""Bright places'))  # of the project
    registry = folder / "fdl/methods/registry.py"  # of the package
    insert(registry, block("def agree") + "\n\n", before="@dataclass(frozen=True)\nclass Entry:")
    insert(registry, block('    "agree"'), after="ENTRIES = {\n")


def add_dataset(folder: Path) -> None:
    """From a local folder, some of whose classes are called otherwise there; with a backbone of its own."""
    protocol = folder / "fdl/core/protocol.py"
    bricks = block('    "bricks": DatasetProtocol')
    alexnet = '            "alexnet": BackboneProtocol("alexnet", 1e-4, (0.5, 0.05), 1e-3, False),\n'
    assert alexnet in bricks
    bricks = bricks.replace(alexnet, alexnet + block('            "plain": BackboneProtocol'))
    insert(protocol, bricks, after="DATASETS: dict[str, DatasetProtocol] = {\n")
    write_images(folder / "images/bricks")
    for pool in (folder / "images/bricks").iterdir():
        (pool / "pitting").rename(pool / "cracked")
        (pool / "no pitting").rename(pool / "sound")
    (folder / "fdl/models/plain.py").write_text(block('"""A small convolutional'))
    insert(protocol, block('    "plain": "Plain"'), after="BACKBONES = {  # with their printed names\n")


def add_metric(folder: Path) -> None:
    metrics = folder / "fdl/evaluation/metrics.py"
    insert(metrics, block("def kappa") + "\n\n", before="METRICS: dict[str, Metric] = {")
    insert(metrics, block('    "kappa": Metric'), after="METRICS: dict[str, Metric] = {  # in the order of tables\n")


def add_combiner(folder: Path) -> None:
    voting = folder / "fdl/evaluation/voting.py"
    insert(voting, block("def most_certain") + "\n\n", before="COMBINERS: dict[str, Combiner] = {")
    insert(
        voting, block('    "certain": Combiner'), after="COMBINERS: dict[str, Combiner] = {  # in the order of tables\n"
    )


def add_head(folder: Path) -> None:
    protocol = folder / "fdl/core/protocol.py"
    stacking = '    "stacking": HeadProtocol("stacking", "probabilities", units=128, learning_rate=1e-3),\n'
    insert(protocol, block('    "blend": HeadProtocol'), after=stacking)


def add_table_and_figure(folder: Path) -> None:
    (folder / "fdl/reporting/extreme_tables.py").write_text(block('"""The worst and'))
    (folder / "fdl/reporting/member_figures.py").write_text(block('"""Accuracy of every'))


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    for name in ("FDL_DATA_DIR", "FDL_GPU_SLOTS", "FDL_MIRROR", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with one of each added, after a whole run of its workflow."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("fdl", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    for name in ("environment.yml", "docs/report.md"):
        shutil.copy(ROOT / name, folder / name)
    for add in (add_method, add_dataset, add_metric, add_combiner, add_head, add_table_and_figure):
        add(folder)
    asked = yaml.safe_load(block("overrides:"))["overrides"]
    asked["methods"].append("agree")
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["overrides"] = TINY | ONE_BUNDLE | asked
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    makefile = (ROOT / "Makefile").read_text()
    (schema,) = re.findall(r"^\tpython -c (.* > workflow/schemas/params\.schema\.json)$", makefile, flags=re.MULTILINE)
    run(folder, "bash", "-c", f"python -c {schema}")
    run(folder, "python", "-m", "fdl.reporting.documentation", "docs/report.md")
    run(folder, "snakemake", "--cores", "2")
    return folder


@pytest.fixture(scope="module")
def rows(project: Path) -> list[dict[str, str]]:
    """Of runs.csv."""
    with (project / "reports/demo/runs.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def page(project: Path) -> str:
    return html.unescape((project / "reports/demo/index.html").read_text())


@pytest.fixture(scope="module")
def listed(project: Path) -> str:
    """docs/report.md as `make format` writes it."""
    return (project / "docs/report.md").read_text()


@pytest.fixture(scope="module")
def mlflow(project: Path) -> Iterator[sqlite3.Connection]:
    """The database of the runs."""
    connection = sqlite3.connect(project / "mlflow.db")
    yield connection
    connection.close()


def table(project: Path, name: str) -> str:
    return (project / f"reports/demo/tables/{name}.md").read_text()


def test_a_metric(project, rows, page, listed, mlflow) -> None:
    assert {"member0", "mean", "hard", "soft"} <= {row["combiner"] for row in rows if row["metric"] == "kappa"}
    assert "Cohen's kappa: agreement with the labels beyond that of chance." in table(project, "metrics")
    assert "Test Cohen's kappa in %, soft vote" in table(project, "kappa")
    assert 'id="table-kappa"' in page
    assert "| `kappa` | Cohen's kappa | agreement with the labels beyond that of chance | −1 to 1 | higher |" in listed
    assert mlflow.execute("SELECT count(*) FROM metrics WHERE key = 'test.soft.kappa'").fetchone() == (4,)


def test_a_value_that_the_metric_cannot_have_is_refused(project) -> None:
    code = "from fdl.results.measures import _checked\nfrom fdl.core.errors import InputError\n"
    code += "row = {'selection': 'last', 'split': 'test', 'combiner': 'certain', 'metric': 'kappa', 'value': %s}\n"
    code += "try: print(_checked(row)[2])\nexcept ValueError as error: print(error)"
    assert run(project, "python", "-c", code % 0.5) == "certain\n"
    assert run(project, "python", "-c", code % 1.5) == "last test certain kappa is 1.5\n"


def test_a_combiner(project, rows, page, listed, mlflow) -> None:
    assert {"accuracy", "f1_macro", "kappa"} <= {row["metric"] for row in rows if row["combiner"] == "certain"}
    assert "Most certain member" in table(project, "combiners")
    assert "most certain member of 2 members" in table(project, "accuracy_certain")
    assert 'id="table-accuracy_certain"' in page
    assert "| `certain` | most certain member |" in listed
    assert "`accuracy_certain`" in listed
    assert mlflow.execute("SELECT count(*) FROM metrics WHERE key = 'test.certain.accuracy'").fetchone() == (4,)
    views = mlflow.execute("SELECT value FROM experiment_tags WHERE key LIKE '%sharedViewState%'").fetchall()
    assert len(views) == 2
    assert all("certain.accuracy" in view for (view,) in views)


def test_a_head(project, rows, page, listed) -> None:
    assert {"accuracy", "nll", "kappa"} <= {row["metric"] for row in rows if row["combiner"] == "blend"}
    assert {row["combiner"] for row in rows} >= {"blend", "blend-tuned"}
    assert "Blending, tuned" in table(project, "combiners")
    assert "blending of 2 members" in table(project, "accuracy_blend")
    assert 'id="table-accuracy_blend_tuned"' in page
    assert "| `blend-tuned` | blending, tuned |" in listed


def test_a_table(project, page, listed) -> None:
    assert "the lowest and the highest over seeds" in table(project, "extremes")
    assert 'id="table-extremes"' in page
    assert "Worst and best seed" in page
    assert "| [`extremes`](#extremes) | Lowest and highest test accuracy" in listed
    assert "**Worst and best seed.** If the worst seed of one method is above" in listed
    assert "Lowest and highest" in (project / ".snakemake/fdl/captions/extremes.rst").read_text()


def test_a_figure(project, page, listed) -> None:
    assert (project / "reports/demo/figures/members.pdf").stat().st_size > 1000
    assert 'id="figure-members"' in page
    assert "mean over 4 finished cells" in page
    assert "| `members` | Test accuracy of every single member. | `figures/NAME.{png,pdf}` |" in listed
    assert "every single member" in (project / ".snakemake/fdl/captions/members.rst").read_text()


def test_a_method_of_the_project_and_one_of_the_package(project, rows, page, listed, mlflow) -> None:
    assert {row["method"] for row in rows} == {"classical", "fdl", "apart.descriptors", "agree"}
    for shown in ("apart.descriptors", "Agreement"):
        assert shown in table(project, "accuracy")
        assert shown in table(project, "ablation")
        assert shown in page
    assert "| `agree` | Agreement | Variance of the members' logits, averaged. |" in listed
    strengths = "SELECT value FROM params WHERE key = 'strength' ORDER BY value"
    assert [value for (value,) in mlflow.execute(strengths)] == ["0", "0", "0.1", "0.1"]


def test_a_dataset_and_a_backbone(project, rows, page, listed, mlflow) -> None:
    assert {(row["dataset"], row["backbone"]) for row in rows} == {("bricks", "plain")}
    assert "Bricks" in table(project, "accuracy")
    assert "Plain" in table(project, "accuracy")
    assert "CC BY 4.0: name the author." in page
    assert "| `bricks` | Bricks | 2 | 32 | CC BY 4.0 |" in listed
    assert "bricks" in run(project, "python", "-m", "fdl", "data", "list")
    assert mlflow.execute("SELECT count(*) FROM params WHERE key = 'dataset' AND value = 'bricks'").fetchone()[0] >= 4
