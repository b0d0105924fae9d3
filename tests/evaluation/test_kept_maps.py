"""What is computed from kept feature maps is, bit for bit, what another pass through the nets gives."""

import numpy as np
import pytest
import torch

from fdl.evaluation import kept_maps
from fdl.evaluation.cam import overlap_record, signed_record
from fdl.evaluation.kept_maps import MapKeeper, nets_after_maps, row_numbers
from fdl.training.engine import build_members, load_members, predict, to_input, train
from fdl.training.heads import Outputs, train_head
from tests.training import cells
from tests.training.test_heads import head_options, quiet

SETTINGS = {"width": 0.125, "bn_statistics": "reestimate", "backbone": "vgg"}


def trained(**changes):
    """Members that have learned something, and their images."""
    settings, data = cells.settings(**SETTINGS | changes), cells.data(train=24, validation=30, test=230)
    states = train(settings, data, device="cpu", progress=quiet).states["last"]
    return settings, data, load_members(settings, states, cells.CLASSES, "cpu")


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_maps_are_those_of_the_images(backbone):
    settings, data, nets = trained(backbone=backbone)
    keeper = MapKeeper()
    logits = predict(settings, nets, data.test.pixels, keeper=keeper)
    after_maps, numbers = nets_after_maps(nets, keeper.maps()), row_numbers(len(data.test), "cpu")
    for record, arguments in ((overlap_record, ()), (signed_record, (logits,))):
        expected = record(nets, data.test.pixels, data.test.labels, *arguments, to_input=to_input)
        actual = record(after_maps, numbers, data.test.labels, *arguments, to_input=lambda part: part)
        assert actual.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(actual[name], values)


@pytest.mark.parametrize("name", ["fusion", "stacking"])
def test_a_head_on_kept_outputs_is_the_same_head(name):
    settings, data, nets = trained()
    outputs = {}
    for split, images in (("validation", data.validation), ("test", data.test)):
        keeper = MapKeeper()
        outputs[split] = Outputs(predict(settings, nets, images.pixels, keeper=keeper), keeper.maps())
    arguments = name, settings, head_options(), nets, data
    expected = train_head(*arguments, epoch_done=quiet)
    # None of the nets is asked again before it is tuned.
    actual = train_head(*arguments, epoch_done=quiet, outputs=outputs)
    for combiner, head in expected.items():
        assert head.history == actual[combiner].history
        assert all(torch.equal(head.logits[split], actual[combiner].logits[split]) for split in head.logits)


def test_maps_that_are_too_large_are_not_kept(monkeypatch):
    monkeypatch.setattr(kept_maps, "MOST_BYTES", 1000)
    keeper = MapKeeper()
    keeper.add([torch.zeros(2, 1, 10, 10)])  # 800 bytes
    assert len(keeper.maps()) == 1
    keeper.add([torch.zeros(1, 1, 10, 10)])
    assert keeper.maps() is None


def test_a_net_in_one_piece_has_no_part_after_its_maps():
    net = build_members(cells.settings(backbone="torchvision-resnet18", members=1), 3, "cpu")[0]
    assert nets_after_maps([net], [torch.zeros(1, 1, 1, 1)]) is None
