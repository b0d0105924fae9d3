"""The training loop: what methods share, what they must not touch, which epoch is kept."""

import math

import pytest
import torch
from torch.nn import functional

from fdl.core.randomness import derive
from fdl.models.layers import set_dropout_key
from fdl.training import engine
from fdl.training.adam import Adam
from fdl.training.engine import (
    build_members,
    epoch_batches,
    load_members,
    member_batches,
    member_settings,
    predict,
    train,
)
from fdl.training.state import Diverged
from tests.training import cells


def quiet(line):
    """No progress."""


def states_equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_classical_is_nets_trained_separately_bit_for_bit(backbone):
    """Here each net is trained alone, with an optimiser of its own."""
    settings, data = cells.settings(backbone=backbone), cells.data()
    trained = train(settings, data, device="cpu", progress=quiet)
    for member in range(settings.members):
        net = build_members(settings, cells.CLASSES, "cpu")[member]
        optimiser = Adam([net], settings.learning_rate)
        for epoch in range(settings.epochs):
            for step, inputs, labels in epoch_batches(settings, data.train, epoch):
                set_dropout_key(net, derive(settings.seed, "dropout", epoch, step, member))
                optimiser.zero_grad()
                functional.cross_entropy(net(inputs)[0], labels).backward()
                optimiser.step()
        assert states_equal(net.state_dict(), trained.states["last"][member]), f"member {member}"


def test_a_broken_member_leaves_the_others_of_a_classical_ensemble_untouched(monkeypatch):
    settings, data = cells.settings(epochs=1), cells.data()
    healthy = train(settings, data, device="cpu", progress=quiet).states["last"]
    nets = build_members(settings, cells.CLASSES, "cpu")
    with torch.no_grad():
        next(nets[1].parameters()).fill_(math.nan)
    monkeypatch.setattr(engine, "build_members", lambda *_: nets)
    with pytest.raises(Diverged, match="epoch 0: member 1: the cross-entropy is nan") as failure:
        train(settings, data, device="cpu", progress=quiet)
    assert failure.value.epoch == 0
    assert len(failure.value.history) == 1
    assert states_equal(nets[0].state_dict(), healthy[0])
    assert states_equal(nets[2].state_dict(), healthy[2])


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_training_twice_gives_the_same_bits(backbone):
    settings, data = cells.settings(backbone=backbone, method="fdl"), cells.data()
    first, second = (train(settings, data, device="cpu", progress=quiet) for _ in range(2))
    assert first.history == second.history
    for a, b in zip(first.states["last"], second.states["last"], strict=True):
        assert states_equal(a, b)


def test_methods_of_a_seed_start_from_the_same_weights_and_batches():
    """With the distance loss weighted 0, `fdl` and `classical` are the same training."""
    data = cells.data()
    unweighted = {"cosine_weight": 0.0, "gaussian_weight": 0.0}
    settings = cells.settings(method="fdl")
    settings = type(settings)(**(vars(settings) | {"method_params": unweighted}))
    zero = train(settings, data, device="cpu", progress=quiet)
    classical = train(cells.settings(), data, device="cpu", progress=quiet)
    assert zero.history == classical.history


def test_the_distance_loss_moves_the_maps_apart():
    data = cells.data()
    changed = {"epochs": 12, "augment": False}
    classical, fdl = (
        train(cells.settings(method=method, **changed), data, device="cpu", progress=quiet).history[-1]
        for method in ("classical", "fdl")
    )
    assert fdl["cosine"] < classical["cosine"] * 0.9


def test_seeds_and_members_differ():
    data = cells.data()
    histories = [train(cells.settings(seed=s), data, device="cpu", progress=quiet).history for s in (0, 1)]
    assert histories[0] != histories[1]
    assert histories[0][0]["cross_entropy_0"] != histories[0][0]["cross_entropy_1"]


def test_every_image_is_seen_once_per_epoch_in_fixed_chunks():
    settings, data = cells.settings(augment=False), cells.data()
    chunks = [
        [(inputs[:, 0, 0, 0], labels) for _, inputs, labels in epoch_batches(settings, data.train, e)]
        for e in (0, 1, 2)
    ]
    sizes = [[len(labels) for _, labels in epoch] for epoch in chunks]
    assert all(sorted(epoch) == [1, 4, 4] for epoch in sizes)
    firsts = [{tuple(pixels.tolist()) for pixels, _ in epoch} for epoch in chunks]
    assert firsts[0] == firsts[1] == firsts[2]  # the authors' chunks stay together
    assert len({tuple(tuple(p.tolist()) for p, _ in epoch) for epoch in chunks}) > 1  # in another order


def test_augmentation_is_fresh_every_epoch():
    settings, data = cells.settings(batch_size=9), cells.data()
    first, second = (next(iter(epoch_batches(settings, data.train, epoch)))[1] for epoch in (0, 1))
    assert not torch.equal(first, second)


def test_selections_follow_the_validation_counts():
    rules = ["sum", "sum3", "own", "last", "sum-small"]
    settings = cells.settings(members=4, epochs=8, selections=rules, evaluate_every=1, augment=False)
    data = cells.data(train=6)
    trained = train(settings, data, device="cpu", progress=quiet)
    assert trained.validated == list(range(8))
    right = torch.stack(trained.validation_correct)  # (epochs, M, N)
    scores = {
        "sum": right.sum((1, 2)),
        "sum3": right[:, :3].sum((1, 2)),
        "sum-small": right[:, :, data.small].sum((1, 2)),
    }
    for rule, score in scores.items():
        # Only a strictly higher score replaces: the first of the best epochs.
        assert trained.selected[rule] == [int(score.argmax())] * 4
    assert trained.selected["own"] == [int(right[:, m].sum(1).argmax()) for m in range(4)]
    assert trained.selected["last"] == [7] * 4
    assert len({tuple(epochs) for epochs in trained.selected.values()}) > 1
    # The states kept are those of the epoch: they give its validation predictions again.
    for rule in ("sum", "own"):
        nets = load_members(settings, trained.states[rule], data.num_classes, "cpu")
        logits = predict(settings, nets, data.validation.pixels)
        for member, epoch in enumerate(trained.selected[rule]):
            assert torch.equal(logits[member].argmax(-1) == data.validation.labels, right[epoch, member])


def test_validating_changes_nothing():
    settings, data = cells.settings(evaluate_every=1, selections=["sum"]), cells.data()
    often = train(settings, data, device="cpu", progress=quiet)
    once = train(cells.settings(), data, device="cpu", progress=quiet)
    names = once.history[0].keys()
    assert [{name: row[name] for name in names} for row in often.history] == [
        {name: row[name] for name in names} for row in once.history
    ]


def test_members_with_their_own_batches_are_nets_trained_alone():
    """A deep ensemble: the batches of each member are drawn with a seed of its own."""
    settings, data = cells.settings(own_batches=True), cells.data()
    trained = train(settings, data, device="cpu", progress=quiet)
    for member in range(settings.members):
        net = build_members(cells.settings(), cells.CLASSES, "cpu")[member]  # the weights of `classical`
        optimiser = Adam([net], settings.learning_rate)
        own = member_settings(settings, member)
        for epoch in range(settings.epochs):
            for step, inputs, labels in epoch_batches(own, data.train, epoch):
                set_dropout_key(net, derive(settings.seed, "dropout", epoch, step, member))
                optimiser.zero_grad()
                functional.cross_entropy(net(inputs)[0], labels).backward()
                optimiser.step()
        assert states_equal(net.state_dict(), trained.states["last"][member]), f"member {member}"
    assert not {"cosine", "gaussian"} & trained.history[0].keys()  # maps of different images are not compared


def test_members_with_their_own_batches_see_other_orders_and_augmentations():
    data = cells.data()
    shared, own = (cells.settings(epochs=1, own_batches=flag) for flag in (False, True))
    for inputs, labels in ((inputs, labels) for _, inputs, labels in member_batches(shared, data.train, 0)):
        assert all(batch is inputs[0] for batch in inputs)
        assert all(truth is labels[0] for truth in labels)
    seen = [torch.cat(batches) for batches in zip(*(i for _, i, _ in member_batches(own, data.train, 0)), strict=True)]
    assert not any(torch.equal(seen[a], seen[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    plain = cells.settings(augment=False, own_batches=True)
    orders = {
        tuple(tuple(truth[member].tolist()) for _, _, truth in member_batches(plain, data.train, epoch))
        for member in range(3)
        for epoch in range(2)
    }
    assert len(orders) > 1
    for member in range(3):  # all of its images, once
        labels = torch.cat([truth[member] for _, _, truth in member_batches(plain, data.train, 0)])
        assert sorted(labels.tolist()) == sorted(data.train.labels.tolist())


@pytest.mark.parametrize("rule", ["sum", "sum3", "sum-small"])
def test_members_with_their_own_batches_have_their_own_best_epoch(rule):
    settings = cells.settings(epochs=8, selections=[rule], evaluate_every=1, augment=False, own_batches=True)
    data = cells.data(train=6)
    trained = train(settings, data, device="cpu", progress=quiet)
    right = torch.stack(trained.validation_correct)  # (epochs, M, N)
    if rule == "sum-small":
        right = right[:, :, data.small]
    assert trained.selected[rule] == [int(right[:, m].sum(1).argmax()) for m in range(3)]
    assert len(set(trained.selected[rule])) > 1


def test_a_single_net_trains_and_has_no_distance():
    settings, data = cells.settings(members=1), cells.data()
    trained = train(settings, data, device="cpu", progress=quiet)
    assert set(trained.history[0]) == {"epoch", "loss", "cross_entropy_0", "train_accuracy_0"}
    # It is the first member of an ensemble that shares nothing but its batches.
    three = train(cells.settings(), data, device="cpu", progress=quiet)
    assert states_equal(trained.states["last"][0], three.states["last"][0])
