"""Grad-CAM against captum's; maps that are empty, saturated or planted; what a record holds."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torch.nn import functional

from fdl.evaluation.cam import (
    CLASSES,
    OF_EACH,
    compared_positions,
    grad_cam,
    normalise,
    overlap_record,
    pair_correlations,
    pair_cosines,
    shown_record,
    signed_record,
)
from fdl.evaluation.overlap import empty_maps, left_out, on_same_images, overlap, signed_bounds, signed_overlap
from fdl.models import build
from fdl.training.batchnorm import evaluation_statistics
from fdl.training.engine import build_members, predict, to_input, train
from fdl.training.state import CellData, Images
from tests.training.cells import settings

# As a training batch: every net's scores differ between images.
IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CLASS = torch.tensor([0, 3, 1, 1, 2])


def members(backbone="alexnet", count=2):
    """Narrow untrained nets in evaluation mode; four classes."""
    return [build(backbone, "cifar10", 4, width=0.125, init_seed=1, member=m).eval() for m in range(count)]


class Linear(nn.Module):
    """One channel of features, the image's first, and logits that are its sum times a weight per class."""

    def __init__(self, *weights):
        super().__init__()
        self.weights = torch.tensor(weights)

    def forward(self, x):
        """As a member."""
        feature_map = x[:, :1]
        return feature_map.sum(dim=(-2, -1)) * self.weights, feature_map


@pytest.mark.parametrize("score", ["probability", "logit"])
@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_maps_equal_captums(backbone, score):
    nets = [net.double() for net in members(backbone)]
    maps = grad_cam(nets, IMAGES.double(), CLASS, score=score)
    assert maps.shape == (2, 5, 4, 4)
    for net, ours in zip(nets, maps, strict=True):

        def scores(images, net=net):
            logits = net(images)[0]
            return logits.softmax(1) if score == "probability" else logits

        oracle = LayerGradCam(scores, net.features).attribute(IMAGES.double(), target=CLASS)
        torch.testing.assert_close(ours, oracle[:, 0].detach(), rtol=1e-9, atol=1e-14)
        assert ours.abs().max() > 1e-4


def test_each_member_may_explain_a_class_of_its_own():
    nets = members()
    of_each = torch.stack([CLASS, CLASS.flip(0)])
    maps = grad_cam(nets, IMAGES, of_each)
    assert torch.equal(maps[0], grad_cam(nets, IMAGES, CLASS)[0])
    assert torch.equal(maps[1], grad_cam(nets, IMAGES, CLASS.flip(0))[1])


def test_a_saturated_softmax_leaves_the_map_its_shape():
    # Logits about 90 apart: in float32 and float64 the probability is 1, and its own gradient 0 or rounded.
    images = 4 + torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    net = Linear(1.0, -0.25).eval()
    assert (net(images)[0].double().softmax(1)[:, 0] == 1).all()
    maps, empty = normalise(grad_cam([net], images, torch.tensor([0, 0])))
    assert not empty.any()
    torch.testing.assert_close(maps[0], images[:, 0] / images[:, 0].amax(dim=(-2, -1), keepdim=True))


def test_nets_in_training_mode_are_refused():
    nets = members()
    nets[1].train()
    with pytest.raises(ValueError, match="evaluation mode"):
        grad_cam(nets, IMAGES, CLASS)


def test_weights_get_no_gradient_and_none_is_needed():
    nets = members()
    expected = grad_cam(nets, IMAGES, CLASS)
    assert all(weight.grad is None for net in nets for weight in net.parameters())
    for net in nets:
        net.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(grad_cam(nets, IMAGES, CLASS), expected)


def test_normalised_maps_are_positive_with_maximum_one_and_empty_ones_are_marked():
    maps = torch.tensor([[[-1.0, 2.0], [4.0, 0.0]], [[-1.0, -2.0], [0.0, -3.0]], [[0.0, 0.0], [0.0, 1e-300]]]).double()
    maps[2, 1, 1] = 1e-300
    normalised, empty = normalise(maps)
    assert normalised.tolist() == [[[0, 0.5], [1, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]]
    assert empty.tolist() == [False, True, False]


def test_pairs_with_an_empty_map_are_left_out_of_the_overlap():
    left, right, both, nothing = [[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]]
    #                   image 0  image 1  image 2
    maps = torch.tensor([[left, left, nothing], [right, both, nothing], [both, nothing, left]])
    cosines = pair_cosines(maps)  # of members 01, 02, 12
    half = 0.5**0.5
    assert cosines.tolist() == pytest.approx(np.array([[0, half, 0], [half, 0, 0], [half, 0, 0]]))
    missing = np.array([[0, 0, 1], [0, 1, 1], [0, 1, 1]], bool)
    mean, pairs, share = overlap(cosines.numpy(), missing)
    assert mean == pytest.approx([2 * half / 3, half, 0])
    assert pairs.tolist() == [3, 1, 0]
    assert share == pytest.approx(5 / 9)


def test_signed_maps_correlate_as_pearson_says_and_constant_ones_not_at_all():
    maps = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(2)).double()
    maps[1, 0] = -3 * maps[0, 0] + 2  # the same map turned round
    maps[2, 1] = 0.1  # the same value everywhere, and so is the next: no place stands out
    maps[2, 2] = 0
    maps[:, 3] *= 1e-200  # of a net that is very sure
    found = pair_correlations(maps).numpy()
    assert found.shape == (3, 4)
    assert found[0, 0] == pytest.approx(-1)
    assert np.isnan(found).tolist() == [[False] * 4, [False, True, True, False], [False, True, True, False]]
    for pair, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
        for image in np.flatnonzero(~np.isnan(found[pair])):
            x, y = (1e200 ** (image == 3) * maps[m, image].flatten().numpy() for m in (a, b))
            assert found[pair, image] == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_signed_maps_are_of_the_first_images_of_each_class_in_turn():
    labels = torch.tensor([2, 2, 2, 0, 1, 0, 2, 1])
    assert compared_positions(labels, 100).tolist() == list(range(8))
    # First of classes 0, 1, 2: 3, 4, 0; then the second: 5, 7, 1; then the third of class 2: 2.
    assert compared_positions(labels, 3).tolist() == [0, 3, 4]
    assert compared_positions(labels, 5).tolist() == [0, 3, 4, 5, 7]
    assert compared_positions(labels, 7).tolist() == [0, 1, 2, 3, 4, 5, 7]
    many = torch.arange(5000) // 500
    chosen = compared_positions(many)
    assert (len(chosen), torch.bincount(many[chosen]).tolist()) == (1000, [100] * 10)


def test_a_record_holds_the_correlations_of_the_maps_of_what_each_member_predicts():
    nets = members(count=3)
    pixels = (IMAGES * 255).to(torch.uint8)
    logits = torch.stack([net(to_input(pixels))[0].detach() for net in nets])
    logits[1, 0] = torch.tensor([0.0, 0, 9, 0])  # what is stored counts, not what this precision says
    record = signed_record(nets, pixels, CLASS, logits, to_input=to_input, batch=2)
    assert record["signed_positions"].tolist() == list(range(5))
    assert record["signed_correlations"].dtype == np.float16
    maps = grad_cam(nets, to_input(pixels), logits.argmax(-1), score="logit")
    assert record["signed_correlations"] == pytest.approx(pair_correlations(maps).numpy(), abs=5e-4, nan_ok=True)
    alone = signed_record(nets[:1], pixels, CLASS, logits[:1], to_input=to_input)
    assert alone["signed_correlations"].shape == (0, 5)
    assert signed_overlap(alone["signed_correlations"]) == (None, 1.0)


def test_a_pair_without_a_correlation_could_have_had_any():
    mine = np.array([[0.5, np.nan], [0.25, 0.0]], np.float32)
    other = np.array([[0.75, 0.5], [0.75, np.nan]], np.float32)
    assert signed_overlap(mine) == (0.25, 0.25)
    low, high = signed_bounds(mine, other)
    # Image 0 is known: 0.375 - 0.75. Image 1: (-1 + 0) / 2 to (1 + 0) / 2 minus (0.5 + 1) / 2 to (0.5 - 1) / 2.
    assert low.tolist() == [-0.375, -1.25]
    assert high.tolist() == [-0.375, 0.75]


def planted(count, *, corner):
    """Noise with a square per image, red, green or blue by class, in one corner (y, x)."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 3
    y, x = corner
    pixels[:, :, y : y + 8, x : x + 8] = 255 * functional.one_hot(labels)[:, :, None, None].to(torch.uint8)
    return Images(pixels, labels)


def test_the_maps_of_trained_nets_peak_at_planted_evidence():
    training, test = planted(30, corner=(0, 24)), planted(24, corner=(0, 24))
    data = CellData(training, test, test, small=torch.arange(3), num_classes=3)
    cell = settings(
        backbone="resnet", members=2, width=0.125, epochs=8, batch_size=10, learning_rate=3e-3, augment=False
    )
    states = train(cell, data, device="cpu", progress=lambda line: None).states["last"]
    nets = build_members(cell, 3, "cpu")
    for net, state in zip(nets, states, strict=True):
        net.load_state_dict(state)
    with evaluation_statistics(nets, [to_input(training.pixels)], "reestimate"):
        assert (predict(cell, nets, test.pixels).argmax(-1) == test.labels).all()
        maps, _ = normalise(grad_cam(nets, to_input(test.pixels), test.labels))
    top_right = 3
    assert (maps.flatten(2).argmax(dim=-1) == top_right).double().mean() > 0.9


def test_a_record_holds_the_overlap_of_all_images_and_maps_of_the_first_of_each_class():
    nets = members(count=3)
    pixels = (IMAGES * 255).to(torch.uint8)
    record = overlap_record(nets, pixels, CLASS, to_input=to_input, batch=2)
    logits = torch.stack([net(to_input(pixels))[0].detach() for net in nets])
    record |= shown_record(nets, pixels, CLASS, logits, to_input=to_input)
    maps, empty = normalise(grad_cam(nets, to_input(pixels), CLASS))
    first = np.array([0, 2, 3, 4, 1])  # of classes 0 to 3
    assert record["positions"].tolist() == first.tolist()
    assert record["labels"].tolist() == [0, 1, 1, 2, 3]
    assert np.array_equal(record["pixels"], pixels[first].permute(0, 2, 3, 1))
    assert record["maps_true"].dtype == np.float16
    assert record["maps_true"] == pytest.approx(maps[:, first].numpy(), abs=1e-3)
    assert record["cosines"] == pytest.approx(pair_cosines(maps).numpy(), abs=1e-3)
    assert empty.any()
    assert np.array_equal(empty_maps(record), empty)
    assert np.array_equal(left_out(record), [(empty[i] | empty[j]).tolist() for i, j in ((0, 1), (0, 2), (1, 2))])
    vote = logits.double().softmax(-1).sum(0).argmax(1)
    assert record["voted"].tolist() == vote[first].tolist()
    for m, net in enumerate(nets):
        predicted = net(to_input(pixels))[0].argmax(1)
        assert record["predicted"][m].tolist() == predicted[first].tolist()
        own, _ = normalise(grad_cam([net], to_input(pixels), predicted))
        assert record["maps_predicted"][m] == pytest.approx(own[0, first].numpy(), abs=1e-3)


def test_the_overlap_is_of_a_thousand_test_images_the_first_of_each_class():
    labels = torch.arange(1300) % 3
    pixels = (torch.rand(1300, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 255).to(torch.uint8)
    nets = members(count=2)
    whole = normalise(grad_cam(nets, to_input(pixels), labels))
    record = overlap_record(nets, pixels, labels, to_input=to_input)
    chosen = compared_positions(labels)
    assert record["cosines"].shape == (1, len(chosen)) == (1, 1000)
    assert record["cosines"] == pytest.approx(pair_cosines(whole[0])[:, chosen].numpy(), abs=1e-3)
    assert np.array_equal(empty_maps(record), whole[1][:, chosen].numpy())


def test_records_of_all_and_of_some_test_images_are_compared_on_the_same_ones():
    generator = np.random.default_rng(0)
    older = {"cosines": generator.random((3, 20)), "empty": np.packbits(generator.random((3, 20)) < 0.5, axis=-1)}
    positions = np.array([0, 2, 3, 7, 11, 12, 13, 17, 19])
    newer = {
        "cosines": generator.random((3, 9)),
        "empty": np.packbits(generator.random((3, 9)) < 0.5, axis=-1),
        "signed_positions": positions,
    }
    narrowed, same = on_same_images([older, newer])
    assert np.array_equal(narrowed["cosines"], older["cosines"][:, positions])
    assert np.array_equal(empty_maps(narrowed), empty_maps(older)[:, positions])
    assert all(np.array_equal(same[name], newer[name]) for name in newer)
    alike = on_same_images([older, older])
    assert all(np.array_equal(one[name], older[name]) for one in alike for name in older)


def test_a_record_shows_a_few_images_of_ten_classes_at_most():
    labels = torch.arange(60) // 5
    pixels = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8)
    net = build("alexnet", "cifar10", 12, 16, 0.0625).eval()
    record = shown_record([net], pixels, labels, torch.zeros(1, 60, 12), to_input=to_input)
    record |= overlap_record([net], pixels, labels, to_input=to_input)
    assert record["positions"].tolist() == [5 * label + n for label in range(CLASSES) for n in range(OF_EACH)]
    assert record["cosines"].shape == left_out(record).shape == (0, 60)
    assert overlap(record["cosines"], left_out(record))[2] == 1


def test_a_record_shows_forty_images_at_most_four_of_each_class():
    """The size of a record, and the same images in all records ever made."""
    assert (CLASSES, OF_EACH) == (10, 4)


def test_a_record_holds_the_descriptors_and_the_cells_that_the_loss_keeps():
    nets, labels = members(), torch.tensor([0, 0, 1, 2, 3])
    record = shown_record(nets, (IMAGES * 255).to(torch.uint8), labels, torch.zeros(2, 5, 4), to_input=to_input)
    for member, net in enumerate(nets):
        mean = net(to_input((IMAGES * 255).to(torch.uint8)))[1].detach().mean(1)
        kept = mean > mean.mean((1, 2), keepdim=True)
        assert 0 < kept.sum() < kept.numel()
        assert record["descriptors"][member] == pytest.approx(mean.numpy(), abs=1e-3)
        assert (mean > 0).sum() > kept.sum()
        assert np.array_equal(record["descriptor_mask"][member], kept.numpy())


def test_overlap_of_one_pair_of_maps_of_one_image():
    mean, pairs, share = overlap(np.array([[0.25]]), np.array([[False]]))
    assert (mean.tolist(), pairs.tolist(), share) == ([0.25], [1], 0)
    mean, pairs, share = overlap(np.array([[0.25]]), np.array([[True]]))
    assert (mean.tolist(), pairs.tolist(), share) == ([0], [0], 1)
