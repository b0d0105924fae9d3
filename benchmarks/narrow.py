"""Narrow nets on one core, trained by the plain loop or by one fused program per seed: `python -m benchmarks.narrow`.

The plain loop (`fdl.training.engine`) trains one ensemble after another. The program (`fdl.training.fused`) trains the
ensembles of `classical` and `fdl` of one seed as a single network, as `fdl run` does for narrow nets on a CPU. Measured
are the CPU seconds of both trainings, which take turns, and whether the final weights have the same bits as those of
the plain loop and as those of a program of a single ensemble.
"""

import argparse
from typing import Any

import torch

from benchmarks.timing import compared, cpu_seconds, machine, precisions, write
from fdl.training import engine
from fdl.training.device import set_up_cpu
from fdl.training.fused import Program, Run
from fdl.training.state import CellData, CellSettings, Images, Trained

METHODS = {"classical": {}, "fdl": {"cosine_weight": 0.5, "gaussian_weight": 0.05}}


def quiet(line: str) -> None:
    """No progress."""


def data() -> CellData:
    """Random images of ten classes: 30 for training, as 3 per class of CIFAR-10, 60 for validation and 10 for test."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        Images(
            torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator), torch.arange(count) % 10
        )
        for count in (30, 60, 10)
    ]
    return CellData(*parts, torch.arange(30), 10)


def runs(backbone: str, width: float, autocast: bool, epochs: int) -> list[Run]:
    """The runs of both methods with one seed."""
    images = data()
    return [
        Run(
            CellSettings(
                backbone=backbone, dataset="cifar10", method=method, method_params=params, seed=0, members=5,
                image_size=32, width=width, epochs=epochs, batch_size=10, learning_rate=1e-3, augment=True,
                selections=["last"], evaluate_every=None, bn_statistics="reestimate", autocast=autocast,
            ),
            images,
        )
        for method, params in METHODS.items()
    ]  # fmt: skip


def by_loop(group: list[Run]) -> list[Trained]:
    """Train one run after another in the plain loop."""
    return [engine.train(run.settings, run.data, device="cpu", progress=quiet) for run in group]


def by_program(group: list[Run]) -> list[Any]:
    """Train all runs as one network."""
    return Program(group, "cpu", quiet).train(progress=quiet)


def difference(first: Trained, second: Trained) -> float:
    """Largest difference between weights, relative to the largest weight of their tensor; 0: the same bits."""
    worst = 0.0
    for a, b in zip(first.states["last"], second.states["last"], strict=True):
        for name, value in a.items():
            scale = max(float(value.abs().max()), 1e-12)
            worst = max(worst, float((value.double() - b[name].double()).abs().max()) / scale)
    return worst


def measure(backbone: str, width: float, precision: str, repeats: int, epochs: int) -> dict[str, Any]:
    """Times of both trainings, and differences between their results."""
    group = runs(backbone, width, precision == "bfloat16", epochs)
    times = compared(
        {"loop": cpu_seconds(lambda: by_loop(group)), "program": cpu_seconds(lambda: by_program(group))},
        repeats,
        "loop",
    )
    loop, program = by_loop(group), by_program(group)
    alone = [by_program([run])[0] for run in group]
    return {
        "training": times,
        "from the loop": max(difference(a, b) for a, b in zip(program, loop, strict=True)),
        "from one run alone": max(difference(a, b) for a, b in zip(program, alone, strict=True)),
    }


def report(content: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    host = content["machine"]
    lines = [
        f"# Narrow nets, {host['date']}",
        "",
        f"{host['cpu']}; one thread; torch {host['torch']}; load {host['load']} at the start. Two methods of one seed, "
        f"five nets each, CIFAR-10 at 32 px, 30 training images, {content['epochs']} epochs; processor time, "
        f"{content['repeats']} turns. Differences are the largest of any weight, relative to its tensor's largest.",
        "",
        "| net | width | precision | loop, s | program, s | times faster | differs from the loop | from a run alone |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for case in content["cases"]:
        seconds, faster = case["training"]["seconds"], case["training"]["times faster"]["program"]
        differences = [
            f"{value:.1g}" if value else "no bit" for value in (case["from the loop"], case["from one run alone"])
        ]
        lines.append(
            f"| {case['backbone']} | {case['width']} | {case['precision']} | {seconds['loop']:.2f} | "
            f"{seconds['program']:.2f} | {faster:.2f} | {' | '.join(differences)} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print, and write `results/narrow-*`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.125, 0.25, 0.5, 1.0])
    parser.add_argument("--backbones", nargs="+", default=["alexnet", "vgg", "resnet"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    set_up_cpu()
    content: dict[str, Any] = {
        "machine": machine(), "repeats": options.repeats, "epochs": options.epochs, "cases": [],
    }  # fmt: skip
    for width in options.widths:
        for backbone in options.backbones:
            for precision in precisions():
                numbers = measure(backbone, width, precision, options.repeats, options.epochs)
                content["cases"].append({"backbone": backbone, "width": width, "precision": precision, **numbers})
                # Written after each case, so that an interrupted run leaves its results.
                write(f"narrow-{precisions()[-1]}", content, report(content))


if __name__ == "__main__":
    main()
