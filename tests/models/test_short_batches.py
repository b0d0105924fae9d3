"""Images that fill a batch up change no number of those that count."""

import pytest
import torch
from torch.nn import functional

from fdl.models.fused import FusedNets, Pass
from fdl.models.short_batches import batch_norm
from tests.training import cells
from tests.training.cells import CLASSES

EPSILON = 1e-3


def inputs(dtype=torch.float64):
    """Four images of six channels, of which the first three see three images, the others all."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(4, 6, 3, 5, generator=generator, dtype=dtype) for _ in range(2))
    weight, bias = (torch.randn(6, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    share = torch.full((4, 6), 1 / 4 / 15, dtype=torch.float64)
    share[:3, :3], share[3, :3] = 1 / 3 / 15, 0
    return (
        x.contiguous(memory_format=torch.channels_last),
        weight,
        bias,
        share.to(torch.promote_types(dtype, torch.float32)),
        gradient,
    )


def test_it_is_torchs_batch_norm_of_the_images_that_count():
    x, weight, bias, share, gradient = inputs()
    gradient[3, :3] = 0  # nothing that follows looks at the image that does not count
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    normalised, mean, var = batch_norm(x, weight, bias, share, EPSILON)
    normalised.backward(gradient)
    ours = [tensor.grad.clone() for tensor in (x, weight, bias)]
    for tensor in (x, weight, bias):
        tensor.grad = None
    for channels, images in ((slice(3), 3), (slice(3, 6), 4)):
        part = x[:images, channels]
        expected = functional.batch_norm(part, None, None, weight[channels], bias[channels], training=True, eps=EPSILON)
        expected.backward(gradient[:images, channels])
        torch.testing.assert_close(normalised[:images, channels], expected)
        torch.testing.assert_close(mean[channels], part.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(var[channels], part.var(dim=(0, 2, 3), unbiased=False))
    for value, tensor in zip(ours, (x, weight, bias), strict=True):
        torch.testing.assert_close(value, tensor.grad)


def test_its_gradient_is_that_of_its_numbers_also_for_the_images_that_do_not_count():
    x, weight, bias, share, _ = inputs()
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: batch_norm(*given, share, EPSILON)[0], (x, weight, bias))


def test_in_bfloat16_the_statistics_are_those_of_float32():
    x, weight, bias, share, gradient = inputs(torch.bfloat16)
    x.requires_grad_()
    normalised, mean, var = batch_norm(x, weight.float(), bias.float(), share, EPSILON)
    normalised.backward(gradient)
    precise = x.detach().float().requires_grad_()
    expected, *moments = batch_norm(precise, weight.float(), bias.float(), share, EPSILON)
    expected.backward(gradient.float())
    assert (normalised.dtype, x.grad.dtype, mean.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    torch.testing.assert_close([mean, var], moments)
    torch.testing.assert_close(normalised.float(), expected, rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(x.grad.float(), precise.grad, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_a_short_batch_keeps_no_more_for_the_way_back_than_a_whole_one(backbone):
    """In bfloat16, where a copy in float32 is twice the size; masks, shares and statistics are small."""
    from fdl.training.engine import build_members

    settings = cells.settings(backbone=backbone, members=2)
    nets = FusedNets(build_members(settings, CLASSES, "cpu"))

    def kept(images):
        storages = {}

        def keep(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        x = torch.rand(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        keys = torch.zeros(1, 2, dtype=torch.int64)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            nets(x, Pass(momentum=0.01, dropout=keys, images=images))
        return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())

    short = torch.ones(2, 16, dtype=torch.bool)
    short[1, 10:] = False
    assert kept(short) <= 1.15 * kept(None)
