"""Kills every stage at events chosen by a seed, and looks what one plain run makes of the rest: `make soak`.

An event is that a process has written so many files, whatever the time that the machine takes for it.

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
# What is killed, and after how many files that it writes at most; `whole` with all that it started, as by a power cut.
VICTIMS = {
    "snakemake": (SNAKEMAKE, 60),
    "snakemake, whole": (SNAKEMAKE, 60),
    "training": ((*FDL, "run"), 12),
    "report": ((*FDL, "report"), 12),
    "track": ((*FDL, "track"), 2),
}
WRITTEN = ("data", "scratch", "results", "reports", "mlruns", "mlflow.db*")
# Of the demo: its six epochs would be over before a kill.
REDUCED = {"source": "synthetic", "data_dir": None, "datasets": ["bsd", "neu"], "seeds": [0], "epochs": 60}


def undisturbed(folder: Path, **overrides: object) -> bytes:
    """`runs.csv` of a project that nothing disturbed."""
    _project(folder, overrides)
    _done(folder, SNAKEMAKE)
    return (folder / "reports/demo/runs.csv").read_bytes()


def killed(folder: Path, victims: Sequence[str], chance: random.Random, **overrides: object) -> Counter[str]:
    """Start and kill the victims one after another in a project of their own, then run Snakemake to the end.

    Args:
        folder: of the project; made here.
        victims: of `VICTIMS`.
        chance: chooses the events.

    Returns:
        How many were killed, by victim: one that had ended before its event came is not counted.
    """
    _project(folder, overrides)
    kills: Counter[str] = Counter()
    started = []
    try:
        for victim in victims:
            command, most = VICTIMS[victim]
            _unlock(folder)  # what README.md says after a killed Snakemake
            if victim == "report":
                if not any((folder / "results").glob("**/seed*/run.json")):  # else there is nothing to report on
                    _done(folder, (*SNAKEMAKE, "--", "runs"))
                _done(folder, (*FDL, "collect", "--partial"))
            before, files = _written(folder), chance.randint(1, most)
            process = _start(folder, command)
            started.append(process)
            while process.poll() is None and len(_written(folder) - before) < files:
                time.sleep(0.005)
            if process.poll() is None:
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


def _written(folder: Path) -> set[tuple[Path, int]]:
    """The files that there are, each with the time of its last change."""
    written = set()
    for pattern in WRITTEN:
        for top in folder.glob(pattern):
            for path in (top, *top.rglob("*")):
                try:
                    if path.is_file():
                        written.add((path, path.stat().st_mtime_ns))
                except FileNotFoundError:  # renamed meanwhile
                    continue
    return written


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
    expected = undisturbed(options.folder / "undisturbed")
    total: Counter[str] = Counter()
    number = 0
    while total.total() < options.kills:
        number += 1
        # What is killed after a report finds no training left to kill.
        victims = sorted(chance.choices(options.victims, k=10), key=lambda victim: victim in ("report", "track"))
        folder = options.folder / f"round{number}"
        total += killed(folder, victims, chance)
        if (folder / "reports/demo/runs.csv").read_bytes() != expected or leftovers(folder):
            print(f"{folder}: differs from {options.folder / 'undisturbed'} after {victims}; left: {leftovers(folder)}")
            return 1
        print(f"round {number}: {total.total()} kills, {time.monotonic() - start:.0f} s: equal", flush=True)
        shutil.rmtree(folder)
    print(f"{dict(total)}; all {number} runs.csv are byte-equal to the undisturbed one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
