"""Throughput of a whole machine: one Keras process on all cores, as the authors ran it, or one of ours per core.

    python -m venv keras && keras/bin/pip install -r benchmarks/keras-requirements.txt
    python -m benchmarks.keras_machine --python keras/bin/python

`keras_reference.py` compares both on a single core. The authors train one ensemble at a time, and TensorFlow spreads
each operation over the cores; this project trains one ensemble per core at the same time, with one thread each.
Compared is the wall time of the whole machine per training step and per evaluation of an ensemble. The machine must be
idle otherwise.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.cpu import BATCH, CASES, EVALUATED, ours
from benchmarks.keras_reference import Keras, build, same_terms
from benchmarks.timing import Timed, compared, machine, precisions, table, write
from fdl.core.provenance import available_cores
from fdl.training.device import set_up_cpu

STEPS = 5  # training steps per turn, enough to make small differences in the processes' start negligible


def serve(connection: Connection, case: tuple[str, str, int], bf16: bool) -> None:
    """Answer requests (kind of work, number of repetitions) when they are done, until the request is None."""
    torch.set_num_threads(1)
    set_up_cpu()
    step, evaluate, _ = ours(*case, bf16)
    works: dict[str, Callable[[], object]] = {"train step": step, "evaluation": evaluate}
    while (request := connection.recv()) is not None:
        kind, times = request
        for _ in range(times):
            works[kind]()
        connection.send(None)


class Ours:
    """One process of this project per core, each with five nets of its own; they run until `end` is called."""

    def __init__(self, cores: int, case: tuple[str, str, int], bf16: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections: list[Connection] = []
        self.processes = []
        for _ in range(cores):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, case, bf16), daemon=True)
            process.start()
            there.close()  # so that `recv` fails, rather than waits forever, if the process dies
            self.connections.append(here)
            self.processes.append(process)

    def seconds(self, kind: str, times: int) -> Timed:
        """Wall seconds per piece of work, when all processes do `times` pieces each at the same time."""

        def timed() -> float:
            start = time.perf_counter()
            for connection in self.connections:
                connection.send((kind, times))
            for connection in self.connections:
                connection.recv()
            return (time.perf_counter() - start) / (times * len(self.connections))

        return timed

    def end(self) -> None:
        """Make the processes exit, and wait for them."""
        for connection in self.connections:
            connection.send(None)
        for process in self.processes:
            process.join()


def keras_seconds(keras: Keras, do: str, times: int, **request: Any) -> Timed:
    """Wall seconds per piece of work in the Keras process."""
    return lambda: sum(float(keras.ask(do, **request)["wall"]) for _ in range(times)) / times


def measure(keras: Keras, folder: Path, case: tuple[str, str, int], repeats: int, cores: int) -> dict[str, Any]:
    """Median wall seconds of a training step and of an evaluation, and the speed-up over Keras."""
    build(keras, folder, case)
    train = {"Keras": keras_seconds(keras, "train", STEPS)}
    evaluation = {"Keras": keras_seconds(keras, "evaluate", 1, batch=BATCH)}
    groups = {name: Ours(cores, case, name == "bfloat16") for name in precisions()}
    for name, group in groups.items():
        train[name], evaluation[name] = group.seconds("train step", STEPS), group.seconds("evaluation", 1)
    numbers = {"train step": compared(train, repeats, "Keras"), "evaluation": compared(evaluation, repeats, "Keras")}
    for group in groups.values():
        group.end()
    return numbers


def report(content: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    host, theirs, cores = content["machine"], content["versions"], content["cores"]
    lines = [
        f"# One Keras process on all cores beside a process per core, {host['date']}",
        "",
        f"{host['cpu']}, {cores} cores; TensorFlow {theirs['tensorflow']} with tf_keras {theirs['tf_keras']} and "
        f"{cores} threads; torch {host['torch']}, {cores} processes of one thread; load {host['load']} at the "
        f"start. Five nets with the distance loss, train step of {BATCH} images, evaluation of {EVALUATED}. Wall time "
        f"of the machine per step or evaluation, {content['repeats']} turns ({STEPS} steps each); times faster: median "
        "over the turns of the ratio to Keras.",
        "",
        *table(content["cases"], "wall ms"),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print, and write `results/keras-machine-*`, a file for each kind of processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the interpreter of the environment with TensorFlow")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    cores = available_cores()
    keras = Keras(options.python, threads=cores)
    content: dict[str, Any] = {
        "machine": machine(),
        "versions": keras.ask("versions"),
        "repeats": options.repeats,
        "cores": cores,
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as name:
        same_terms(keras, Path(name))
        for case in CASES:
            numbers = measure(keras, Path(name), case, options.repeats, cores)
            content["cases"][f"{case[0]} {case[1]}, {case[2]} px"] = numbers
            # Written after each case, so that an interrupted run leaves its results.
            write(f"keras-machine-{precisions()[-1]}", content, report(content))


if __name__ == "__main__":
    main()
