"""Every form of the convolutions is the loop over single nets, up to rounding."""

import pytest
import torch

from fdl.core.protocol import DATASETS
from fdl.models import build
from fdl.models.convolutions import BACK_ENDS
from fdl.models.fused import FusedNets, Pass

VARIANTS = [(dataset, backbone) for dataset in DATASETS for backbone in ("alexnet", "vgg", "resnet")]


@pytest.mark.parametrize(("dataset", "backbone"), VARIANTS)
def test_all_networks_in_every_form_are_those_of_the_loop(dataset, backbone):
    """In float64: the feature maps, logits and gradients of four nets, of which two see the same images."""
    members = [build(backbone, dataset, 3, 37, 0.0625, member=m).double().train() for m in range(4)]
    images = [torch.rand(3, 3, 37, 37, dtype=torch.float64) for _ in range(2)]
    forms = {name: FusedNets(members, inputs=2) for name in BACK_ENDS}
    outputs = {}
    for back_end, nets in forms.items():
        convolutions = [name for name, module in members[0].named_modules() if isinstance(module, torch.nn.Conv2d)]
        nets.back_ends = {"training": dict.fromkeys(convolutions, back_end)}
        inputs = torch.cat(images, dim=1).contiguous(memory_format=torch.channels_last)
        outputs[back_end] = nets(inputs, Pass(momentum=0.01))
        sum(output.square().sum() for output in outputs[back_end]).backward()
    for number, member in enumerate(members):
        for module in member.modules():
            if hasattr(module, "p"):
                module.p = 0  # the fused nets got no key, and drop nothing
        expected = member(images[number // 2])
        sum(output.square().sum() for output in expected).backward()
        for back_end, (logits, maps) in outputs.items():
            torch.testing.assert_close((logits[number], maps[:, number]), expected, rtol=1e-10, atol=1e-10)
            for name, parameter in member.named_parameters():
                gradient, scale = forms[back_end].parameters[name].grad[number], max(1.0, parameter.grad.abs().max())
                assert float((gradient - parameter.grad).abs().max()) <= 1e-10 * scale, (back_end, name)


@pytest.mark.parametrize(("dataset", "backbone"), VARIANTS)
def test_batch_norm_in_the_weights_is_batch_norm_after_the_convolution(dataset, backbone, monkeypatch):
    """In float64, and as often as the weights or the statistics change; the maps are not normalised any more."""
    members = [build(backbone, dataset, 3, 37, 0.0625, member=m).double() for m in range(4)]
    nets = FusedNets(members, inputs=2)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(3, 6, 37, 37, dtype=torch.float64, generator=generator)
        for name, value in (nets.parameters | nets.buffers).items():
            if value.is_floating_point() and (value.dim() == 2 or "running" in name):
                value.data.copy_(torch.rand(value.shape, dtype=torch.float64, generator=generator) + 0.5)
        with torch.no_grad():
            expected = nets(images)
            nets.fold(autocast=False)
            with monkeypatch.context() as patch:
                patch.setattr("torch.nn.functional.batch_norm", None)  # is not called
                torch.testing.assert_close(nets(images, Pass(folded=True)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_weights_that_are_cast_once_are_as_near_to_float32_as_those_that_every_pass_casts(backbone):
    nets = FusedNets([build(backbone, "cifar10", 10, 32, 0.25, member=m) for m in range(3)])
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        nets(images, Pass(momentum=0.5))  # moves the statistics
        exact = nets(images)[0]
        nets.fold(autocast=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast_by_pass = nets(images)[0]
            for name, module in nets.template.named_modules():
                if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                    nets.parameters[f"{name}.weight"].zero_()  # a pass does not read them any more
            cast_once = nets(images, Pass(folded=True))[0]
    ours, theirs = ((logits.float() - exact).norm() / exact.norm() for logits in (cast_once, cast_by_pass))
    assert ours <= max(1.5 * theirs, 0.01)
