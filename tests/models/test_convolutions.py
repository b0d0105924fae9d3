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
