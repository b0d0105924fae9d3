"""The workflow on a real Slurm of one node, with the profile that docs/cluster.md describes: `make test-slurm`."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import ROOT, wait_for, write_params
from tests.slurm.cluster import cluster, jobs, why_not

pytestmark = pytest.mark.skipif("FDL_TEST_SLURM" not in os.environ, reason="`make test-slurm` starts a Slurm here")

SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile")]
# Of this cluster: no accounting, so that only squeue can tell of jobs; no network file system to wait for.
THIS_CLUSTER = ["--profile", str(ROOT / "workflow/profiles/slurm"), "--slurm-no-account"]
THIS_CLUSTER += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"]
THIS_CLUSTER += ["--latency-wait", "10", "--default-resources", "mem_mb=2000", "runtime=10"]

EPOCHS = 8_000  # of 10 ms: more than the minute that a job gets


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A running cluster."""
    if reason := why_not():
        pytest.fail(reason)
    with cluster(tmp_path_factory.mktemp("slurm")):
        yield


def settings(**overrides: object) -> None:
    write_params(Path("params.yaml"), **{"source": "synthetic", "data_dir": None} | overrides)


def done(folder: Path, *arguments: str) -> str:
    """Run Snakemake in a folder; it must succeed: what it printed."""
    result = subprocess.run([*SNAKEMAKE, *arguments], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def undisturbed(project: Path, target: str) -> Path:
    """The same settings run on this machine, without Slurm."""
    folder = project / "undisturbed"
    folder.mkdir()
    (folder / "params.yaml").write_bytes((project / "params.yaml").read_bytes())
    done(folder, "--cores", "2", "--", target)
    return folder


def test_a_grid_through_slurm_has_the_numbers_of_a_run_without_it(project: Path) -> None:
    settings(datasets=["bsd", "neu"], shots=[3, 5, 10], seeds=[0])
    before = set(jobs())
    done(project, *THIS_CLUSTER)
    new = {number: fields for number, fields in jobs().items() if number not in before}
    assert {fields["JobState"] for fields in new.values()} == {"COMPLETED"}
    # A GPU for each of the six bundles, asked for on a machine without one, and none for the other jobs.
    with_gpu = [fields for fields in new.values() if fields.get("TresPerJob") == "gres:gpu:1"]
    assert len(with_gpu) == 6
    assert {fields["TimeLimit"] for fields in with_gpu} == {"04:00:00"}
    assert len(new) == 9  # two datasets are prepared, one report is made; the rest is not worth a job
    runs = Path("reports/demo/runs.csv")
    assert (undisturbed(project, "all") / runs).read_bytes() == runs.read_bytes()
    assert "Nothing to be done" in done(project, *THIS_CLUSTER)


def test_a_cancelled_job_and_one_out_of_time_are_continued_by_the_next(project: Path) -> None:
    settings(datasets=["bsd"], methods=["fdl"], seeds=[0], epochs=EPOCHS)
    log = Path("logs/run/demo/bsd/alexnet/3shot.log")
    logs: list[str] = []
    before = set(jobs())
    command = [*SNAKEMAKE, *THIS_CLUSTER, "--set-resources", "run:runtime=1", "run:gpu=1"]
    command += ["--retries", "30", "--", "runs"]  # a busy machine needs many minutes for them
    with Path("snakemake.out").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: log.exists() and "epoch" in log.read_text(), seconds=240)
            training = [number for number in jobs() if number not in before and jobs()[number]["JobState"] == "RUNNING"]
            subprocess.run(["scancel", *map(str, training)], check=True)
            while process.poll() is None:
                text = log.read_text() if log.exists() else ""
                if text and (not logs or not text.startswith(logs[-1])):
                    logs.append(text)
                elif text:
                    logs[-1] = text
                time.sleep(0.5)
        finally:
            process.terminate()
            process.wait()
    assert process.returncode == 0, Path("snakemake.out").read_text()
    new = [fields for number, fields in sorted(jobs().items()) if number not in before and "TresPerJob" in fields]
    states = [fields["JobState"] for fields in new]
    assert states[0] == "CANCELLED"
    assert "TIMEOUT" in states[1:-1]
    assert states[-1] == "COMPLETED"
    # Read while they were written, so one of them may have been missed; none may have begun anew.
    epochs = [int(found[1]) for text in logs if (found := re.search(r"going on after epoch (\d+)", text))]
    assert len(epochs) >= 2
    assert epochs == sorted(set(epochs))
    record = Path("results/demo/bsd/alexnet/3shot/fdl/seed0")
    other = undisturbed(project, "runs") / record
    for name in ("metrics.json", "correct.npz"):
        assert (other / name).read_bytes() == (record / name).read_bytes()
