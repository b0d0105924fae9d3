"""Fused programs: runs that are trained as one network give the results of the plain loop on each of them alone."""

import gc
import math
import weakref
from contextlib import nullcontext, suppress
from dataclasses import replace

import pytest
import torch

from fdl.core import method_sources
from fdl.core.fused_methods import DECLARED, distance_terms
from fdl.core.method_sources import method_source
from fdl.core.protocol import DATASETS
from fdl.methods import registry
from fdl.methods.losses import feature_distance
from fdl.models.fused import FusedNets
from fdl.training import engine, fused
from fdl.training.augment import augment
from fdl.training.fused import Program, Run, _group_by_terms, distance_weights
from fdl.training.state import Diverged
from fdl.training.together import can_be_fused
from tests.training import cells

VARIANTS = [(dataset, backbone) for dataset in DATASETS for backbone in ("alexnet", "vgg", "resnet")]
METHODS = ("classical", "fdl", "fdl-cosine", "fdl-gaussian")
WEIGHTS = {
    "fdl": {"cosine_weight": 0.7, "gaussian_weight": 1.3},
    "fdl-cosine": {"cosine_weight": 0.7},
    "fdl-gaussian": {"gaussian_weight": 1.3},
}


def quiet(line):
    """No progress."""


def run(method="classical", seed=4, data=None, **changes):
    settings = cells.settings(**{"members": 2} | changes, seed=seed)
    settings = replace(settings, method=method, method_params=WEIGHTS.get(method, {}))
    return Run(settings, data or cells.data())


@pytest.fixture
def built(monkeypatch):
    """A list of the nets that were built last."""
    build_members, last = engine.build_members, []

    def build(*arguments):
        last[:] = build_members(*arguments)
        return list(last)

    monkeypatch.setattr(engine, "build_members", build)
    return last


@pytest.fixture
def float64(monkeypatch, built):
    """Program and plain loop compute in float64; returns `built`."""
    build_members, to_input = engine.build_members, engine.to_input
    monkeypatch.setattr(engine, "build_members", lambda *arguments: [net.double() for net in build_members(*arguments)])
    monkeypatch.setattr(engine, "to_input", lambda pixels: to_input(pixels).double())
    return built


def by_loop(one):
    return engine.train(one.settings, one.data, device="cpu", progress=quiet)


def assert_close(first, second, tolerance):
    """Compare mappings of tensors, with a tolerance relative to the largest value of each tensor."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        scale = max(1.0, float(second[name].abs().max()))
        assert float((value - second[name]).abs().max()) <= tolerance * scale, name


def assert_same(fused, loop, tolerance=1e-10):
    """Compare two trainings of a run: histories, selections, states and validations."""
    assert (fused.selected, fused.validated) == (loop.selected, loop.validated)
    assert [row.keys() for row in fused.history] == [row.keys() for row in loop.history]
    for ours, theirs in zip(fused.history, loop.history, strict=True):
        for name, value in ours.items():
            assert value == pytest.approx(theirs[name], rel=tolerance, abs=tolerance), name
    for rule, members in fused.states.items():
        for state, other in zip(members, loop.states[rule], strict=True):
            assert_close(state, other, tolerance)
    for right, other in zip(fused.validation_correct, loop.validation_correct, strict=True):
        assert torch.equal(right, other)


@pytest.mark.parametrize(("dataset", "backbone"), VARIANTS)
def test_every_variant_of_the_authors_networks_trains_as_in_the_loop(float64, dataset, backbone):
    """Losses, gradients, weights and buffers after steps that are full, short, and short for one seed only."""
    changes = {"dataset": dataset, "backbone": backbone, "epochs": 2}
    runs = [run(method, seed, **changes) for seed in (4, 5) for method in ("classical", "fdl")]
    program = Program(runs, "cpu", quiet)
    trained = program.train(progress=quiet)
    gradients = program.nets.parameter_views(program.nets.gradient)
    for number, one in enumerate(runs):
        assert_same(trained[number], by_loop(one))
        for member, net in enumerate(float64):
            expected = {name: parameter.grad for name, parameter in net.named_parameters()}
            assert_close({name: part[2 * number + member] for name, part in gradients.items()}, expected, 1e-10)


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_gradients_of_the_first_step_in_float32(built, backbone):
    runs = [run(method, backbone=backbone, epochs=1, batch_size=9) for method in METHODS]
    program = Program(runs, "cpu", quiet)
    program.train(progress=quiet)
    ours = program.nets.parameter_views(program.nets.gradient)
    for number, one in enumerate(runs):
        by_loop(one)
        for member, net in enumerate(built):
            expected = torch.cat([parameter.grad.flatten() for parameter in net.parameters()])
            actual = torch.cat([ours[name][2 * number + member].flatten() for name, _ in net.named_parameters()])
            assert (actual - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("statistics", ["moving", "reestimate"])
def test_a_bundle_of_two_methods_and_three_seeds_is_six_cells_trained_alone(float64, statistics):
    changes = {
        "backbone": "vgg",
        "members": 3,
        "bn_statistics": statistics,
        "evaluate_every": 1,
        "selections": ["sum", "sum3", "own", "sum-small", "last"],
    }
    runs = [run(method, seed, **changes) for seed in (0, 1, 2) for method in ("classical", "fdl")]
    for one, trained in zip(runs, Program(runs, "cpu", quiet).train(progress=quiet), strict=True):
        assert_same(trained, by_loop(one))


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
@pytest.mark.parametrize("statistics", ["moving", "reestimate"])
def test_on_a_gpu_a_validation_folds_batch_norm_with_the_statistics_of_its_epoch(
    float64, monkeypatch, backbone, statistics
):
    monkeypatch.setattr(fused, "FusedNets", lambda nets, inputs, *, apart: FusedNets(nets, inputs))
    changes = {"backbone": backbone, "bn_statistics": statistics, "evaluate_every": 1, "selections": ["own", "last"]}
    runs = [run(method, seed, **changes) for seed in (0, 1) for method in ("classical", "fdl")]
    for one, trained in zip(runs, Program(runs, "cpu", quiet).train(progress=quiet), strict=True):
        assert_same(trained, by_loop(one))


def test_all_four_methods_share_a_program_and_seeds_may_have_different_ones(float64):
    runs = [run(method, 0) for method in METHODS] + [run("fdl", 1)]
    program = Program(runs, "cpu", quiet)
    assert len(program.sources) == len(runs), "every run carries its own images"
    for one, trained in zip(runs, program.train(progress=quiet), strict=True):
        assert_same(trained, by_loop(one))


@pytest.mark.parametrize(("images", "size"), [(8, 4), (3, 10), (5, 4)])
def test_batches_that_are_whole_one_short_batch_and_a_last_batch_of_one_image(float64, images, size):
    changes = {"data": cells.data(train=images), "batch_size": size, "backbone": "vgg"}
    runs = [run(method, seed, **changes) for seed in (0, 1) for method in ("classical", "fdl")]
    for one, trained in zip(runs, Program(runs, "cpu", quiet).train(progress=quiet), strict=True):
        assert_same(trained, by_loop(one))


def test_on_a_gpu_runs_that_want_the_same_terms_compute_them_together(float64, monkeypatch):
    asked = []

    def group(wanted, *, apart):
        asked.append(apart)
        return _group_by_terms(wanted, apart=False)

    monkeypatch.setattr(fused, "_group_by_terms", group)
    runs = [run(method, seed) for seed in (0, 1) for method in METHODS]
    program = Program(runs, "cpu", quiet)
    assert asked == [True, True]
    weighted = [(runs.tolist(), terms) for runs, terms, _ in program._terms_in_loss]
    assert weighted == [([1, 5], [0, 1]), ([2, 6], [0]), ([3, 7], [1])]
    assert [(runs.tolist(), terms) for runs, terms in program._terms_reported] == [
        ([0, 4], [0, 1]), ([3, 7], [0]), ([2, 6], [1])
    ]  # fmt: skip
    for one, trained in zip(runs, program.train(progress=quiet), strict=True):
        assert_same(trained, by_loop(one))


def test_on_a_gpu_the_images_of_all_seeds_are_augmented_at_once(monkeypatch):
    runs = [run("fdl", seed, cells.data(train=30)) for seed in (0, 1, 2)]
    program = Program(runs, "cpu", quiet)
    program.place_pixels(5)
    expected, calls = program._pixels.clone(), []

    def noting(images, keys):
        calls.append(len(images))
        return augment(images, keys)

    monkeypatch.setattr(fused, "augment", noting)
    program.device = "cuda"
    program._pixels.zero_()
    program.place_pixels(5)
    assert torch.equal(program._pixels, expected)
    assert calls == [90]
    assert len({part.numpy().tobytes() for part in expected}) == 3


def test_a_run_that_diverges_ends_with_its_epoch_and_touches_no_other(float64):
    runs = [run(method, seed, evaluate_every=1) for seed in (0, 1) for method in ("classical", "fdl")]
    infinite = {"cosine_weight": math.inf, "gaussian_weight": 1.0}
    bad = Run(replace(runs[1].settings, method_params=infinite), runs[1].data)
    trained = Program([runs[0], bad, *runs[2:]], "cpu", quiet).train(progress=quiet)
    assert isinstance(trained[1], Diverged)
    with pytest.raises(Diverged) as failure:
        by_loop(bad)
    assert (trained[1].epoch, trained[1].reason) == (failure.value.epoch, failure.value.reason)
    assert len(trained[1].history) == 1
    for number in (0, 2, 3):
        assert_same(trained[number], by_loop(runs[number]))


def test_a_program_goes_on_from_its_state_with_the_same_bits():
    changes = {"epochs": 5, "evaluate_every": 1, "selections": ["sum", "own"], "backbone": "vgg"}
    runs = [run(method, seed, **changes) for seed in (0, 1) for method in ("classical", "fdl")]
    undisturbed = Program(runs, "cpu", quiet).train(progress=quiet)
    states = []

    class Killed(Exception):
        """Stops a training in the middle."""

    stopped = Program(runs, "cpu", quiet)

    def stop():
        if stopped.epoch == 2:
            states.append(stopped.state())
            raise Killed

    with pytest.raises(Killed):
        stopped.train(progress=quiet, epoch_end=stop)
    resumed = Program(runs, "cpu", quiet)
    resumed.restore(states[0])
    for ours, theirs in zip(resumed.train(progress=quiet), undisturbed, strict=True):
        assert ours.history == theirs.history
        for rule in ours.states:
            for a, b in zip(ours.states[rule], theirs.states[rule], strict=True):
                assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", DECLARED)
def test_a_declaration_says_what_the_function_computes(method):
    """If this fails after an edit of the function: check that the declaration still holds, then update its digest."""
    assert DECLARED[method].digest == method_source(method).digest
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(4, 3, 5, 5, generator=generator, dtype=torch.float64) for _ in range(3)]
    cosine, gaussian = distance_weights(run(method).settings)
    expected = feature_distance(maps, cosine, gaussian).total
    for epoch in (0, 99):
        actual = registry.METHODS[method](maps, [], None, None, epoch=epoch, **WEIGHTS.get(method, {}))
        assert actual.item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_method_whose_function_was_edited_is_not_fused(tmp_path, monkeypatch):
    assert can_be_fused(run("fdl").settings)
    text = method_sources._METHODS.read_text()
    edited = tmp_path / "registry.py"
    edited.write_text(text.replace("return feature_distance(maps, cosine_weight, gaussian_weight).total", "return 1"))
    assert edited.read_text() != text
    monkeypatch.setattr(method_sources, "_METHODS", edited)
    assert distance_terms("fdl") is None
    assert not can_be_fused(run("fdl").settings)
    assert can_be_fused(run("fdl-cosine").settings)


REESTIMATED = {"evaluate_every": 1, "bn_statistics": "reestimate"}


def same_bits(first, second):
    """Whether two trainings of a run left the same numbers."""
    states = zip(first.states["last"], second.states["last"], strict=True)
    return first.history == second.history and all(torch.equal(a[name], b[name]) for a, b in states for name in a)


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_on_a_cpu_no_bit_depends_on_the_other_methods_of_the_seed(backbone, members):
    """With 2, 5 or 10 channels in the first layers, which do not fill the vector registers of the processor."""
    changes = {
        "backbone": backbone,
        "members": members,
        "epochs": 2,
        "evaluate_every": 1,
        "bn_statistics": "reestimate",
    }
    runs = [run(method, **changes) for method in METHODS]
    together = Program(runs, "cpu", quiet).train(progress=quiet)
    pair = Program(runs[:2], "cpu", quiet).train(progress=quiet)
    alone = Program(runs[1:2], "cpu", quiet).train(progress=quiet)[0]
    assert same_bits(pair[1], alone)
    assert same_bits(together[1], alone)
    assert same_bits(together[0], pair[0])


def test_a_program_is_freed_after_its_training_without_garbage_collection():
    """The GPU memory of its graphs is needed for what follows the training."""
    runs = [run(method, seed, evaluate_every=1) for seed in (0, 1) for method in ("classical", "fdl")]
    states = []
    gc.collect()
    gc.disable()
    try:
        program = Program(runs, "cpu", quiet)
        alive = [weakref.ref(part) for part in (program, program.nets, program.nets.flat, program.adam.first)]
        results = program.train(progress=quiet, epoch_end=lambda: states.append(len(alive[0]().state())))
        del program
        assert [part() for part in alive] == [None] * 4
    finally:
        gc.enable()
    assert len(results) == 4
    assert len(states) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_each_stream_waits_for_what_the_other_has_begun(monkeypatch, fails):
    """Between two epochs the weights are read on the default stream."""
    done = []

    class Stream:
        def __init__(self, name="own"):
            self.name = name

        def wait_stream(self, other):
            done.append(f"{self.name} waits for {other.name}")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("default"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    program = Program([run()], "cpu", quiet)
    program.device = "cuda"
    for _ in range(2):
        with suppress(ZeroDivisionError), program.stream():
            done.append("work")
            if fails:
                raise ZeroDivisionError
    assert done == ["own waits for default", "work", "default waits for own"] * 2
