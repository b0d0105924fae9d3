"""Kills a bundle of two methods and three seeds at epochs chosen by a seed: `python -m tests.faults.kill_training`.

Its records, when a plain run has made the rest, must be bit for bit those of a run that nothing disturbed.
"""

import argparse
import json
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
# A checkpoint, and a sign of progress, at the end of every epoch instead of every minute; records as ever.
RUN = (
    "from fdl.results import unfinished; from fdl.training import checkpoint; "
    "checkpoint.SECONDS = unfinished.SECONDS = 0; "
    "from fdl.cli.main import main; main()"
)


def project(folder: Path, epochs: int) -> None:
    """A project whose images are prepared and drawn from."""
    folder.mkdir(parents=True)
    write_images(folder / "images/bsd")
    write_params(folder / "params.yaml", seeds=[0, 1, 2], epochs=epochs, evaluate_every=1, selections=["sum", "last"])
    for verb in (["data", "prepare"], ["split"]):
        _finish(_start(folder, "-m", "fdl", *verb))


def undisturbed(folder: Path) -> None:
    """Train the bundle."""
    _finish(_start(folder, "-c", RUN, "run"))


def killed(folder: Path, kills: int, epochs: int, chance: random.Random) -> list[str]:
    """Train the bundle, killed so many times on the way; where each kill met it.

    The kills are spread at random over the epochs of all cells; each comes when the end of its epoch is seen.
    """
    met: list[str] = []
    for moment in sorted(chance.sample(range(1, len(CELLS) * epochs - 1), kills)):
        process = _start(folder, "-c", RUN, "run")
        while process.poll() is None and _epochs(folder, epochs) < moment:
            time.sleep(0.005)
        if process.poll() is not None:
            raise AssertionError(f"the bundle was finished after {len(met)} kills: give it more epochs")
        process.send_signal(signal.SIGKILL)
        process.wait()
        met.append(f"{_epochs(folder, epochs)} of {len(CELLS) * epochs} epochs done")
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


def _epochs(folder: Path, epochs: int) -> int:
    """Epochs that are done, over all cells."""
    done = epochs * len(list(folder.glob("results/*/*/*/*/*/*/run.json")))
    for path in folder.glob("scratch/*/progress.json"):
        try:
            done += len(json.loads(path.read_text())["history"])
        except FileNotFoundError:  # the cell's record is in place by now
            return _epochs(folder, epochs)
    return done


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
    undisturbed(options.folder / "undisturbed")
    met = killed(options.folder / "killed", options.kills, options.epochs, random.Random(options.seed))
    for number, where in enumerate(met, 1):
        print(f"kill {number}: {where}")
    found = differences(options.folder / "undisturbed", options.folder / "killed")
    print("\n".join(found) or f"{options.kills} kills: all records are bit-identical")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
