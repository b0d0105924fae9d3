"""Speed of this project's training loop against a naive loop, on one core: `python -m benchmarks.cpu`.

The naive loop is five modules in contiguous float32 with torch's own Adam (`naive.py`); ours is the plain training loop
of `fdl.training.engine`, which `fdl run` uses for wide nets on a CPU. `folded` is an evaluation with the batch norms
folded into the convolutions. It is only measured, and not used on a CPU, because it changes the rounding of
predictions.
"""

import argparse
import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from benchmarks.naive import naive, naive_evaluation, naive_step
from benchmarks.timing import compared, cpu_seconds, machine, precisions, table, write
from fdl.training import engine
from fdl.training.adam import Adam
from fdl.training.device import set_up_cpu
from fdl.training.state import CellSettings, Images

CASES = [("cifar10", "alexnet", 32), ("cifar10", "vgg", 32), ("cifar10", "resnet", 32)]
BATCH, EVALUATED = 10, 100


def folded(net: nn.Module) -> nn.Module:
    """A copy in evaluation mode with its batch norms folded into the convolutions before them."""
    net = copy.deepcopy(net).eval()
    for sequence in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        layers = list(sequence)
        for place, (first, second) in enumerate(pairwise(layers)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                sequence[place] = torch.nn.utils.fuse_conv_bn_eval(first, second)
                sequence[place + 1] = nn.Identity()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()), "a batch norm was left"
    return net


def images(size: int) -> Images:
    """`EVALUATED` images of noise with labels of ten classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (EVALUATED, 3, size, size), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(EVALUATED) % 10)


def ours(dataset: str, backbone: str, size: int, bf16: bool) -> tuple[Callable[[], object], Callable[[], object], Any]:
    """Our loop on five nets: functions that take a training step and evaluate, and the nets."""
    settings = CellSettings(
        backbone=backbone, dataset=dataset, method="fdl", method_params={"cosine_weight": 0.5, "gaussian_weight": 0.05},
        seed=0, members=5, image_size=size, width=1.0, epochs=1, batch_size=BATCH, learning_rate=1e-4, augment=False,
        selections=["last"], evaluate_every=None, bn_statistics="moving", autocast=bf16,
    )  # fmt: skip
    nets = engine.build_members(settings, 10, "cpu")
    adam, all_images = Adam(nets, 1e-4), images(size)
    batch = Images(all_images.pixels[:BATCH], all_images.labels[:BATCH])

    def step() -> None:
        for net in nets:
            net.train()
        engine.train_epoch(settings, batch, nets, adam, 0)

    def evaluate(chosen: list[nn.Module] = nets) -> None:
        for net in chosen:
            net.eval()
        (engine.predict(settings, chosen, all_images.pixels).argmax(-1) == all_images.labels).sum(1).tolist()

    return step, evaluate, nets


def measure(dataset: str, backbone: str, size: int, repeats: int) -> dict[str, Any]:
    """Median CPU seconds of a training step and of an evaluation, and the speed-up over the naive loop."""
    nets, optimiser = naive(backbone, dataset, 10, size, "cpu")
    all_images = images(size)
    pixels, labels = all_images.pixels, all_images.labels
    train = {"naive": cpu_seconds(naive_step(nets, optimiser, pixels[:BATCH], labels[:BATCH]))}
    evaluation = {"naive": cpu_seconds(naive_evaluation(nets, pixels, labels))}
    for name in precisions():
        step, evaluate, our_nets = ours(dataset, backbone, size, name == "bfloat16")
        put_together = [folded(net).to(memory_format=torch.channels_last) for net in our_nets]
        train[name], evaluation[name] = cpu_seconds(step), cpu_seconds(evaluate)
        evaluation[f"{name}, folded"] = cpu_seconds(lambda e=evaluate, n=put_together: e(n))
    return {"train step": compared(train, repeats, "naive"), "evaluation": compared(evaluation, repeats, "naive")}


def report(content: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    host = content["machine"]
    lines = [
        f"# CPU, {host['date']}",
        "",
        f"{host['cpu']}; one thread; torch {host['torch']}, Python {host['python']}; load {host['load']} at the start. "
        f"Five nets, train step of {BATCH} images, evaluation of {EVALUATED}. CPU time of the process, "
        f"{content['repeats']} turns; times faster: median over the turns of the ratio to the naive loop.",
        "",
        *table(content["cases"]),
    ]
    where = "Folded evaluations round differently; only the validations of a program on a GPU use them."
    return "\n".join([*lines, "", where, ""])


def main() -> None:
    """Measure, print, and write `results/cpu-*`, a file for each kind of processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--backbones", nargs="+", default=["alexnet", "vgg", "resnet"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    set_up_cpu()
    content: dict[str, Any] = {"machine": machine(), "repeats": options.repeats, "cases": {}}
    for dataset, backbone, size in CASES:
        if backbone in options.backbones:
            content["cases"][f"{dataset} {backbone}, {size} px"] = measure(dataset, backbone, size, options.repeats)
            # Written after each case, so that an interrupted run leaves its results.
            write(f"cpu-{precisions()[-1]}", content, report(content))


if __name__ == "__main__":
    main()
