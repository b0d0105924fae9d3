"""Heads: the authors' sizes, what is trained and what is not, and which epoch counts."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from fdl.core import settings as settings_module
from fdl.core.head_settings import HeadSettings, head_settings
from fdl.core.protocol import DATASETS
from fdl.core.settings import Cell
from fdl.models import build
from fdl.training.batchnorm import evaluation_statistics
from fdl.training.engine import build_members, load_members
from fdl.training.engine import train as engine_train
from fdl.training.heads import build_head, train_head
from tests.training.cells import CLASSES, data, settings

ROOT = Path(__file__).parents[2]


def head_options(**changes):
    values = {
        "heads": ["fusion", "stacking"],
        "epochs": 4,
        "tuning_epochs": 2,
        "learning_rates": {"fusion": 1e-3, "stacking": 1e-2},
        "tuning_learning_rate": 1e-5,
        "augment": False,
        "units": {"fusion": 8, "stacking": 8},
    }
    return HeadSettings(**values | changes)


def members(cell):
    return [net.eval() for net in build_members(cell, CLASSES, "cpu")]


def quiet(line):
    """No progress."""


def train(name="fusion", cell=None, nets=None, images=None, **changes):
    cell = cell or settings()
    return train_head(name, cell, head_options(**changes), nets or members(cell), images or data(), epoch_done=quiet)


def published():
    """The authors' settings of fusion (docs/reference.md 6.1): (dataset, backbone) → row."""
    with (ROOT / "fdl" / "core" / "authors_config.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["has_fusion"] == "1"]
    return {(row["dataset"].lower(), row["backbone"].lower()): row for row in rows}


PUBLISHED = published()


@pytest.mark.parametrize(("dataset", "backbone"), PUBLISHED)
def test_a_fusion_head_has_the_authors_number_of_parameters(dataset, backbone, monkeypatch):
    # Shapes only: 47 million initial weights are slow.
    monkeypatch.setattr("fdl.training.heads.glorot_uniform", lambda weight, key: None)
    monkeypatch.setattr("fdl.models._initialise", lambda *_: None)
    protocol = DATASETS[dataset]
    with torch.device("meta"):
        net = build(backbone, dataset).eval()
        _, feature_map = net(torch.empty(1, 3, protocol.image_size, protocol.image_size))
        head = build_head("fusion", 5 * feature_map[0].numel(), protocol.hidden_units, len(protocol.classes), 0)
    moving = sum(buffer.numel() for name, buffer in head.named_buffers() if "running" in name)
    weights = sum(parameter.numel() for parameter in head.parameters())
    assert weights + moving == int(PUBLISHED[dataset, backbone]["fusion_head_params"])


def test_a_stacking_head_has_the_authors_number_of_parameters():
    head = build_head("stacking", 50, 128, 10, 0)
    assert sum(parameter.numel() for parameter in head.parameters()) == 7_818


@pytest.mark.parametrize("name", ["fusion", "stacking"])
def test_a_head_learns_what_the_members_show(name):
    cell = settings(bn_statistics="reestimate", epochs=12, augment=False)
    images = data(train=24, validation=30, test=30)
    states = engine_train(cell, images, device="cpu", progress=quiet).states["last"]
    trained = train(name, cell, load_members(cell, states, CLASSES, "cpu"), images, epochs=30)
    for combiner in (name, f"{name}-tuned"):
        logits = trained[combiner].logits
        assert logits["validation"].shape == (30, CLASSES)
        assert (logits["test"].argmax(1) == images.test.labels).float().mean() > 0.8


def test_the_members_of_the_cell_are_left_as_they_are():
    nets = members(settings())
    before = [value.clone() for net in nets for value in net.state_dict().values()]
    train(nets=nets)
    after = [value for net in nets for value in net.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(net.training for net in nets)


def tuned_logits(nets, images):
    """Independent computation, with torch's own Adam, of one epoch of stacking in a single batch, and one of tuning."""
    cell = settings()
    head = build_head("stacking", CLASSES * len(nets), 8, CLASSES, cell.seed)
    inputs, labels = images.train.pixels / 255, images.train.labels

    def represent(x):
        return torch.cat([net(x)[0].softmax(1) for net in nets], dim=1)

    for parameters, rate in ((head.parameters(), 1e-2), ([*head.parameters(), *nets.parameters()], 1e-3)):
        # Keras' epsilon at the first step (docs/reference.md 10)
        optimiser = torch.optim.Adam(parameters, lr=rate, eps=1e-7 / (1 - 0.999) ** 0.5)
        optimiser.zero_grad()
        functional.cross_entropy(head(represent(inputs)), labels).backward()
        optimiser.step()
    return head(represent(images.test.pixels / 255)).detach()


def test_tuning_trains_head_and_members_in_evaluation_mode():
    cell = settings(batch_size=9)
    images, nets = data(), members(cell)
    expected = tuned_logits(nn.ModuleList(members(cell)), images)
    rates = {"stacking": 1e-2}
    trained = train(
        "stacking", cell, nets, images, epochs=1, tuning_epochs=1, learning_rates=rates, tuning_learning_rate=1e-3
    )
    assert torch.allclose(trained["stacking-tuned"].logits["test"], expected, atol=2e-5)
    assert not torch.allclose(trained["stacking"].logits["test"], expected, atol=2e-3)


def test_features_computed_once_are_those_of_every_epoch(monkeypatch):
    """Cached features give the same head as running the members on every batch, if the augmentation changes nothing."""
    monkeypatch.setattr("fdl.training.engine.augment", lambda pixels, keys: pixels)
    cell = settings()
    cached, computed = train(cell=cell), train(cell=cell, augment=True)
    for combiner, head in cached.items():
        for row, other in zip(head.history, computed[combiner].history, strict=True):
            assert row == pytest.approx(other, rel=1e-4)


def test_augmentation_changes_a_head():
    assert train()["fusion"].history != train(augment=True)["fusion"].history


def test_the_best_epoch_on_validation_counts():
    cell = settings(selections=["sum"], evaluate_every=1)
    head = train(cell=cell, epochs=8)["fusion"]
    scores = [row["validation_accuracy"] for row in head.history]
    assert head.epoch == scores.index(max(scores))
    correct = head.logits["validation"].argmax(1) == data().validation.labels
    assert float(correct.double().mean()) == max(scores)  # its weights were put back


def test_the_last_epoch_counts_with_the_selection_last():
    head = train()["fusion"]
    assert head.epoch == 3
    assert "validation_accuracy" not in head.history[0]


def test_a_small_validation_set_decides_where_it_is_asked_for():
    images = data()
    images.validation.labels[0] = -1  # never right, so that by this image alone the first epoch is the best
    images = replace(images, small=torch.tensor([0]))
    chosen = {
        rule: train(cell=settings(selections=[rule], evaluate_every=1, seed=5), images=images, epochs=8)["fusion"].epoch
        for rule in ("sum", "sum-small")
    }
    assert chosen["sum-small"] == 0 < chosen["sum"]


def test_equal_settings_give_equal_bits():
    first, second = train(), train()
    assert all(torch.equal(first[name].logits["test"], second[name].logits["test"]) for name in first)


def test_no_tuned_form_without_tuning_epochs():
    assert set(train(tuning_epochs=0)) == {"fusion"}


def test_a_head_that_diverges_stops_early_with_what_is_not_finite():
    nets = members(settings())
    with torch.no_grad():
        next(nets[0].features.parameters()).fill_(float("nan"))
    head = train(nets=nets, tuning_epochs=0)["fusion"]
    assert len(head.history) == 1
    assert not torch.isfinite(head.logits["test"]).all()


def test_heads_without_settings_use_those_of_the_authors():
    """docs/reference.md 6.1: learning rate and augmentation of every dataset and backbone."""
    params = settings_module.load(ROOT / "params.yaml", preset="authors")
    heads = {key: head_settings(params, Cell(*key, 3, "classical", 0)) for key in PUBLISHED}
    assert len(heads) == 18
    for key, row in PUBLISHED.items():
        assert heads[key].learning_rates["fusion"] == float(row["fusion_lr"])
        assert heads[key].augment == (row["fusion_augmentation"] == "True")
        assert heads[key].tuning_learning_rate == float(row["finetune_lr"])
        assert (heads[key].epochs, heads[key].tuning_epochs) == (int(row["fusion_epochs"]), int(row["finetune_epochs"]))
        assert ("stacking" in heads[key].heads) == (row["has_stacking"] == "1")


def test_the_digest_of_heads_changes_with_their_settings_and_the_trainings_does_not():
    cell = Cell("cifar10", "alexnet", 3, "fdl", 0)
    file = ROOT / "params.yaml"
    one = settings_module.load(file, preset="paper")
    other = settings_module.load(file, preset="paper", overrides={"head_epochs": 7})
    assert head_settings(one, cell).digest != head_settings(other, cell).digest
    assert one.settings_digest(cell) == other.settings_digest(cell)
    assert head_settings(settings_module.load(file, preset="lite"), cell) is None


def test_a_fusion_head_is_dense_batch_norm_relu_dropout_half_dense():
    """docs/reference.md 6.1."""
    head = build_head("fusion", 6, 4, 3, seed=0)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["Linear", "DenseBatchNorm", "ReLU", "Dropout", "Linear"]
    assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [(4, 6), (3, 4)]
    assert head[3].p == 0.5


def test_a_stacking_head_is_dense_relu_dense():
    """docs/reference.md 6.2."""
    assert [type(layer).__name__ for layer in build_head("stacking", 6, 4, 3, seed=0)] == ["Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("name", ["fusion", "stacking"])
def test_a_head_starts_with_glorots_weights_and_no_bias(name):
    layers = [layer for layer in build_head(name, 300, 200, 100, seed=3) if isinstance(layer, nn.Linear)]
    assert not any(layer.bias.any() for layer in layers)
    dense = [layer.weight.detach() for layer in layers]
    limits = [(6 / sum(weight.shape)) ** 0.5 for weight in dense]
    assert all(0.99 * limit < weight.abs().max() <= limit for weight, limit in zip(dense, limits, strict=True))
    assert not any(
        layer.bias.any() for layer in build_head(name, 300, 200, 100, seed=3) if isinstance(layer, nn.Linear)
    )
    # Each layer of each head has numbers of its own.
    first, last = (weight.flatten()[:1000] / limit for weight, limit in zip(dense, limits, strict=True))
    assert not torch.allclose(first, last)
    other = build_head({"fusion": "stacking", "stacking": "fusion"}[name], 300, 200, 100, seed=3)
    assert not torch.allclose(dense[0], other[0].weight)


def test_the_history_is_the_mean_over_the_training_images():
    """With a rate of 0 the head stays as it began: loss and accuracy of all nine images, in batches of 4, 4 and 1."""
    cell, images = settings(), data()
    nets = members(cell)
    head = build_head("stacking", CLASSES * len(nets), 8, CLASSES, cell.seed)
    with torch.no_grad():
        logits = head(torch.cat([net(images.train.pixels / 255)[0].softmax(1) for net in nets], dim=1))
    labels = logits.argmax(1)
    labels[0] = (labels[0] + 1) % CLASSES  # all right but one
    images = replace(images, train=replace(images.train, labels=labels))
    rates = {"fusion": 0.0, "stacking": 0.0}
    trained = train("stacking", cell, nets, images, epochs=2, tuning_epochs=0, learning_rates=rates)["stacking"]
    assert [row["epoch"] for row in trained.history] == [0, 1]
    for row in trained.history:
        assert row["cross_entropy"] == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
        assert row["train_accuracy"] == pytest.approx(8 / 9)


@pytest.mark.parametrize("rule", ["last", "sum"])
def test_statistics_of_a_head_are_estimated_from_training_images_alone(rule, monkeypatch):
    """There are nine training images, twelve for validation and fifteen for the test."""
    seen = []

    def record(nets, batches, how):
        seen.append((sum(map(len, batches)), how))
        return evaluation_statistics(nets, batches, how)

    monkeypatch.setattr("fdl.training.heads.evaluation_statistics", record)
    train(cell=settings(selections=[rule], evaluate_every=1, bn_statistics="reestimate"), epochs=2, tuning_epochs=1)
    evaluations = 2 if rule == "last" else 2 + 3  # of the states kept, and of every epoch that is judged
    assert seen == [(9, "reestimate")] * evaluations


# Loss of every epoch of the head and of its tuned form, the epoch that counts, and its first logit on test.
GOLDEN = {
    ("fusion", False): [1.140753, 2.047816, 1, -0.976383, 0.966603, 0.628733, 0, 1.077666],
    ("fusion", True): [1.149601, 2.239073, 1, -0.49136, 1.02121, 1.129404, 0, 1.891058],
    ("stacking", False): [1.272558, 1.242634, 0, -0.163118, 1.245696, 1.07601, 0, 0.027187],
    ("stacking", True): [1.267114, 1.245488, 0, -0.163341, 1.229944, 1.111789, 1, -0.008386],
}


@pytest.mark.parametrize("name", ["fusion", "stacking"])
@pytest.mark.parametrize("augment", [False, True])
def test_the_numbers_of_heads_have_not_changed(name, augment):
    """Draws of weights, order, augmentation and dropout. If these numbers change, HEADS_VERSION must be raised."""
    cell = settings(selections=["sum"], evaluate_every=1, bn_statistics="reestimate")
    trained = train(name, cell, epochs=2, augment=augment, tuning_learning_rate=1e-3)
    numbers = [
        value
        for head in trained.values()
        for value in (*(row["cross_entropy"] for row in head.history), head.epoch, head.logits["test"][0, 0].item())
    ]
    assert numbers == pytest.approx(GOLDEN[name, augment], rel=1e-3, abs=1e-5)
