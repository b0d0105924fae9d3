"""Speed of the authors' five-output Keras model against this project's loop, on one core and the same images.

    python -m venv keras && keras/bin/pip install -r benchmarks/keras-requirements.txt
    python -m benchmarks.keras_reference --python keras/bin/python

TensorFlow runs in another process with its own environment (`keras_side.py`), and both sides take turns. Before the
timing it is checked that both have the same number of parameters and compute the same distance terms.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cpu import BATCH, CASES, EVALUATED, images, ours
from benchmarks.timing import Timed, compared, cpu_seconds, machine, precisions, table, write
from fdl.core.protocol import DATASETS
from fdl.methods.losses import feature_distance
from fdl.training.device import set_up_cpu


class Keras:
    """The process with the Keras model.

    Args:
        python: interpreter of the environment with TensorFlow.
        threads: number of threads of TensorFlow.
    """

    def __init__(self, python: str, threads: int = 1) -> None:
        if not Path(python).is_file():
            sys.exit(f"Keras: {python}: no such interpreter; see {REQUIREMENTS}")
        side = Path(__file__).with_name("keras_side.py")
        self.process = subprocess.Popen(
            [python, str(side)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""},
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request, named after a method of `keras_side.Side`, and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"Keras: {self.process.args[0]} ended at {do!r}; is {REQUIREMENTS} installed there?")  # type: ignore[index]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def seconds(self, do: str, **request: Any) -> Timed:
        """A request, timed by the CPU seconds that the Keras process reports."""
        return lambda: float(self.ask(do, **request)["cpu"])


REQUIREMENTS = "benchmarks/keras-requirements.txt"


def same_terms(keras: Keras, folder: Path) -> None:
    """Exit unless both sides compute the same distance terms."""
    maps = np.random.default_rng(0).random((5, 10, 4, 4, 256), dtype=np.float32)
    np.save(folder / "maps.npy", maps)
    theirs = keras.ask("terms", maps=str(folder / "maps.npy"))
    distance = feature_distance(list(torch.from_numpy(maps).permute(0, 1, 4, 2, 3)), 0, 0)
    for name, value in (("cosine", distance.cosine), ("gaussian", distance.gaussian)):
        if abs(theirs[name] - float(value)) > 1e-4 * abs(float(value)):
            sys.exit(f"Keras: the {name} term is {theirs[name]} there and {float(value)} here")


def build(keras: Keras, folder: Path, case: tuple[str, str, int]) -> None:
    """Build the Keras model and give it our images; exit unless its nets have as many parameters as ours."""
    dataset, backbone, size = case
    all_images, protocol = images(size), DATASETS[dataset]
    pixels = (all_images.pixels.permute(0, 2, 3, 1).float() / 255).numpy()
    labels = all_images.labels.numpy()
    file = folder / "images.npz"
    np.savez(file, train=pixels[:BATCH], train_labels=labels[:BATCH], evaluation=pixels, evaluation_labels=labels)
    built = keras.ask(
        "build",
        image_size=size,
        classes=10,
        hidden=protocol.hidden_units,
        stride=protocol.conv1_stride,
        variant=protocol.backbones[backbone].variant,
        members=5,
        cosine_weight=0.5,
        gaussian_weight=0.05,
        learning_rate=1e-4,
        images=str(file),
    )
    _, _, nets = ours(*case, False)
    parameters = sum(value.numel() for key, value in nets[0].state_dict().items() if "num_batches" not in key)
    if parameters != built["parameters"]:
        sys.exit(f"Keras: {backbone} has {built['parameters']} parameters there and {parameters} here")


def measure(keras: Keras, folder: Path, case: tuple[str, str, int], repeats: int) -> dict[str, Any]:
    """Median CPU seconds of a training step and of an evaluation, and the speed-up over Keras in batches of ten."""
    build(keras, folder, case)
    train: dict[str, Timed] = {"Keras": keras.seconds("train")}
    evaluation: dict[str, Timed] = {
        "Keras": keras.seconds("evaluate", batch=10),
        "Keras, batches of 100": keras.seconds("evaluate", batch=100),
    }
    for name in precisions():
        step, evaluate, _ = ours(*case, name == "bfloat16")
        train[name], evaluation[name] = cpu_seconds(step), cpu_seconds(evaluate)
    return {"train step": compared(train, repeats, "Keras"), "evaluation": compared(evaluation, repeats, "Keras")}


def report(content: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    host, theirs = content["machine"], content["versions"]
    lines = [
        f"# Keras beside this project, {host['date']}",
        "",
        f"{host['cpu']}; one thread each; TensorFlow {theirs['tensorflow']} with tf_keras {theirs['tf_keras']}, Python "
        f"{theirs['python']}; torch {host['torch']}, Python {host['python']}; load {host['load']} at the start. Five "
        f"nets with the distance loss, train step of {BATCH} images, evaluation of {EVALUATED}. CPU time of the "
        f"process, {content['repeats']} turns; times faster: median over the turns of the ratio to Keras.",
        "",
        *table(content["cases"]),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print, and write `results/keras-*`, a file for each kind of processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the interpreter of the environment with TensorFlow")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--backbones", nargs="+", default=["alexnet", "vgg", "resnet"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    set_up_cpu()
    keras = Keras(options.python)
    content: dict[str, Any] = {
        "machine": machine(),
        "versions": keras.ask("versions"),
        "repeats": options.repeats,
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as name:
        same_terms(keras, Path(name))
        for case in CASES:
            if case[1] in options.backbones:
                numbers = measure(keras, Path(name), case, options.repeats)
                content["cases"][f"{case[0]} {case[1]}, {case[2]} px"] = numbers
                # Written after each case, so that an interrupted run leaves its results.
                write(f"keras-{precisions()[-1]}", content, report(content))


if __name__ == "__main__":
    main()
