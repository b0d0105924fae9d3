"""The baseline of the timings: five nets, a training step and an evaluation in plain PyTorch without optimisation."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fdl.methods.losses import feature_distance
from fdl.models import build

Work = Callable[[], object]


def naive(
    backbone: str, dataset: str, classes: int, size: int, device: str, members: int = 5
) -> tuple[list[nn.Module], torch.optim.Optimizer]:
    """The modules in contiguous float32, and torch's Adam over their parameters."""
    nets: list[nn.Module] = [build(backbone, dataset, classes, size, member=m).to(device) for m in range(members)]
    optimiser = torch.optim.Adam([parameter for net in nets for parameter in net.parameters()], lr=1e-4, eps=1e-7)
    return nets, optimiser


def naive_step(nets: Sequence[nn.Module], optimiser: torch.optim.Optimizer, pixels: Tensor, labels: Tensor) -> Work:
    """A function that takes one joint training step with the distance loss, and reads the values that are logged."""

    def step() -> None:
        inputs = pixels.float() / 255
        for net in nets:
            net.train()
        outputs = [net(inputs) for net in nets]
        entropies = [functional.cross_entropy(logits, labels) for logits, _ in outputs]
        distance = feature_distance([feature_map for _, feature_map in outputs], 0.5, 0.05)
        loss = torch.stack(entropies).sum() + distance.total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        _ = loss.item(), distance.cosine.item(), distance.gaussian.item()
        _ = [float((logits.argmax(1) == labels).float().mean()) for logits, _ in outputs]

    return step


def naive_evaluation(nets: Sequence[nn.Module], pixels: Tensor, labels: Tensor, batch: int = 10) -> Work:
    """A function that computes the accuracy of every net, in batches of ten as the authors do."""

    def evaluate() -> None:
        for net in nets:
            net.eval()
        correct = [0] * len(nets)
        with torch.no_grad():
            for start in range(0, len(pixels), batch):
                inputs = pixels[start : start + batch].float() / 255
                for member, net in enumerate(nets):
                    correct[member] += int((net(inputs)[0].argmax(1) == labels[start : start + batch]).sum())
        assert not any(math.isnan(count) for count in correct)

    return evaluate
