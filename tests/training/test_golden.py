"""Golden trajectories: when a training's numbers change, its version must say so.

That is `TRAINING_VERSION`, or for the fused programs of narrow nets on a CPU `PROGRAM_VERSION`.
`python -m tests.training.test_golden` writes them anew, after the version was raised.
"""

import json
from pathlib import Path

import pytest

from fdl.core.provenance import PROGRAM_VERSION, TRAINING_VERSION
from fdl.training.engine import train
from fdl.training.fused import Program, Run
from tests.training import cells

FILE = Path(__file__).with_name("golden.json")
CELLS = {
    "alexnet classical": {"backbone": "alexnet"},
    "alexnet fdl": {"backbone": "alexnet", "method": "fdl"},
    "alexnet fdl, stride 2": {"backbone": "alexnet", "dataset": "neu", "method": "fdl"},
    "vgg-a fdl": {"backbone": "vgg", "method": "fdl"},
    "vgg-b classical": {"backbone": "vgg", "dataset": "cifar100"},
    "vgg-c classical": {"backbone": "vgg", "dataset": "neu"},
    "resnet-3 classical": {"backbone": "resnet"},
    "resnet-4 fdl": {"backbone": "resnet", "dataset": "tex", "method": "fdl"},
}
COLUMNS = ("loss", "cosine", "gaussian", "cross_entropy_0", "cross_entropy_2", "validation_accuracy_1")


def trajectory(name):
    """Some columns of the history of three epochs, validated each with re-estimated statistics."""
    options = {"evaluate_every": 1, "bn_statistics": "reestimate", "selections": ["sum"]} | CELLS[name]
    return _columns(train(cells.settings(**options), cells.data(), device="cpu", progress=quiet).history)


def program(name):
    """The same of a fused program of `classical` and `fdl`: the history of `fdl`."""
    options = {"evaluate_every": 1, "bn_statistics": "reestimate", "selections": ["sum"]} | CELLS[name]
    data = cells.data()
    runs = [Run(cells.settings(**options | {"method": method}), data) for method in ("classical", "fdl")]
    return _columns(Program(runs, "cpu", quiet).train(progress=quiet)[1].history)


def quiet(line):
    """No progress."""


def _columns(history):
    return {column: [row[column] for row in history] for column in COLUMNS}


KINDS = {"training": (TRAINING_VERSION, trajectory), "program": (PROGRAM_VERSION, program)}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_a_training_are_those_of_its_version(name, kind):
    golden = json.loads(FILE.read_text())
    version, make = KINDS[kind]
    assert golden[f"{kind}_version"] == version, "write golden.json anew: see this module's docstring"
    for column, values in make(name).items():
        # Processors sum in another order: the first epoch agrees to float32 rounding, later ones drift.
        for epoch, (actual, expected) in enumerate(zip(values, golden[kind][name][column], strict=True)):
            tolerance = 0.09 if column.startswith("validation") else 2e-4 * 10**epoch * max(1, abs(expected))
            assert actual == pytest.approx(expected, abs=tolerance), f"{column}, epoch {epoch}: raise its version"


if __name__ == "__main__":
    versions = {f"{kind}_version": version for kind, (version, _) in KINDS.items()}
    content = versions | {kind: {name: make(name) for name in CELLS} for kind, (_, make) in KINDS.items()}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
