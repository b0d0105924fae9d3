"""Keyed randomness: SplitMix64, the same integers however they are asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdl.core.randomness import PURPOSES, absorb, bits, derive, kept, normal, permutation, uniform

words = st.integers(0, 2**63 - 1)


def test_bits_are_splitmix64():
    # First outputs of the reference implementation (Vigna, splitmix64.c) for state 0 and 1234567.
    expected = {
        0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
        1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423],
    }
    for key, values in expected.items():
        assert [int(value) % 2**64 for value in bits(key, (3,))] == values


@given(words, words, words)
def test_integers_and_tensors_give_the_same_key(seed, first, second):
    plain = derive(seed, "augment", first, second)
    tensors = derive(torch.tensor(seed), "augment", torch.tensor(first), torch.tensor(second))
    assert int(tensors) % 2**64 == plain


@given(st.integers(0, 10_000), st.lists(st.integers(0, 1000), min_size=2, max_size=6, unique=True))
def test_a_vector_of_keys_equals_its_keys_one_by_one(seed, samples):
    key = derive(seed, "augment", 3)
    together = uniform(absorb(key, torch.tensor(samples)), (2, 5))
    assert together.shape == (len(samples), 2, 5)
    for row, sample in zip(together, samples, strict=True):
        assert torch.equal(row, uniform(absorb(key, sample), (2, 5)))


def test_purposes_words_and_their_order_matter():
    keys = [derive(1, purpose, 2, 3) for purpose in PURPOSES] + [derive(1, "order", 3, 2), derive(2, "order", 1, 3)]
    assert len(set(keys)) == len(keys)


@given(
    words,
    st.lists(st.integers(1, 9), min_size=2, max_size=4) | st.just([3, 40, 30, 33]),  # the last: several blocks
    st.floats(0, 0.9999),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.booleans(),
)
def test_what_a_dropout_keeps_is_where_the_uniform_numbers_reach_its_probability(key, shape, p, dtype, channels_last):
    x = torch.zeros(shape, dtype=dtype)
    if channels_last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    ones = kept(key, x, p)
    assert ones.dtype == dtype
    assert torch.equal(ones, (uniform(key, tuple(shape)) >= p).to(dtype))
    assert torch.equal(ones, kept(torch.tensor(key), x, p))


@pytest.mark.parametrize("key", [3, torch.tensor(3)])
def test_a_number_that_equals_the_probability_is_kept_and_one_just_below_is_not(key):
    x = torch.zeros(1, 2**16)
    numbers = uniform(3, (1, 2**16))
    edge = numbers[numbers < 0.25].max()
    for p in (edge, torch.nextafter(edge, torch.tensor(1.0))):
        ones = kept(key, x, p.item())
        assert ones[numbers == edge].item() == (p == edge)
        assert torch.equal(ones, (numbers >= p).float())


@pytest.mark.parametrize("shape", [(5,), (2, 0), (0, 3), (2, 0, 4)])
def test_a_dropout_takes_vectors_and_empty_batches(shape):
    ones = kept(3, torch.zeros(shape), 0.5)
    assert torch.equal(ones, (uniform(3, shape) >= 0.5).float())


def test_numbers_lie_on_the_device_that_is_asked_for():
    x = torch.zeros(2, 3, device="meta")  # torch's stand-in for a device: shapes without values
    for numbers in (kept(3, x, 0.5), uniform(3, (2, 3), "meta"), normal(3, (2, 3), "meta")):
        assert (numbers.device, numbers.shape) == (x.device, x.shape)


def test_uniform_and_normal_numbers_are_what_they_say():
    u = uniform(7, (200_000,))
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, bins=100, min=0, max=1)
    chi2 = ((counts - 2000) ** 2 / 2000).sum().item()
    assert 60 < chi2 < 150  # 99 degrees of freedom: 99 ± 14
    z = normal(8, (200_000,), dtype=torch.float64)
    assert abs(z.mean()) < 0.01
    assert z.std().item() == pytest.approx(1, abs=0.01)
    assert (z.abs() > 1.96).double().mean().item() == pytest.approx(0.05, abs=0.003)
    for dtype, precision in ((torch.float32, 24), (torch.float64, 53)):  # all that the type holds without rounding
        steps = uniform(9, (1000,), dtype=dtype) * 2**precision
        assert torch.equal(steps, steps.floor())
        assert (steps % 2 == 1).any()
    neighbours = torch.corrcoef(torch.stack([uniform(7, (100_000,)), uniform(8, (100_000,))]))
    assert abs(neighbours[0, 1]) < 0.01


@given(words, st.integers(1, 50))
def test_permutation_is_one(key, n):
    assert sorted(permutation(key, n).tolist()) == list(range(n))


def test_keys_have_not_changed():
    """Every stored number hangs on them: TRAINING_VERSION and HEADS_VERSION go up together with these."""
    assert PURPOSES == {
        "weights": 1,
        "order": 2,
        "augment": 3,
        "dropout": 4,
        "validation": 5,
        "synthetic": 6,
        "head": 7,
        "member": 8,
    }
    assert derive(0, "weights") == 343509705374080449
    assert derive(5, "order", 3, 1) == 12292405443632199300
    assert permutation(derive(5, "order", 3, 1), 8).tolist() == [0, 6, 2, 5, 7, 3, 1, 4]
