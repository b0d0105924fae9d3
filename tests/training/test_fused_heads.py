"""A head on fused members, as on a GPU, gives the results of single members; here on the CPU, without CUDA graphs."""

import pytest
import torch

from fdl.models import build
from fdl.training import engine, heads
from fdl.training.fused_heads import FusedMembers, ReplayedSteps
from tests.training.cells import data, settings
from tests.training.test_heads import head_options, members, quiet, train


@pytest.fixture
def both(monkeypatch):
    """Trains in float64, with single members and as on a GPU."""
    to_input, build_head = engine.to_input, heads.build_head
    monkeypatch.setattr(heads, "build_head", lambda *arguments: build_head(*arguments).double())
    for module in (heads, engine):
        monkeypatch.setattr(module, "to_input", lambda pixels: to_input(pixels).double())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)

    def trained(name, **changes):
        results = []
        for fused in (False, True):
            monkeypatch.setattr(heads, "is_fused", lambda *_, fused=fused: fused)
            cell = settings(selections=["sum"], evaluate_every=1, **changes.get("cell", {}))
            own = {key: value for key, value in changes.items() if key != "cell"}
            results.append(train(name, cell, [net.double() for net in members(cell)], **own))
        return results

    return trained


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("name", ["fusion", "stacking"])
@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_the_numbers_are_those_of_the_loop(both, backbone, name, augment):
    """Frozen and tuned, with a last batch of one image."""
    changes = {"backbone": backbone, "bn_statistics": "reestimate"}
    loop, fused = both(name, cell=changes, augment=augment, tuning_learning_rate=1e-3)
    assert loop.keys() == fused.keys() == {name, f"{name}-tuned"}
    for combiner, head in loop.items():
        other = fused[combiner]
        assert head.epoch == other.epoch
        for row, own in zip(head.history, other.history, strict=True):
            assert own == pytest.approx(row, rel=1e-9)
        for split, logits in head.logits.items():
            torch.testing.assert_close(other.logits[split], logits, rtol=1e-8, atol=1e-8)
    assert loop[name].history != loop[f"{name}-tuned"].history


def test_only_a_gpu_and_the_authors_networks():
    nets = members(settings())
    assert heads.is_fused(nets, "cuda")
    assert not heads.is_fused(nets, "cpu")
    assert not heads.is_fused([*nets, torch.nn.Linear(1, 1)], "cuda")


def test_the_members_of_the_cell_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(heads, "is_fused", lambda *_: True)
    nets = members(settings())
    before = [value.clone() for net in nets for value in net.state_dict().values()]
    train(nets=nets, tuning_learning_rate=1e-2)
    after = [value for net in nets for value in net.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("error", [RuntimeError("no engine\nmore"), torch.OutOfMemoryError("no engine more")])
def test_where_the_fused_members_fail_the_loop_takes_their_place(monkeypatch, error):
    loop, said = train()["fusion"], []
    monkeypatch.setattr(heads, "is_fused", lambda *_: True)

    def fails(members, inputs):
        if torch.is_grad_enabled():  # in the tuning
            raise error
        return call(members, inputs)

    call = FusedMembers.__call__
    monkeypatch.setattr(FusedMembers, "__call__", fails)
    trained = heads.train_head(
        "fusion", settings(), head_options(), members(settings()), data(), epoch_done=said.append
    )
    assert list(trained) == ["fusion", "fusion-tuned"]
    assert trained["fusion"].history == loop.history
    assert said[4] == "fusion: not on fused members (no engine more); again in the loop, slower"
    assert said[:4] == said[5:9]


def test_a_step_reads_tensors_that_stay_and_each_size_has_its_own(monkeypatch):
    """A CUDA graph records the addresses of the tensors that it reads, and their sizes."""
    head, seen, names = torch.nn.Linear(3, 2), [], []
    steps = ReplayedSteps([head], 1e-2, "cpu", quiet)
    monkeypatch.setattr(steps, "_replays", lambda name, step: (names.append(name), step()))

    def work(inputs, labels, key):
        seen.append((inputs.data_ptr(), labels.data_ptr(), key.data_ptr()))
        head(inputs).square().sum().backward()

    weights = [head.weight.data_ptr()]
    for number, size in enumerate((4, 1, 4, 1)):
        before = head.weight.detach().clone()
        steps(torch.rand(size, 3), torch.zeros(size, dtype=torch.int64), torch.tensor(number), work)
        assert not torch.equal(head.weight, before)
        weights.append(head.weight.data_ptr())
    assert names == ["head of 4 images", "head of 1 images"] * 2
    assert seen[0] == seen[2] != seen[1] == seen[3]
    assert len(set(weights)) == 1


def test_the_largest_evaluation_fits_and_its_convolutions_are_chosen_on_a_gpu(monkeypatch):
    """An evaluation of 200 images by five VGG nets of NEU would have a tensor too large for the GPU libraries."""
    monkeypatch.setattr("fdl.models._initialise", lambda *_: None)
    net = build("vgg", "neu", width=0.5).eval()
    fused = FusedMembers([net] * 10, settings(backbone="vgg", dataset="neu", image_size=200), 360, quiet)
    assert fused.nets.back_ends == {}
    assert 10 * fused.at_once * 32 * 200 * 200 < 2**31 <= 10 * 200 * 32 * 200 * 200


def test_frozen_members_get_no_gradient_and_tuned_ones_do():
    fused = FusedMembers(members(settings()), settings(), 12, quiet)
    inputs = engine.to_input(data().train.pixels)
    fused.requires_grad_(False)
    assert not fused(inputs)[0][0].requires_grad
    fused.requires_grad_(True)
    fused(inputs)[0][0].sum().backward()
    assert float(fused.nets.gradient.abs().sum()) > 0
