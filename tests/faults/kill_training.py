"""Kills a bundle of two methods and three seeds at moments chosen by a seed: `python -m tests.faults.kill_training`.

Its records, when a plain run has made the rest, must be bit for bit those of a run that nothing disturbed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.projects import ROOT, write_images, write_params

CELLS = [(method, seed) for method in ("classical", "fdl") for seed in (0, 1, 2)]
# A checkpoint at the end of every epoch instead of every minute; records as ever.
RUN = "from fdl.training import checkpoint; checkpoint.SECONDS = 0; from fdl.cli import main; main()"


def project(folder: Path, epochs: int) -> None:
    """A project whose images are prepared and drawn from."""
    folder.mkdir(parents=True)
    write_images(folder / "images/bsd")
    write_params(folder / "params.yaml", seeds=[0, 1, 2], epochs=epochs, evaluate_every=1, selections=["sum", "last"])
    for verb in (["data", "prepare"], ["split"]):
        _finish(_start(folder, "-m", "fdl", *verb))


def undisturbed(folder: Path) -> float:
    """Train the bundle; the seconds since its first sign of progress."""
    process = _start(folder, "-c", RUN, "run")
    _wait_for_progress(process, folder)
    start = time.monotonic()
    _finish(process)
    return time.monotonic() - start


def killed(folder: Path, kills: int, seconds: float, chance: random.Random) -> list[str]:
    """Train the bundle, killed so many times on the way; where each kill met it.

    Args:
        folder: the project.
        kills: how many.
        seconds: that the bundle takes; the kills are spread over most of them, each a random time after the sign of
            progress that tells that training goes on.
        chance: of these moments.
    """
    met: list[str] = []
    while len(met) < kills:
        process = _start(folder, "-c", RUN, "run")
        _wait_for_progress(process, folder)
        time.sleep(chance.uniform(0, 1.2 * seconds / kills))
        if process.poll() is not None:
            raise AssertionError(f"the bundle was finished after {len(met)} kills: give it more epochs")
        process.send_signal(signal.SIGKILL)
        process.wait()
        met.append(
            f"{len(list(folder.glob('results/*/*/*/*/*/*/run.json')))} records, {_progress(folder)[1]} checkpoints"
        )
    undisturbed(folder)
    return met


def differences(first: Path, second: Path) -> list[str]:
    """What differs between the records of two projects: predictions, correctness, maps, metrics."""
    found = []
    for method, seed in CELLS:
        record = Path("results/demo/bsd/alexnet/3shot", method, f"seed{seed}")
        for name in ("predictions.npz", "correct.npz", "cam.npz"):
            with np.load(first / record / name) as a, np.load(second / record / name) as b:
                found += [
                    f"{record}/{name}: {key}" for key in a.keys() | b.keys() if a[key].tobytes() != b[key].tobytes()
                ]
        for name in ("metrics.json", "history.parquet"):
            if (first / record / name).read_bytes() != (second / record / name).read_bytes():
                found.append(f"{record}/{name}")
    return found


def _wait_for_progress(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    before = _progress(folder)
    while process.poll() is None and _progress(folder) == before:
        time.sleep(0.01)


def _progress(folder: Path) -> tuple[float, int]:
    """The time of the newest checkpoint, and how many there are."""
    times = [path.stat().st_mtime for path in folder.glob("scratch/*/checkpoint.pt") if path.exists()]
    return max(times, default=0.0), len(times)


def _start(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, stdout=output, stderr=output)


def _finish(process: "subprocess.Popen[bytes]") -> None:
    assert process.wait() == 0


def main() -> int:
    """Exit 1 at a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="where the projects are made; must not exist")
    options = parser.parse_args()
    for name in ("undisturbed", "killed"):
        project(options.folder / name, options.epochs)
    seconds = undisturbed(options.folder / "undisturbed")
    met = killed(options.folder / "killed", options.kills, seconds, random.Random(options.seed))
    for number, where in enumerate(met, 1):
        print(f"kill {number}: {where}")
    found = differences(options.folder / "undisturbed", options.folder / "killed")
    print("\n".join(found) or f"{options.kills} kills: all records are bit-identical")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
