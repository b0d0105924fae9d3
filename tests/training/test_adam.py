"""Adam as Keras computes it."""

import math

import pytest
import torch

from fdl.training.adam import (
    Adam,
    FlatAdam,
    keras_rate,
    step_by_kernel,
    step_by_operations,
    why_not_the_kernel,
)


def test_adam_is_keras_adam():
    """Keras: θ -= lr · √(1-β₂ᵗ)/(1-β₁ᵗ) · m / (√v + 1e-7), with m, v the raw moments."""
    net = torch.nn.Linear(3, 1, bias=False)
    theta = net.weight.detach().clone().double()
    optimiser = Adam([net], 0.01)
    m = v = torch.zeros_like(theta)
    for step in range(1, 6):
        # Gradients near epsilon, where it matters whether epsilon is added before or after the bias correction.
        gradient = torch.tensor([[1e-7, -3e-8, 1.0]]) * step
        net.weight.grad = gradient.clone()
        optimiser.step()
        gradient = gradient.double()
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        rate = 0.01 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        theta = theta - rate * m / (v.sqrt() + 1e-7)
        torch.testing.assert_close(net.weight.detach().double(), theta, rtol=0, atol=1e-6)


def test_steps_have_the_bits_of_torchs_adam():
    """`torch.optim.Adam` gives the same bits if its epsilon is rescaled at every step."""
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(7, 5), torch.nn.Linear(7, 5)
    theirs.load_state_dict(ours.state_dict())
    optimiser = Adam([ours], 1e-3)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=True)
    for step in range(1, 5):
        for net in (ours, theirs):
            net.zero_grad()
            net(torch.ones(2, 7) * step).square().sum().backward()
        optimiser.step()
        reference.param_groups[0]["eps"] = 1e-7 / math.sqrt(1 - 0.999**step)
        reference.step()
        assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("gradient_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_changes_no_bit(gradient_format):
    first, other = torch.nn.Conv2d(5, 3, 3), torch.nn.Conv2d(5, 3, 3)
    other.load_state_dict(first.state_dict())
    other.to(memory_format=torch.channels_last)
    steps = [Adam([net], 1e-2) for net in (first, other)]
    for number in range(4):
        gradient = torch.randn(3, 5, 3, 3, generator=torch.Generator().manual_seed(number))
        first.weight.grad, other.weight.grad = gradient, gradient.contiguous(memory_format=gradient_format)
        for net, adam in zip((first, other), steps, strict=True):
            net.bias.grad = torch.ones(3)
            adam.step()
    assert not other.weight.is_contiguous()
    assert torch.equal(first.weight, other.weight)


def test_the_flat_form_makes_the_same_steps_from_a_counter_on_the_device():
    """In float64, on gradients near epsilon, where the place of epsilon matters."""
    net = torch.nn.Linear(4, 3, bias=False).double()
    values = net.weight.detach().flatten().clone()
    gradient = torch.zeros_like(values)
    nets, flat = Adam([net], 0.01), FlatAdam(values, gradient, 0.01)
    for step in range(1, 8):
        gradient.copy_(torch.logspace(-9, 1, 12, dtype=torch.float64) * (-1) ** step)
        net.weight.grad = gradient.view(3, 4).clone()
        nets.step()
        flat.step()
        torch.testing.assert_close(values, net.weight.detach().flatten(), rtol=1e-13, atol=1e-15)


def test_torchs_kernel_with_a_rate_of_the_device_makes_keras_steps():
    """Two hundred steps on gradients from far below epsilon to far above it."""
    generator = torch.Generator().manual_seed(0)
    start, steps = torch.randn(2000, generator=generator), torch.zeros((), dtype=torch.float64)
    kernel, operations = ([start.clone(), torch.zeros(2000), torch.zeros(2000)] for _ in range(2))
    for _ in range(200):
        gradient = torch.randn(2000, generator=generator) * torch.logspace(-9, 1, 2000)
        steps += 1
        rate = keras_rate(1e-3, steps)
        step_by_kernel(kernel[0], gradient, *kernel[1:], rate)
        step_by_operations(operations[0], gradient, *operations[1:], rate)
    assert (start - kernel[0]).abs().max() > 0.01
    torch.testing.assert_close(kernel[0], operations[0], rtol=0, atol=2.4e-7)
    torch.testing.assert_close(kernel[1:], operations[1:], rtol=1e-6, atol=0)


def test_torch_has_the_kernel():
    """If this fails, torch's private function was removed or changed; GPUs then use the slower `step_by_operations`."""
    assert why_not_the_kernel("cpu") is None


def gone(*tensors, **options):
    raise RuntimeError("no such\nkernel")


def other_rule(values, *others, eps, **options):
    KERNEL(values, *others, eps=2 * eps, **options)


KERNEL = torch._fused_adam_
REASONS = [(gone, "no such kernel"), (other_rule, "torch's kernel makes other steps than Keras")]


@pytest.mark.parametrize(("function", "reason"), REASONS)
def test_a_kernel_that_changed_is_noticed(monkeypatch, function, reason):
    monkeypatch.setattr(torch, "_fused_adam_", function)
    assert why_not_the_kernel("cpu") == reason


def test_exhausted_memory_is_no_reason_against_the_kernel(monkeypatch):
    def full(*tensors, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "_fused_adam_", full)
    with pytest.raises(torch.OutOfMemoryError):
        why_not_the_kernel("cpu")


@pytest.mark.parametrize(
    ("reason", "step", "lines"),
    [(None, step_by_kernel, []), ("gone", step_by_operations, ["Adam goes on in several kernels, slower: gone"])],
)
def test_a_step_on_a_gpu_copies_nothing_to_the_host(monkeypatch, reason, step, lines):
    """This lets a CUDA graph capture it. On the device "meta" there are no numbers that the host could read."""
    monkeypatch.setattr("fdl.training.adam.why_not_the_kernel", lambda device: reason)
    given = []

    def kernel(*lists, lr, **options):
        given.extend([lr, *(tensor for tensors in lists for tensor in tensors)])

    monkeypatch.setattr(torch, "_fused_adam_", kernel)
    said = []
    flat = FlatAdam(torch.zeros(6, device="meta"), torch.zeros(6, device="meta"), 0.01, said.append)
    assert (flat._gpu_step, said) == (step, lines)
    flat.step()
    assert {(tensor.device.type, tensor.dtype) for tensor in given} <= {("meta", torch.float32)}
    assert len(given) == (6 if reason is None else 0)
