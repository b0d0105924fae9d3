"""The naive loop, our loop and fused programs on a GPU: `python -m benchmarks.gpu`.

Measures a training step and an evaluation of AlexNet at 32, 84 and 200 pixels: five eager modules in float32
(`naive.py`), one run as a fused program, and six runs (two methods, three seeds) as one; the graphs of the
program are on, as in `fdl run`. Shares are of the matrix peak that this card reaches here. Each case is written
to `results/gpu.json` when it is done and not measured again: a run that is cut off goes on there.

So far it was never run: no GPU was at hand.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.naive import naive, naive_evaluation, naive_step
from benchmarks.timing import RESULTS, machine, write
from fdl.core.protocol import DATASETS
from fdl.core.settings import load
from fdl.training import costs
from fdl.training.costs import Shape
from fdl.training.fused import Program, Run
from fdl.training.state import CellData, CellSettings, Images

CASES = [("cifar10", 32), ("miniimagenet", 84), ("neu", 200)]
STEPS, EVALUATED = 40, 400
DEVICE = "cuda"
PRECISIONS = ("tf32", "bfloat16")


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after two."""
    times = []
    for turn in range(repeats + 2):
        _wait()
        start = time.perf_counter()
        work()
        _wait()
        if turn >= 2:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak(precision: str) -> float:
    """FLOP/s of a large matrix product."""
    _set(precision)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=dtype) for _ in range(2))
    return 2 * 8192**3 / seconds(lambda: a @ b, 10)


def _set(precision: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.deterministic = True


def _images(number: int, size: int, classes: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)
    return Images(pixels.to(DEVICE), (torch.arange(number) % classes).to(DEVICE))


def measure_naive(dataset: str, size: int) -> dict[str, float]:
    """Seconds of a step, and of an evaluation per image."""
    _set("float32")
    classes = len(DATASETS[dataset].classes)
    nets, optimiser = naive("alexnet", dataset, classes, size, DEVICE)
    images = _images(EVALUATED, size, classes)
    step = naive_step(nets, optimiser, images.pixels[:10], images.labels[:10])
    evaluation = naive_evaluation(nets, images.pixels, images.labels)
    return {"step": seconds(step, 20), "evaluated image": seconds(evaluation, 3) / EVALUATED}


def measure_fused(dataset: str, size: int, runs: int, precision: str) -> dict[str, float]:
    """The same of each of so many runs in a program; steps are an epoch's, with its augmentation."""
    _set(precision)
    classes = len(DATASETS[dataset].classes)
    data = CellData(
        _images(10 * STEPS, size, classes), _images(EVALUATED, size, classes), _images(10, size, classes),
        torch.arange(10, device=DEVICE), classes,
    )  # fmt: skip
    made = []
    for number in range(runs):
        method, params = ("fdl", {"cosine_weight": 0.5, "gaussian_weight": 0.05}) if number % 2 else ("classical", {})
        settings = CellSettings(
            backbone="alexnet", dataset=dataset, method=method, method_params=params, seed=number // 2, members=5,
            image_size=size, width=1.0, epochs=1, batch_size=10, learning_rate=1e-4, augment=True,
            selections=["last"], evaluate_every=None, bn_statistics="moving", autocast=precision == "bfloat16",
        )  # fmt: skip
        made.append(Run(settings, data))
    said: list[str] = []
    program = Program(made, DEVICE, said.append)
    with program.stream():
        step = seconds(lambda: program.train_epoch(0), 5) / STEPS / runs
        with torch.no_grad():
            evaluated = seconds(program.validate, 5) / EVALUATED / runs
    if said:
        sys.exit(f"gpu: {said[0]}")
    return {"step": step, "evaluated image": evaluated}


def forecast(cases: dict[str, Any], precision: str) -> float:
    """Hours of the preset `paper` per seed, from the FLOP/s of the nearest measured size; 0: not all are measured.

    What is not fused is taken at the rates of the naive loop: heads, and class activation maps. Predictions with the
    finished nets, in larger batches, count as evaluations.
    """
    fused, naive = {}, {}
    for dataset, size in CASES:
        net = costs.count(Shape("alexnet", dataset, len(DATASETS[dataset].classes), size, 1.0))
        for rates, case in ((fused, f"6 runs, {precision}"), (naive, "naive loop")):
            numbers = cases.get(f"{dataset}, {size} px: {case}")
            if numbers is None:
                return 0.0
            rates[size] = 50 * net.training / numbers["step"], 5 * net.forward / numbers["evaluated image"]
    params, without = (
        load(Path(__file__).parents[1] / "params.yaml", preset="paper", overrides={"seeds": [0], **change})
        for change in ({}, {"heads": []})
    )
    total = 0.0
    for cell in params.cells():
        whole, members = costs.work(params, cell), costs.work(without, cell)
        net, size = costs.count(whole.shape), min(fused, key=lambda size: abs(size - whole.shape.image_size))
        heads = whole.trained - members.trained, whole.evaluated - members.evaluated
        for (training, forward), trained, evaluated in (
            (fused[size], members.trained, members.evaluated),
            (naive[size], heads[0], heads[1] + whole.mapped),
        ):
            total += trained * net.training / training + evaluated * net.forward / forward
    return total / 3600


def report(content: dict[str, Any]) -> str:
    """As Markdown."""
    peaks = ", ".join(f"{name} {rate / 1e12:.0f} TFLOP/s" for name, rate in content["peak"].items())
    lines = [
        f"# GPU: {content['gpu']}",
        "",
        f"torch {content['machine']['torch']}, CUDA {content['cuda']}, {content['machine']['date']}. AlexNet, five "
        f"nets a run, batches of 10. Matrix peak measured here: {peaks}.",
        "",
        "| case | ms a step and run | times faster | µs an image evaluated | times faster | of the peak, train |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for dataset, size in CASES:
        base = content["cases"].get(f"{dataset}, {size} px: naive loop")
        net = costs.count(Shape("alexnet", dataset, len(DATASETS[dataset].classes), size, 1.0))
        for name, numbers in content["cases"].items():
            if not base or not name.startswith(f"{dataset}, {size} px"):
                continue
            of_peak = content["peak"].get(name.rpartition(", ")[2])
            share = f"{50 * net.training / numbers['step'] / of_peak:.1%}" if of_peak else ""
            step, image = numbers["step"], numbers["evaluated image"]
            lines.append(
                f"| {name} | {1000 * step:.2f} | {base['step'] / step:.1f} | {1e6 * image:.0f} "
                f"| {base['evaluated image'] / image:.1f} | {share} |"
            )
    for precision, hours in content["hours of paper per seed"].items():
        lines += ["", f"Forecast for one seed of `paper`, {precision}: {hours:.1f} hours (from AlexNet's FLOP/s)."]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure what is not measured yet for at most some minutes; write `results/gpu.*`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="begin no case after this")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: this machine shows no GPU", file=sys.stderr)
        sys.exit(2)
    end = time.monotonic() + 60 * options.minutes
    file, gpu = RESULTS / "gpu.json", torch.cuda.get_device_name()
    content = json.loads(file.read_text()) if file.exists() else {}
    if content.get("gpu") != gpu or content.get("cuda") != torch.version.cuda:
        content = {"gpu": gpu, "cuda": torch.version.cuda, "machine": machine(), "cases": {}}
        content["peak"] = {precision: peak(precision) for precision in PRECISIONS}
    todo: dict[str, Callable[[], dict[str, float]]] = {}
    for dataset, size in CASES:
        todo[f"{dataset}, {size} px: naive loop"] = lambda d=dataset, s=size: measure_naive(d, s)
        for precision in PRECISIONS:
            for runs in (1, 6):
                todo[f"{dataset}, {size} px: {runs} runs, {precision}"] = (
                    lambda d=dataset, s=size, r=runs, p=precision: measure_fused(d, s, r, p)
                )
    for name, work in todo.items():
        if name not in content["cases"] and time.monotonic() < end:
            content["cases"][name] = work()
            content["hours of paper per seed"] = {
                precision: hours for precision in PRECISIONS if (hours := forecast(content["cases"], precision))
            }
            write("gpu", content, report(content))
    left = [name for name in todo if name not in content["cases"]]
    print(f"{len(left)} cases left; run it again" if left else "all measured")


if __name__ == "__main__":
    main()
