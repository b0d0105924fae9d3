"""Kills every stage at moments chosen by a seed, and looks what one plain run makes of the rest: `make soak`.

A round is a fresh project in which processes are killed one after another; then Snakemake runs to the end, and
`runs.csv` must be that of a project that nothing disturbed.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.projects import ROOT, write_params

SNAKEMAKE = (sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--cores", "2")
FDL = (sys.executable, "-m", "fdl")
# What is killed, and within which part of the time that an undisturbed Snakemake takes, since machines differ;
# `whole` with all that it started, as by a power cut.
VICTIMS = {
    "snakemake": (SNAKEMAKE, 0.8),
    "snakemake, whole": (SNAKEMAKE, 0.8),
    "training": ((*FDL, "run"), 0.35),
    "report": ((*FDL, "report"), 0.35),
    "track": ((*FDL, "track"), 0.35),
}
# Of the demo: its six epochs would be over before a kill.
REDUCED = {"source": "synthetic", "data_dir": None, "datasets": ["bsd", "neu"], "seeds": [0], "epochs": 60}


def undisturbed(folder: Path, **overrides: object) -> tuple[bytes, float]:
    """`runs.csv` of a project that nothing disturbed, and how many seconds that took."""
    _project(folder, overrides)
    start = time.monotonic()
    _done(folder, SNAKEMAKE)
    return (folder / "reports/demo/runs.csv").read_bytes(), time.monotonic() - start


def killed(
    folder: Path, victims: Sequence[str], chance: random.Random, whole: float, **overrides: object
) -> Counter[str]:
    """Start and kill the victims one after another in a project of their own, then run Snakemake to the end.

    Args:
        folder: of the project; made here.
        victims: of `VICTIMS`.
        chance: chooses the moments.
        whole: seconds that an undisturbed Snakemake takes.

    Returns:
        How many were killed, by victim: one that had ended before its moment came is not counted.
    """
    _project(folder, overrides)
    kills: Counter[str] = Counter()
    started = []
    try:
        for victim in victims:
            command, part = VICTIMS[victim]
            _unlock(folder)  # what README.md says after a killed Snakemake
            if victim == "report":
                if not any((folder / "results").glob("**/seed*/run.json")):  # else there is nothing to report on
                    _done(folder, (*SNAKEMAKE, "--", "runs"))
                _done(folder, (*FDL, "collect", "--partial"))
            process = _start(folder, command)
            started.append(process)
            try:
                process.wait(chance.uniform(0, part * whole))
            except subprocess.TimeoutExpired:
                kills[victim] += 1
                (os.killpg if victim.endswith("whole") else os.kill)(process.pid, signal.SIGKILL)
                process.wait()
        # The jobs of a Snakemake that was killed go on without it; the next one meets them.
        _unlock(folder)
        _done(folder, SNAKEMAKE)
    finally:
        for process in started:
            _end_group(process.pid)
    return kills


def leftovers(folder: Path) -> list[str]:
    """Half-written records and the checkpoints of finished cells."""
    partial = [str(path.relative_to(folder)) for path in (folder / "results").rglob(".*.partial")]
    return partial + [path.name for path in (folder / "scratch").iterdir() if path.name != "locks"]


def track_again(folder: Path) -> str:
    """What another pass finds to mirror."""
    return _done(folder, (*FDL, "track")).splitlines()[-1]


def _project(folder: Path, overrides: dict[str, object]) -> None:
    folder.mkdir()
    write_params(folder / "params.yaml", **REDUCED | overrides)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _start(folder: Path, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command, cwd=folder, env=_environment(), stdout=output, stderr=output, start_new_session=True
        )


def _done(folder: Path, command: Sequence[str]) -> str:
    result = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _unlock(folder: Path) -> None:
    if any((folder / ".snakemake/locks").glob("*")):
        _done(folder, (*SNAKEMAKE, "--unlock"))


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # all have ended by themselves


def main() -> int:
    """Rounds of ten kills until there were as many as asked for; exit 1 at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victims", nargs="+", choices=list(VICTIMS), default=list(VICTIMS))
    parser.add_argument("--folder", type=Path, required=True, help="where the projects are made; must not exist")
    options = parser.parse_args()
    chance, start = random.Random(options.seed), time.monotonic()
    options.folder.mkdir(parents=True)
    expected, whole = undisturbed(options.folder / "undisturbed")
    total: Counter[str] = Counter()
    number = 0
    while total.total() < options.kills:
        number += 1
        # What is killed after a report finds no training left to kill.
        victims = sorted(chance.choices(options.victims, k=10), key=lambda victim: victim in ("report", "track"))
        folder = options.folder / f"round{number}"
        total += killed(folder, victims, chance, whole)
        if (folder / "reports/demo/runs.csv").read_bytes() != expected or leftovers(folder):
            print(f"{folder}: differs from {options.folder / 'undisturbed'} after {victims}; left: {leftovers(folder)}")
            return 1
        print(f"round {number}: {total.total()} kills, {time.monotonic() - start:.0f} s: equal", flush=True)
        shutil.rmtree(folder)
    print(f"{dict(total)}; all {number} runs.csv are byte-equal to the undisturbed one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
