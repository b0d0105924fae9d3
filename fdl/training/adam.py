"""Keras' Adam at a constant rate (docs/reference.md 5 and 10)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-7


class Adam:
    """One optimiser over the parameters of several nets.

    It calls the kernel of `torch.optim.Adam(fused=True)` itself: the class imports the whole compiler
    at its first use, 4 s in every bundle's process.

    Args:
        nets: their parameters are updated in place.
        learning_rate: constant.
    """

    def __init__(self, nets: Sequence[nn.Module], learning_rate: float) -> None:
        self.parameters: list[Tensor] = [parameter for net in nets for parameter in net.parameters()]
        self.learning_rate = learning_rate
        self.steps = 0
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]
        # What the kernel is shown. A step is element by element, and the kernel copies some of what is not contiguous.
        self._channels_last = [p.is_contiguous(memory_format=torch.channels_last) for p in self.parameters]
        with torch.no_grad():
            self._updated = [self._in_memory_order(tensors) for tensors in (self.parameters, self.first, self.second)]

    def _in_memory_order(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Views of one tensor per parameter: weights that lie channels last with their dimensions as they lie."""
        pairs = zip(tensors, self._channels_last, strict=True)
        return [tensor.permute(0, 2, 3, 1) if last else tensor for tensor, last in pairs]

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters from their gradients; all must have one."""
        self.steps += 1
        gradients: list[Tensor] = []
        for parameter in self.parameters:
            assert parameter.grad is not None
            gradients.append(parameter.grad)
        values, first, second = self._updated
        gradients = [gradient.contiguous() for gradient in self._in_memory_order(gradients)]
        fused_step(values, gradients, first, second, self.learning_rate, self.steps)


class FlatAdam:
    """The same over one flat buffer.

    On a GPU in a few operations whose step counter is on the device, so that a CUDA graph can replay a step: the
    rate and the place of Keras' epsilon change with the counter, which in `Adam` is a number of the host.

    Args:
        values: 1-d, updated in place.
        gradient: of the same shape; it is read where it is.
        learning_rate: constant.
    """

    def __init__(self, values: Tensor, gradient: Tensor, learning_rate: float) -> None:
        self.values, self.gradient, self.learning_rate = values, gradient, learning_rate
        self.steps = torch.zeros((), dtype=torch.float64, device=values.device)
        self.first, self.second = torch.zeros_like(values), torch.zeros_like(values)

    @torch.no_grad()
    def step(self) -> None:
        """Update the values from their gradient."""
        self.steps += 1
        if self.values.device.type == "cpu":
            fused_step([self.values], [self.gradient], [self.first], [self.second], self.learning_rate, int(self.steps))
            return
        self.first.lerp_(self.gradient, 1 - BETA1)
        self.second.mul_(BETA2).addcmul_(self.gradient, self.gradient, value=1 - BETA2)
        rate = self.learning_rate * (1 - BETA2**self.steps).sqrt() / (1 - BETA1**self.steps)
        self.values -= (self.first / self.second.sqrt().add_(EPSILON)).mul_(rate)


def fused_step(
    values: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    learning_rate: float,
    steps: int,
) -> None:
    """One step by torch's kernel, which goes through every tensor once; `steps`: this one included."""
    count = torch.tensor(float(steps), device=values[0].device)
    torch._fused_adam_(
        values,
        gradients,
        first,
        second,
        [],
        [count] * len(gradients),
        lr=learning_rate,
        beta1=BETA1,
        beta2=BETA2,
        weight_decay=0.0,
        # Keras adds its epsilon before the bias correction, the kernel behind it.
        eps=EPSILON / math.sqrt(1 - BETA2**steps),
        amsgrad=False,
        maximize=False,
    )
