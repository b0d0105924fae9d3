"""The controls: what a cell of each is asked to train."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fdl.core.controls import CONTROLS
from fdl.core.errors import InputError
from fdl.core.head_settings import head_settings
from fdl.core.method_sources import method_source
from fdl.core.protocol import BACKBONES
from fdl.core.settings import Cell, Params, resolve
from fdl.models import build
from tests.projects import FILE


def grid(**overrides: object) -> Params:
    return resolve(FILE, preset="paper", overrides={"methods": ["classical", *CONTROLS]} | overrides)


def asked(params: Params, method: str) -> dict[str, object]:
    """Training settings without what names the cell."""
    settings = params.training_settings(Cell("neu", "vgg", 3, method, 0))
    return {name: value for name, value in settings.items() if name != "cell"}


def test_a_control_differs_from_classical_in_one_thing() -> None:
    params = grid()
    classical = asked(params, "classical")
    differences = {
        method: {name: value for name, value in asked(params, method).items() if value != classical.get(name)}
        for method in CONTROLS
    }
    assert differences == {
        "deep-ensemble": {"own_batches": True},
        "wide": {"members": 1, "width": math.sqrt(5)},
        "tuned": {"learning_rates": [pytest.approx(1e-3 / 3), 1e-3, pytest.approx(3e-3)]},
    }


@pytest.mark.parametrize("method", CONTROLS)
def test_the_loss_of_a_control_is_that_of_classical(method: str) -> None:
    assert method_source(method).digest == method_source("classical").digest


def test_the_width_and_rates_follow_the_settings() -> None:
    params = grid(members=4, width=0.5, learning_rate=0.01)
    assert asked(params, "wide")["width"] == 1.0
    assert asked(params, "tuned")["learning_rates"] == pytest.approx([0.01 / 3, 0.01, 0.03])


def test_a_single_net_has_no_heads() -> None:
    params = grid(heads=["fusion", "stacking"])
    assert head_settings(params, Cell("neu", "vgg", 3, "wide", 0)) is None
    assert head_settings(params, Cell("neu", "vgg", 3, "deep-ensemble", 0)) is not None


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_wide_net_costs_as_much_as_five(backbone: str) -> None:
    """Within a tenth, in a forward pass at the smallest of the authors' image sizes."""
    flops = []
    for width in (0.25, 0.25 * math.sqrt(5)):
        net = build(backbone, "cifar10", width=width).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, 3, 32, 32))
        flops.append(counter.get_total_flops())
    assert flops[1] / flops[0] == pytest.approx(5, rel=0.1)


def test_a_control_takes_no_parameters() -> None:
    with pytest.raises(InputError, match="tuned takes no parameter 'rate'"):
        grid(method_params={"tuned": {"rate": 1.0}})


def test_a_net_of_torchvision_cannot_be_widened() -> None:
    with pytest.raises(InputError, match="wide needs a backbone whose width can be set; torchvision-resnet18"):
        grid(backbones=["alexnet", "torchvision:resnet18"])
    grid(
        grid=[
            {"backbones": ["alexnet"]},
            {"backbones": ["torchvision:resnet18"], "methods": ["classical", "deep-ensemble", "tuned"]},
        ]
    )
