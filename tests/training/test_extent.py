"""A program on a GPU fits into its memory, and no tensor has more elements than the GPU libraries can index."""

import math
from dataclasses import replace

import pytest

from fdl.core.protocol import DATASETS
from fdl.models import build
from fdl.training import costs, together
from fdl.training import extent as extent_module
from fdl.training.extent import ELEMENTS, count, evaluated_at_once, extent, runs_at_once
from fdl.training.together import Waiting, groups, is_fused
from tests.training import cells
from tests.training.test_fused import run

VARIANTS = [(dataset, backbone) for dataset in DATASETS for backbone in ("alexnet", "vgg", "resnet")]
H200, SMALL = 150e9, 8e9


@pytest.mark.parametrize(("dataset", "backbone"), VARIANTS)
def test_the_outputs_are_those_that_the_costs_count(dataset, backbone):
    size = DATASETS[dataset].image_size
    counted = count(build(backbone, dataset, width=0.125), size)
    expected = costs.count(costs.Shape(backbone, dataset, len(DATASETS[dataset].classes), size, 0.125))
    assert (4 * counted.largest, 4 * counted.kept) == (expected.largest, expected.kept)


@pytest.mark.parametrize("memory", [H200, SMALL])
@pytest.mark.parametrize(("dataset", "backbone"), [("neu", "vgg"), ("neu", "resnet"), ("cifar10", "alexnet")])
def test_every_program_and_evaluation_of_the_authors_fits(dataset, backbone, memory):
    net = extent(backbone, dataset, DATASETS[dataset].image_size, 1.0)
    runs = runs_at_once(net, 5, 10, bytes_each=4, memory=memory)
    assert runs >= 1
    assert runs * 5 * 10 * net.largest <= ELEMENTS
    for nets in (5, 5 * runs):
        images = evaluated_at_once(net, nets, 2000, memory)
        assert 1 <= images <= 2000
        assert nets * images * net.largest <= ELEMENTS
        assert 4 * 4 * nets * images * net.largest <= memory / 8


def test_ten_runs_of_neu_on_a_large_card_and_what_a_step_keeps():
    """The library limit is reached by more than 16 runs in training, and by 200 images of one run in evaluation."""
    net = extent("vgg", "neu", 200, 1.0)
    assert runs_at_once(net, 5, 10, bytes_each=4, memory=math.inf) == 16
    assert runs_at_once(extent("resnet", "neu", 200, 1.0), 5, 10, bytes_each=4, memory=H200) >= 10
    assert runs_at_once(net, 5, 10, bytes_each=4, memory=SMALL) == 1
    assert 50 * 20 * net.largest > ELEMENTS > 50 * evaluated_at_once(net, 50, 360, H200) * net.largest


@pytest.mark.parametrize(("images", "memory"), [(2000, H200), (360, 40e9), (7, 1e9), (1, 1)])
def test_an_evaluation_is_cut_into_parts_of_nearly_one_size(images, memory):
    """A CUDA graph is captured for each size, so there should be few."""
    size = evaluated_at_once(extent("alexnet", "cifar10", 32, 1.0), 50, images, memory)
    parts = math.ceil(images / size)
    assert size * parts - images < parts


def waiting(seeds, **changes):
    data = cells.data()
    return [
        Waiting(run(method, seed, data, **changes), None, "")
        for method in ("classical", "fdl")
        for seed in range(seeds)
    ]


def test_a_group_that_is_too_large_is_parted_between_seeds(monkeypatch):
    group = waiting(7)
    assert [len(part) for part in groups(group, "cuda")] == [14]
    monkeypatch.setattr(together, "_runs_at_once", lambda settings: 5)
    parts = [[(one.run.settings.seed, one.run.settings.method) for one in part] for part in groups(group, "cuda")]
    assert sorted(key for part in parts for key in part) == sorted(
        (s, m) for s in range(7) for m in ("classical", "fdl")
    )
    assert [len(part) for part in parts] == [4, 4, 4, 2]
    assert all(
        {s for s, _ in part}.isdisjoint(s for s, _ in other) for part in parts for other in parts if part != other
    )
    assert len(groups(group, "cpu")) == 7, "as before"


def test_the_memory_of_the_card_parts_a_group(monkeypatch):
    net = extent("alexnet", "cifar10", 32, 0.0625)
    of_one = 2 * (4 * net.kept * 4 + 16 * net.parameters)
    monkeypatch.setattr(together, "gpu_memory", lambda: 4.5 * of_one)
    assert [len(part) for part in groups(waiting(4), "cuda")] == [4, 4]
    monkeypatch.setattr(together, "gpu_memory", lambda: 0.5 * of_one)
    assert [len(part) for part in groups(waiting(1), "cuda")] == [1, 1], "an ensemble is tried in any case"


def test_an_ensemble_whose_merged_tensors_are_too_large_is_left_to_the_loop(monkeypatch):
    settings = run(members=5).settings
    assert is_fused(settings, "cuda")
    limit = settings.members * settings.batch_size * extent("alexnet", "cifar10", 32, settings.width).largest
    monkeypatch.setattr(extent_module, "ELEMENTS", limit)
    assert is_fused(settings, "cuda")
    assert not is_fused(replace(settings, batch_size=settings.batch_size + 1), "cuda")
    assert is_fused(replace(settings, batch_size=settings.batch_size + 1), "cpu")
