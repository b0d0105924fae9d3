"""The feature distance loss against a plain re-statement of docs/reference.md 2.1."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdl.methods.losses import descriptor, feature_distance


def plain_terms(maps):
    """Both terms, cell by cell, as the formulas are written; scalars of float64 tensors."""
    cosine = gaussian = torch.zeros((), dtype=torch.float64)
    batch, channels, height, width = maps[0].shape
    for first, second in combinations(maps, 2):
        for b in range(batch):
            d = []
            for feature_map in (first, second):
                a = sum(feature_map[b, c] for c in range(channels)) / channels
                mu = a.detach().mean()
                cells = [a[y, x] for y in range(height) for x in range(width)]
                d.append([cell if cell.detach() > mu else cell * 0 for cell in cells])
            dot = sum(p * q for p, q in zip(*d, strict=True))
            norms = [sum(p * p for p in cells) for cells in d]
            floored = [norm if norm.detach() > 1e-12 else torch.tensor(1e-12, dtype=torch.float64) for norm in norms]
            cosine = cosine + dot / (floored[0].sqrt() * floored[1].sqrt()) / batch
            cells = [torch.exp(-((p - q) ** 2)) for p, q in zip(*d, strict=True)]
            gaussian = gaussian + sum(cells) / len(cells) / batch
    return cosine, gaussian


KINDS = {
    "relu": lambda x: x.relu(),
    "signed": lambda x: x,
    "mostly negative": lambda x: x - 2,
    "dead member": lambda x: torch.cat([x[:1] * 0, x[1:].relu()]),
    "all dead": lambda x: x * 0,
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_equal_the_formulas(kind):
    torch.manual_seed(1)
    stacked = KINDS[kind](torch.randn(4, 3, 5, 3, 4, dtype=torch.float64)).requires_grad_()
    result = feature_distance(list(stacked), 0.5, 3.0)
    cosine, gaussian = plain_terms(list(stacked))
    torch.testing.assert_close(result.cosine, cosine, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.gaussian, gaussian, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.total, 0.5 * cosine + 3 * gaussian, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(result.total, stacked)
    (expected,) = torch.autograd.grad(0.5 * cosine + 3 * gaussian, stacked)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert torch.isfinite(gradient).all()


def test_gradient_numerically():
    torch.manual_seed(2)
    maps = [torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *m: feature_distance(m, 1, 10).total, maps)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_equal_members_are_the_maximum_and_order_does_not_matter(members, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.rand(2, 4, 4, 4, dtype=torch.float64, generator=generator) for _ in range(members)]
    pairs = math.comb(members, 2)
    same = feature_distance([maps[0]] * members, 1, 1)
    assert same.cosine.item() == pytest.approx(pairs)
    assert same.gaussian.item() == pytest.approx(pairs)
    result = feature_distance(maps, 1, 1)
    assert 0 <= result.cosine.item() < pairs
    assert 0 < result.gaussian.item() < pairs
    reverse = feature_distance(maps[::-1], 1, 1)
    assert reverse.total.item() == pytest.approx(result.total.item())


def test_disjoint_masks_have_cosine_zero_and_a_dead_map_too():
    left, right = torch.zeros(2, 1, 1, 2, 2)
    left[..., 0, 0] = 1
    right[..., 1, 1] = 1
    assert feature_distance([left, right], 1, 1).cosine.item() == 0
    assert feature_distance([left, left * 0], 1, 1).cosine.item() == 0


def test_threshold_is_strict_and_without_mask_nothing_is_cut():
    feature_map = torch.tensor([[[[1.0, 1.0], [1.0, 1.0]]]])
    assert descriptor(feature_map).abs().sum() == 0  # nothing is strictly above the mean
    assert torch.equal(descriptor(feature_map, mask=False), feature_map[:, 0])


def test_max_norm_scales_to_one_and_maps_zero_to_zero():
    feature_map = torch.rand(2, 3, 4, 4)
    assert torch.allclose(descriptor(feature_map, max_norm=True).amax((-2, -1)), torch.ones(2))
    assert torch.equal(descriptor(feature_map * 0, max_norm=True), torch.zeros(2, 4, 4))


def test_a_weight_of_zero_keeps_its_term_out_of_the_graph():
    maps = [torch.rand(1, 2, 3, 3), torch.full((1, 2, 3, 3), math.nan, requires_grad=True)]
    assert feature_distance(maps, 0, 0).total.item() == 0


def test_low_precision_maps_are_compared_in_float32():
    torch.manual_seed(0)
    maps = [torch.rand(2, 8, 4, 4).bfloat16() for _ in range(3)]
    low = feature_distance(maps, 1, 1)
    exact = feature_distance([m.float() for m in maps], 1, 1)
    assert low.total.dtype == torch.float32
    assert torch.equal(low.total, exact.total)


@pytest.mark.parametrize("maps", [[torch.rand(1, 2, 3, 3)], [torch.rand(1, 2, 3, 3), torch.rand(1, 2, 4, 4)]])
def test_wrong_maps_are_named(maps):
    with pytest.raises(ValueError, match="two or more maps"):
        feature_distance(maps, 1, 1)


@pytest.mark.parametrize(("squared_norm", "cosine"), [(1e-7, 1), (2e-12, 1), (5e-13, 0.5), (1e-14, 0.01)])
def test_the_squared_norm_has_a_floor_of_1e_12(squared_norm, cosine):
    """docs/reference.md 2.1, as Keras normalises: below the floor the cosine of equal maps is norm² / 1e-12."""
    feature_map = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    feature_map[..., 0, 0] = math.sqrt(squared_norm)
    result = feature_distance([feature_map, feature_map], 1, 1)
    assert result.cosine.item() == pytest.approx(cosine, rel=1e-9)


def test_a_pair_of_maps_by_hand():
    """Channel means 1 and 3 above, 4 and 0 below, of spatial mean 2: 3 and 4 are kept. The other keeps 5 and 3."""
    left = torch.tensor([[0.0, 2.0], [8.0, 0.0]]), torch.tensor([[2.0, 4.0], [0.0, 0.0]])
    first = torch.stack(left)[None].double()
    second = torch.tensor([[1.0, 3.0], [0.0, 5.0]]).double().expand(1, 2, 2, 2)
    assert descriptor(first).tolist() == [[[0, 3], [4, 0]]]
    assert descriptor(first, max_norm=True).tolist() == [[[0, 0.75], [1, 0]]]
    assert descriptor(second).tolist() == [[[0, 3], [0, 5]]]
    result = feature_distance([first, second], 2, 10)
    cosine, gaussian = 9 / (5 * math.sqrt(34)), (1 + 1 + math.exp(-16) + math.exp(-25)) / 4
    assert result.cosine.item() == pytest.approx(cosine)
    assert result.gaussian.item() == pytest.approx(gaussian)
    assert result.total.item() == pytest.approx(2 * cosine + 10 * gaussian)


def test_max_norm_of_a_peak_of_one_and_of_a_dead_map():
    """A peak of 1 stays 1; a dead map is 0 with gradient 0, where 0/0 would make both NaN."""
    assert descriptor(torch.tensor([[[0.0, 1.0]]]), max_norm=True).tolist() == [[0, 1]]
    dead = torch.zeros(1, 2, 2, requires_grad=True)
    descriptor(dead, max_norm=True).sum().backward()
    assert not dead.grad.any()
