"""The whole pipeline on a tiny project, run as a user runs it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from fdl.reporting.targets import entries, targets
from fdl.results.state import Judge
from tests.projects import ROOT, tiny, write_images, write_params

SNAKEMAKE = (sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--cores", "2")
BIN = Path(sys.executable).parent


def snakemake(*arguments, **variables):
    """Run Snakemake in the working directory; what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run([*SNAKEMAKE, *arguments], env=environment, capture_output=True, text=True)


def done(*arguments, **variables):
    """The same, and it must succeed."""
    result = snakemake(*arguments, **variables)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def records():
    """When each cell's record was put in place."""
    return {str(path.parent): path.stat().st_mtime_ns for path in Path("results").rglob("seed*/run.json")}


def runs():
    """Rows of runs.csv."""
    with Path("reports/demo/runs.csv").open() as file:
        return list(csv.DictReader(file))


def test_from_images_to_the_table(project):
    write_images()
    write_params(project / "params.yaml", seeds=[0])
    printed = done()
    steps = [line for line in printed.splitlines() if " steps done: " in line]
    assert len(steps) == 7  # one line each, and nothing else of a step; the log has it all
    assert re.fullmatch(r"3 of 7 steps done: run dataset=bsd backbone=alexnet shots=3 \(\d+ s\)", steps[2])
    assert "jobid" not in printed
    assert "output: reports/demo/tables/accuracy.csv" in next(Path(".snakemake/log").iterdir()).read_text()
    first = records()
    assert len(first) == 2
    rows = runs()
    assert {(row["method"], row["seed"]) for row in rows} == {("classical", "0"), ("fdl", "0")}
    assert all(0 <= float(row["value"]) <= 1 for row in rows if row["metric"] == "accuracy")
    assert {row["combiner"] for row in rows} >= {
        "member0",
        "member1",
        "mean",
        "best",
        "hard",
        "hard-probability",
        "soft",
        "ensemble",
    }
    for name in ("index.html", "costs.csv", "tables/accuracy.tex", "figures/accuracy_over_shots.png"):
        assert (Path("reports/demo") / name).stat().st_size > 0
    assert Path("mlflow.db").exists()
    assert set(json.loads(Path("reports/demo/tracked.json").read_text())) == {
        f"bsd/alexnet/3shot/{method}/seed0" for method in ("classical", "fdl")
    }

    assert "Nothing to be done" in done()

    # Snakemake's own report holds each table and figure that the rules mark, with its title and caption.
    done("--report", "report.zip")
    with ZipFile("report.zip") as packed:
        page = packed.read("report/report.html").decode()
        held = {Path(name).name for name in packed.namelist()}
    for target in targets(tiny(seeds=[0])):
        assert Path(target.path(tiny(seeds=[0]), "html" if target.kind == "table" else "png")).name in held
        assert json.dumps(target.title) in page
        caption = re.split("[`.<]", entries()[target.maker].shows)[0]  # up to what is markup in a page
        assert len(caption) > 10
        assert json.dumps(caption)[1:-1] in page

    # A new seed: its cells, and no other.
    write_params(project / "params.yaml", seeds=[0, 1])
    done()
    second = records()
    assert len(second) == 4
    assert {name: second[name] for name in first} == first

    # What decides no number trains nothing.
    write_params(project / "params.yaml", seeds=[0, 1], threads=2)
    assert "Nothing to be done" in done()

    # What was deleted is made again, and nothing else.
    deleted = Path("results/demo/bsd/alexnet/3shot/fdl/seed1")
    shutil.rmtree(deleted)
    shutil.rmtree("data/prepared")
    done()
    assert Path("data/prepared/local/bsd-32/dataset.json").exists()
    third = records()
    assert third.keys() == second.keys()
    assert {name for name in second if second[name] != third[name]} == {str(deleted)}
    second = third

    # A method less: nothing is trained, and its rows are gone.
    write_params(project / "params.yaml", seeds=[0, 1], methods=["classical"])
    done()
    assert records() == second
    assert {row["method"] for row in runs()} == {"classical"}

    # DVC finds Snakemake's work done and trains nothing, and then finds its own.
    shutil.copytree(ROOT / "fdl", "fdl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "workflow", "workflow")
    shutil.copy(ROOT / "dvc.yaml", ".")
    shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    shutil.copy(ROOT / ".dvcignore", ".")
    subprocess.run(["git", "init", "--quiet"], check=True)
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    for expected in ("Running stage 'report'", "Data and pipelines are up to date"):
        dvc = subprocess.run(["dvc", "repro"], env=environment, capture_output=True, text=True)
        assert dvc.returncode == 0, dvc.stdout + dvc.stderr
        assert expected in dvc.stdout
    assert records() == second


def test_a_failing_bundle_costs_no_finished_one_and_is_named(project):
    write_images()
    write_params(project / "params.yaml", shots=[3, 6], seeds=[0])
    done("data")
    draw = Path("data/splits/local/bsd-32/6shot/draw0.json")
    good = draw.read_bytes()
    draw.write_bytes(good.replace(b'"rule": "first"', b'"rule": "worst"'))
    failed = snakemake()
    assert failed.returncode == 1
    assert f"{draw}: damaged (its hash does not fit its content)" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr
    assert "    output: " not in failed.stdout + failed.stderr
    assert "1 of 6 steps done: run dataset=bsd backbone=alexnet shots=3 (" in failed.stdout + failed.stderr
    first = records()
    assert [name.split("/")[4] for name in sorted(first)] == ["3shot", "3shot"]
    draw.write_bytes(good)
    done()
    second = records()
    assert len(second) == 4
    assert {name: second[name] for name in first} == first


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": 3}, "fdl: params.yaml: unknown key 'epoch'; did you mean 'epochs'?"),
        ({"datasets": ["neu; rm -rf /"]}, "fdl: params.yaml: datasets.0: 'neu; rm -rf /' is not allowed"),
    ],
)
def test_wrong_settings_stop_snakemake_with_one_line_and_exit_code_2(project, overrides, message):
    write_params(project / "params.yaml", **overrides)
    result = snakemake()
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_snakemake_reads_settings_as_every_verb_does(project):
    """It reads YAML 1.1 itself, takes the last of two equal keys, and lists on its command line for text."""
    path = write_params(project / "params.yaml")
    given = ("seeds=[0,1]", "keep_weights=true", "epochs=null", "learning_rate=1e-3", "data_dir=007")
    asked = done("--dry-run", "--config", *given)
    assert [draw in asked for draw in ("draw0.json", "draw1.json", "draw2.json")] == [True, True, False]
    result = snakemake("--dry-run", "--config", "keep_weights=on")
    assert "fdl: --config keep_weights=on: keep_weights: 'on' is not allowed" in result.stderr
    path.write_text(path.read_text() + "\noverrides: {epochs: 5}\n")
    result = snakemake("--dry-run")
    assert result.returncode == 2
    assert "fdl: params.yaml: 'overrides' appears twice, on lines" in result.stderr


def test_another_workflow_that_takes_this_one_as_a_module_has_the_same_settings(project):
    """As `config/README.md` says."""
    path = write_params(project / "params.yaml")
    Path("workflow").mkdir()
    Path("workflow/Snakefile").write_text(
        'configfile: "params.yaml"\n\nmodule fdl:\n'
        f'    snakefile: "{ROOT}/workflow/Snakefile"\n    config: config\n\nuse rule * from fdl\n'
    )

    def dry_run(*arguments):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    asked = dry_run("--config", "seeds=[3]")
    assert asked.returncode == 0, asked.stderr
    assert "draw3.json" in asked.stdout + asked.stderr
    assert "draw0.json" not in asked.stdout + asked.stderr
    path.write_text(path.read_text() + "\noverrides: {epochs: 5}\n")
    assert "fdl: params.yaml: 'overrides' appears twice, on lines" in dry_run().stderr


def test_a_missing_data_folder_is_named(project):
    write_params(project / "params.yaml")
    result = snakemake()
    assert result.returncode == 1
    assert "fdl: images/bsd: no such folder; put the images of bsd there" in result.stdout + result.stderr


def test_gpu_jobs_are_limited_to_the_slots(project):
    """Snakemake ignores `gpu=1` locally unless there is a limit, which nothing documents."""
    write_images()
    write_params(project / "params.yaml", device="auto")
    result = snakemake("runs", FDL_GPU_SLOTS="0,0")
    output = result.stdout + result.stderr
    assert re.search(r'Provided resources: gpu=(Resource\("gpu", )?2\b', output)  # as Snakemake's version prints it
    if result.returncode:  # a machine without a GPU
        assert "fdl: device: CUDA does not start" in output
    assert "gpu=1" in done("--dry-run", FDL_GPU_SLOTS="0,0")
    assert "gpu=0" in done("--dry-run", FDL_GPU_SLOTS="")


def tree():
    """Bytes of all that the project has made, and when it was written."""
    files = [path for top in ("results", "reports", "data") for path in Path(top).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_looking_changes_nothing_and_what_is_not_current_is_made_again(project):
    write_images()
    write_params(project / "params.yaml")
    done("runs")
    before, first = tree(), records()
    for look in (["--dry-run"], ["--summary", "runs"], ["--dry-run", "--config", "epochs=7"]):
        snakemake(*look)
        assert tree() == before, look
    assert "Nothing to be done" in done("runs")

    # A record deleted, one cut, one changed without a change of size, one left alone; and Snakemake believes
    # that all is new.
    bundle = Path("results/demo/bsd/alexnet/3shot")
    deleted, cut, changed, kept = (
        bundle / name for name in ("fdl/seed0", "fdl/seed1", "classical/seed0", "classical/seed1")
    )
    shutil.rmtree(deleted)
    (cut / "cam.npz").write_bytes((cut / "cam.npz").read_bytes()[:-1])
    content = (changed / "correct.npz").read_bytes()
    (changed / "correct.npz").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done("--touch", "runs")
    done("runs")
    second = records()
    assert second.keys() == first.keys()
    assert {name for name in first if first[name] == second[name]} == {str(kept)}
    assert [state.status for state in Judge(tiny()).states()] == ["done"] * 4
    assert "Nothing to be done" in done("runs")

    # Other settings without Snakemake's own memory; then the folder of a whole bundle deleted.
    shutil.rmtree(".snakemake")
    write_params(project / "params.yaml", epochs=1)
    done("runs")
    assert [state.status for state in Judge(tiny(epochs=1)).states()] == ["done"] * 4
    shutil.rmtree(bundle)
    assert "to train a cell again delete its folder" in done("--forceall", "runs")
    assert records().keys() == first.keys()


def test_experiments_in_a_folder_that_dvc_deletes_are_refused(project, monkeypatch):
    write_images()
    write_params(project / "params.yaml", seeds=[0])
    folder = project / ".dvc/tmp/exps/tmp1"
    folder.mkdir(parents=True)
    shutil.copy(project / "params.yaml", folder)
    monkeypatch.chdir(folder)
    result = snakemake("runs")
    assert result.returncode == 2
    assert "DVC deletes afterwards" in result.stderr
