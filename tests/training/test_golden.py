"""Golden trajectories: when a training's numbers change, `TRAINING_VERSION` must say so.

`python -m tests.training.test_golden` writes them anew, after the version was raised.
"""

import json
from pathlib import Path

import pytest

from fdl.provenance import TRAINING_VERSION
from fdl.training.engine import train
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
    history = train(cells.settings(**options), cells.data(), device="cpu", progress=lambda line: None).history
    return {column: [row[column] for row in history] for column in COLUMNS}


@pytest.mark.parametrize("name", CELLS)
def test_the_numbers_of_a_training_are_those_of_its_version(name):
    golden = json.loads(FILE.read_text())
    assert golden["training_version"] == TRAINING_VERSION, "write golden.json anew: see this module's docstring"
    for column, values in trajectory(name).items():
        # Processors sum in another order: the first epoch agrees to float32 rounding, later ones drift.
        for epoch, (actual, expected) in enumerate(zip(values, golden["cells"][name][column], strict=True)):
            tolerance = 0.09 if column.startswith("validation") else 2e-4 * 10**epoch * max(1, abs(expected))
            assert actual == pytest.approx(expected, abs=tolerance), f"{column}, epoch {epoch}: raise TRAINING_VERSION"


if __name__ == "__main__":
    content = {"training_version": TRAINING_VERSION, "cells": {name: trajectory(name) for name in CELLS}}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
