"""Where the memory ends, fewer images at a time give the same."""

import gc
import weakref
from functools import partial

import numpy as np
import pytest
import torch

from fdl.core.errors import fact_about_the_machine
from fdl.core.head_settings import HeadSettings
from fdl.evaluation.cam import overlap_record, shown_record, signed_record
from fdl.evaluation.parts import in_parts
from fdl.training.engine import build_members, predict, to_input
from fdl.training.heads import train_head
from tests.training import cells


def limited(most, seen):
    """Work that fails on more than `most` rows, as a GPU does; it notes what it is given."""

    def work(part):
        seen.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return part * 2

    return work


@pytest.mark.parametrize(
    ("most", "tried"), [(9, [4, 4, 1]), (2, [4, 2, 2, 2, 2, 1]), (3, [4, 2, 2, 2, 2, 1]), (1, [4, 2, *[1] * 9])]
)
def test_parts_that_do_not_fit_are_halved_from_there_on(most, tried):
    seen = []
    result = torch.cat(list(in_parts(limited(most, seen), torch.arange(9), 4)))
    assert torch.equal(result, 2 * torch.arange(9))
    assert seen == tried


def test_one_row_that_does_not_fit_is_said_in_one_line():
    with pytest.raises(torch.OutOfMemoryError) as failure:
        list(in_parts(limited(0, []), torch.arange(9), 4))
    said = fact_about_the_machine(failure.value)
    assert said.startswith("this GPU has too little memory (CUDA out of memory. Tried to allocate 2.00 GiB.)")
    assert "\n" not in said


def test_an_attempt_holds_nothing_when_its_halves_are_tried():
    """What filled the memory would fill it still."""
    alive = []

    def work(part):
        assert not any(tensor() is not None for tensor in alive)
        large = torch.zeros(len(part))
        alive.append(weakref.ref(large))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return float(large.sum())

    gc.disable()
    try:
        assert list(in_parts(work, torch.arange(8), 8)) == [0.0] * 4
    finally:
        gc.enable()


def nets_with_little_memory():
    """Members that take four images at a time, a training batch, and not one more."""

    def refuse(net, inputs):
        if len(inputs[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    nets = [net.eval() for net in build_members(cells.settings(), cells.CLASSES, "cpu")]
    for net in nets:
        net.register_forward_pre_hook(refuse)
    return nets


def ample():
    return [net.eval() for net in build_members(cells.settings(), cells.CLASSES, "cpu")]


def test_predictions_and_maps_need_no_more_memory_than_there_is():
    test = cells.data().test
    logits = predict(cells.settings(), ample(), test.pixels)
    torch.testing.assert_close(predict(cells.settings(), nets_with_little_memory(), test.pixels), logits)
    for record in (
        partial(signed_record, pixels=test.pixels, labels=test.labels, logits=logits),
        partial(shown_record, pixels=test.pixels, labels=test.labels, logits=logits),
        partial(overlap_record, pixels=test.pixels, labels=test.labels),
    ):
        expected, little = (record(nets, to_input=to_input) for nets in (ample(), nets_with_little_memory()))
        assert expected.keys() == little.keys()
        for name, values in expected.items():
            if name == "score":
                continue
            np.testing.assert_allclose(little[name], values, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["fusion", "stacking"])
def test_heads_need_no_more_memory_than_a_training_batch(name):
    options = HeadSettings(
        heads=[name],
        epochs=2,
        tuning_epochs=1,
        learning_rates={name: 1e-3},
        tuning_learning_rate=1e-5,
        augment=False,
        units={name: 8},
    )
    cell = cells.settings(selections=["sum"])
    expected, little = (
        train_head(name, cell, options, nets, cells.data(), epoch_done=lambda line: None)
        for nets in (ample(), nets_with_little_memory())
    )
    for combiner, head in expected.items():
        for split, logits in head.logits.items():
            torch.testing.assert_close(little[combiner].logits[split], logits)
