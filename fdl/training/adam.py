"""Keras' Adam at a constant rate (docs/reference.md 5 and 10)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fdl.core.console import Say
from fdl.core.errors import one_line

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-7


class Adam:
    """One optimiser over the parameters of several nets.

    It calls the kernel of `torch.optim.Adam(fused=True)` directly, because that class imports torch's compiler at its
    first use, which takes 4 s in every bundle's process.

    Args:
        nets: the nets whose parameters are updated in place.
        learning_rate: constant over the whole training.
    """

    def __init__(self, nets: Sequence[nn.Module], learning_rate: float) -> None:
        self.parameters: list[Tensor] = [parameter for net in nets for parameter in net.parameters()]
        self.learning_rate = learning_rate
        self.steps = 0
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]
        # The kernel gets contiguous views, because it copies some tensors that are not contiguous. The update is
        # element-wise, so the order of the dimensions does not matter.
        self._channels_last = [p.is_contiguous(memory_format=torch.channels_last) for p in self.parameters]
        with torch.no_grad():
            self._kernel_views = [
                self._contiguous_views(tensors) for tensors in (self.parameters, self.first, self.second)
            ]

    def _contiguous_views(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Contiguous views of one tensor per parameter: channels-last weights (O, I, h, w) become (O, h, w, I)."""
        pairs = zip(tensors, self._channels_last, strict=True)
        return [tensor.permute(0, 2, 3, 1) if last else tensor for tensor, last in pairs]

    def zero_grad(self) -> None:
        """Discard the gradients of the previous step."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters from their gradients; every parameter must have one."""
        self.steps += 1
        gradients: list[Tensor] = []
        for parameter in self.parameters:
            assert parameter.grad is not None
            gradients.append(parameter.grad)
        values, first, second = self._kernel_views
        gradients = [gradient.contiguous() for gradient in self._contiguous_views(gradients)]
        fused_step(values, gradients, first, second, self.learning_rate, self.steps)


class FlatAdam:
    """The same optimiser over one flat buffer that holds the parameters of many nets.

    On a GPU the step counter is a tensor on the device, so that a CUDA graph can replay a step: the bias-corrected
    rate changes with the counter, which `Adam` keeps on the host. A step on a GPU is one call of torch's fused kernel,
    or a few tensor operations if the installed version's kernel does not compute Keras' step (`why_not_the_kernel`).

    Args:
        values: the parameters, 1-d; updated in place.
        gradient: a tensor of the same shape, which every step reads.
        learning_rate: constant over the whole training.
        say: takes a line for the log.
    """

    def __init__(self, values: Tensor, gradient: Tensor, learning_rate: float, say: Say = print) -> None:
        self.values, self.gradient, self.learning_rate = values, gradient, learning_rate
        self.steps = torch.zeros((), dtype=torch.float64, device=values.device)
        self.first, self.second = torch.zeros_like(values), torch.zeros_like(values)
        self._gpu_step = step_by_kernel
        if values.device.type != "cpu" and (reason := why_not_the_kernel(values.device)):
            say(f"Adam goes on in several kernels, slower: {reason}")
            self._gpu_step = step_by_operations

    @torch.no_grad()
    def step(self) -> None:
        """Update the values from their gradient."""
        self.steps += 1
        if self.values.device.type == "cpu":
            fused_step([self.values], [self.gradient], [self.first], [self.second], self.learning_rate, int(self.steps))
            return
        rate = keras_rate(self.learning_rate, self.steps)
        self._gpu_step(self.values, self.gradient, self.first, self.second, rate)


def keras_rate(learning_rate: float, steps: Tensor) -> Tensor:
    """The learning rate of a step with the bias corrections of both moments, 0-d; `steps` counts this step."""
    return learning_rate * (1 - BETA2**steps).sqrt() / (1 - BETA1**steps)


def step_by_operations(values: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: Tensor) -> None:
    """One step in place by tensor operations; `rate` (0-d, on the device) is that of `keras_rate`."""
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    values -= (first / second.sqrt().add_(EPSILON)).mul_(rate)


def step_by_kernel(values: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: Tensor) -> None:
    """The same step by torch's fused kernel, which reads and writes every tensor only once."""
    # So late a step that the kernel's own bias corrections are 1; `rate` already contains them.
    late = torch.full((), 1e6, device=values.device)
    torch._fused_adam_(
        [values],
        [gradient],
        [first],
        [second],
        [],
        [late],
        lr=rate.to(torch.float32),
        beta1=BETA1,
        beta2=BETA2,
        weight_decay=0.0,
        eps=EPSILON,
        amsgrad=False,
        maximize=False,
    )


@torch.no_grad()
def why_not_the_kernel(device: torch.device | str) -> str | None:
    """The reason why `step_by_kernel` cannot be used on a device; None if it agrees with `step_by_operations`.

    The kernel is a private function of torch, which any version may remove or change.
    """
    signs = torch.tensor([1.0, -1.0], device=device).repeat(32)
    gradient, steps = torch.logspace(-9, 1, 64, device=device) * signs, torch.zeros((), device=device)
    kernel, operations = (torch.zeros(3, 64, device=device) for _ in range(2))
    try:
        for _ in range(3):
            steps += 1
            rate = keras_rate(0.01, steps)
            for step, (values, first, second) in ((step_by_kernel, kernel), (step_by_operations, operations)):
                step(values, gradient, first, second, rate)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, TypeError, RuntimeError) as error:
        return one_line(error)
    if torch.allclose(kernel, operations, rtol=1e-5, atol=0.0):
        return None
    return "torch's kernel makes other steps than Keras"


def fused_step(
    values: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    learning_rate: float,
    steps: int,
) -> None:
    """One step on the CPU by torch's fused kernel, which reads and writes every tensor only once.

    Args:
        values: the parameters, updated in place.
        gradients, first, second: their gradients and both moments; the moments are updated in place.
        learning_rate: without the bias corrections.
        steps: number of steps including this one.
    """
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
        # Keras adds its epsilon before the bias correction, the kernel after it.
        eps=EPSILON / math.sqrt(1 - BETA2**steps),
        amsgrad=False,
        maximize=False,
    )
