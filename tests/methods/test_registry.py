"""The methods: known answers, gradients, and that each of them trains."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from fdl.core.method_parameters import method_params
from fdl.core.method_sources import method_source, registered
from fdl.methods.losses import feature_distance
from fdl.methods.registry import METHODS
from fdl.training.engine import train
from tests.training import cells

WEIGHTS = {"cosine_weight": 0.5, "gaussian_weight": 0.3}
LABELS = torch.tensor([0, 2])
STRENGTHS = {name: entry.strength for name, entry in registered().items() if entry.strength is not None}


def parameters(method):
    return method_params(method, method_source(method), WEIGHTS, {})


def added(method, maps, logits=(), labels=LABELS, **changes):
    """A method's loss with its default parameters, or others."""
    return METHODS[method](maps, logits, torch.empty(0), labels, epoch=0, **parameters(method) | changes)


def random_maps(members=3, channels=2, size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(2, channels, size, size, dtype=torch.float64, generator=generator) for _ in range(members)]


def linear_heads(maps, seed=1):
    """Logits of three classes, each member's a linear function of its map."""
    generator = torch.Generator().manual_seed(seed)
    flat = maps[0][0].numel()
    heads = [torch.randn(flat, 3, dtype=torch.float64, generator=generator) for _ in maps]
    return [m.flatten(1) @ head for m, head in zip(maps, heads, strict=True)]


def test_the_ablations_add_up_to_the_full_loss():
    maps = random_maps()
    terms = feature_distance(maps, 1, 1)
    assert added("fdl-cosine", maps).item() == pytest.approx(0.5 * terms.cosine.item())
    assert added("fdl-gaussian", maps).item() == pytest.approx(0.3 * terms.gaussian.item())
    total = added("fdl-cosine", maps) + added("fdl-gaussian", maps)
    assert total.item() == pytest.approx(added("fdl", maps).item(), rel=1e-12)


def test_gncl_of_opposite_members():
    """Mean logits (1, 1): ln 2; alone ln(1 + e^-2) and ln(1 + e^2)."""
    logits = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    alone = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))
    value = added("gncl", [], logits, torch.tensor([0]), strength=0.25)
    assert value.item() == pytest.approx(0.25 * (2 * math.log(2) - alone))


def test_gncl_goes_from_members_alone_to_the_ensemble_alone():
    logits = linear_heads(random_maps())
    alone = sum(functional.cross_entropy(member, LABELS) for member in logits)
    mean = functional.cross_entropy(torch.stack(logits).mean(0), LABELS)
    assert added("gncl", [], logits, strength=0).item() == 0
    assert (alone + added("gncl", [], logits, strength=1)).item() == pytest.approx(3 * mean.item())
    assert added("gncl", [], [logits[0]] * 3).item() == pytest.approx(0, abs=1e-12)
    assert added("gncl", [], logits).item() < 0


def test_cka_is_that_of_kornblith():
    """Against the form with Gram matrices between samples: HSIC(K, L) / √(HSIC(K, K) HSIC(L, L))."""
    maps = random_maps()
    grams = []
    for m in maps:
        x = m.permute(0, 2, 3, 1).reshape(-1, m.shape[1])
        centre = torch.eye(len(x), dtype=x.dtype) - 1 / len(x)
        grams.append(centre @ x @ x.T @ centre)
    pairs = [(grams[i] * grams[j]).sum() / (grams[i].norm() * grams[j].norm()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert added("cka", maps, strength=0.7).item() == pytest.approx(0.7 * 3 * torch.stack(pairs).mean().item())


def test_cka_does_not_see_scale_shift_and_order_of_channels():
    [first, *_] = random_maps()
    for same in (1e6 * first, first + 3, first.flip(1)):
        assert added("cka", [first, same]).item() == pytest.approx(2)
    assert added("cka", [1e15 * first.float(), first.float()]).item() == pytest.approx(2, rel=1e-5)


def test_cka_of_unrelated_channels_and_of_a_dead_map_is_0():
    first, second = torch.zeros(2, 1, 1, 4, 1).unbind()
    first[0, 0, :, 0] = torch.tensor([1.0, 1.0, -1.0, -1.0])
    second[0, 0, :, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert added("cka", [first, second]).item() == 0
    dead = torch.zeros_like(first, requires_grad=True)
    value = added("cka", [first, dead])
    value.backward()
    assert value.item() == 0
    assert dead.grad is not None
    assert dead.grad.isfinite().all()


def smd_of(places, **changes):
    """Members of one channel whose logit is the sum over its map, that is bright in one place each."""
    maps = []
    for place in places:
        m = torch.full((1, 1, 2, 2), -1.0)
        m[0, 0].view(-1)[place] = 5.0
        maps.append(m.requires_grad_())
    logits = [torch.cat([m.sum((2, 3)), torch.zeros(1, 1)], dim=1) for m in maps]
    return added("smd", maps, logits, torch.tensor([0]), **changes).item()


def test_smd_of_members_that_look_at_one_place_and_at_others():
    """Three pairs of cosine 1: log(3 e); of cosine 0: log 3; one of three the same: log(e + 2)."""
    assert smd_of([0, 0, 0], strength=1) == pytest.approx(3 * math.log(3 * math.e))
    assert smd_of([0, 1, 2], strength=1) == pytest.approx(3 * math.log(3))
    assert smd_of([0, 1, 0], strength=0.1) == pytest.approx(0.1 * 3 * math.log(math.e + 2))


def test_smd_looks_at_the_true_class():
    maps = [m.requires_grad_() for m in random_maps()]
    logits = linear_heads(maps)
    assert added("smd", maps, logits, LABELS).item() != added("smd", maps, logits, LABELS.flip(0)).item()


def test_smd_weights_channels_by_their_mean_gradient():
    maps = [m.requires_grad_() for m in random_maps(members=2)]
    logits = linear_heads(maps)
    cams = []
    for m, scores in zip(maps, logits, strict=True):
        slope = torch.stack(
            [torch.autograd.grad(scores[b, c], m, retain_graph=True)[0][b] for b, c in ((0, 0), (1, 2))]
        )
        cams.append((slope.mean((2, 3), keepdim=True) * m).sum(1).clamp(min=0).flatten(1))
    cosines = functional.cosine_similarity(*cams)
    assert 0 < cosines.mean() < 1
    assert added("smd", maps, logits, strength=1).item() == pytest.approx(2 * cosines.mean().item())


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_that_of_finite_differences(method):
    maps = random_maps(seed=5)

    def loss(*leaves):
        # Logits that are no linear function of the map: so the saliency's own gradient counts.
        logits = linear_heads([leaf.square() for leaf in leaves])
        changes = {"strength": 1.0} if method in STRENGTHS else {}
        return added(method, leaves, logits, **changes)

    assert torch.autograd.gradcheck(loss, [m.requires_grad_() for m in maps])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method):
    settings = replace(
        cells.settings(epochs=2, bn_statistics="reestimate"), method=method, method_params=parameters(method)
    )
    history = train(settings, cells.data(), device="cpu", progress=lambda line: None).history
    assert len(history) == 2
    assert all(math.isfinite(value) for row in history for value in row.values())
    added_loss = [row["loss"] - sum(row[f"cross_entropy_{m}"] for m in range(3)) for row in history]
    assert (max(map(abs, added_loss)) > 1e-6) == (METHODS[method] is not METHODS["classical"])  # the controls' too


@pytest.mark.parametrize(("method", "column"), [("fdl-cosine", "cosine"), ("fdl-gaussian", "gaussian")])
def test_an_ablation_lowers_its_own_term(method, column):
    changes = {"epochs": 12, "augment": False}
    with_term, without = (
        train(
            replace(cells.settings(**changes), method=name, method_params=parameters(name) | given),
            cells.data(),
            device="cpu",
            progress=lambda line: None,
        ).history[-1][column]
        for name, given in ((method, {f"{column}_weight": 2.0}), ("classical", {}))
    )
    assert with_term < 0.95 * without


@pytest.mark.parametrize("method", STRENGTHS)
def test_a_neighbour_lowers_what_it_penalises(method):
    """Gradient steps on free maps and heads lower the loss that is added."""
    maps = [m.requires_grad_() for m in random_maps()]
    values = []
    for _ in range(20):
        value = added(method, maps, linear_heads(maps), strength=1.0)
        values.append(value.item())
        steps = torch.autograd.grad(value, maps)
        maps = [(m - 0.1 * step).detach().requires_grad_() for m, step in zip(maps, steps, strict=True)]
    assert values[-1] < values[0]
