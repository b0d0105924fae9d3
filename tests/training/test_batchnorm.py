"""Re-estimated batch-norm statistics."""

import pytest
import torch
from torch import nn

from fdl.training.batchnorm import evaluation_statistics


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.01), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )


def batches(*sizes):
    torch.manual_seed(1)
    return [torch.randn(size, 3, 8, 8) * 3 + 5 for size in sizes]


def test_statistics_of_one_batch_give_the_outputs_of_a_training_pass():
    """With the statistics of a batch, evaluating it equals the training pass (up to the variance's n - 1)."""
    model, (batch,) = net(), batches(16)
    expected = model.train()(batch)
    with evaluation_statistics([model], [batch], "reestimate"):
        actual = model(batch)
    torch.testing.assert_close(actual, expected, rtol=5e-3, atol=5e-3)


def test_batches_are_weighted_by_their_images():
    model, parts = net(), batches(10, 10, 1)
    means = [model[0](part).mean((0, 2, 3)) for part in parts]
    with evaluation_statistics([model], parts, "reestimate"):
        expected = (10 * means[0] + 10 * means[1] + means[2]) / 21
        torch.testing.assert_close(model[1].running_mean, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["moving", "reestimate"])
def test_an_evaluation_leaves_the_nets_as_they_were(rule):
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with evaluation_statistics([model], batches(4, 4), rule):
        assert not model.training
        assert not model[1].training
        model(torch.randn(2, 3, 8, 8))
    assert model.training
    assert model[1].training
    assert model[1].momentum == 0.01
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_error_inside_restores_the_statistics():
    model = net()
    before = model[1].running_mean.clone()
    with pytest.raises(RuntimeError, match="inside"), evaluation_statistics([model], batches(4), "reestimate"):
        raise RuntimeError("inside")
    assert torch.equal(model[1].running_mean, before)
