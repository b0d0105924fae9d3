"""Bundles whose cells are trained as one program: records, checkpoints, and what happens if memory is exhausted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Cell
from fdl.results import records
from fdl.training import bundle as bundle_module
from fdl.training import checkpoint as checkpoint_module
from fdl.training import together
from fdl.training.bundle import run_bundle, train_bundle
from fdl.training.bundle_inputs import BundleInputs
from fdl.training.checkpoint import Checkpoint
from fdl.training.fused import Program
from fdl.training.together import Waiting, can_be_fused, groups, is_fused, train_together
from tests.projects import tiny
from tests.training import cells
from tests.training.test_bundle import BUNDLE, folder, ready
from tests.training.test_fused import assert_same, built, by_loop, float64, quiet, run

__all__ = ["built", "float64", "ready"]  # fixtures
CHANGES = {"epochs": 4, "evaluate_every": 1, "selections": ["sum", "last"]}


class Killed(BaseException):
    """A stand-in for SIGKILL: no code catches it."""


@pytest.fixture
def fused(monkeypatch):
    """Group cells on the CPU as on a GPU: all in one program."""
    monkeypatch.setattr(together, "groups", lambda waiting, device: groups(waiting, "cuda"))


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    monkeypatch.setattr(checkpoint_module, "SECONDS", 0)


def waiting(path, count=3):
    """Cells of two methods and some seeds, on the same images."""
    data = cells.data()
    return [
        Waiting(run(method, seed, data, **CHANGES), Checkpoint(path / f"{method}{seed}", quiet), f"{method}{seed}")
        for method in ("classical", "fdl")
        for seed in range(count)
    ]


def train(group, progress=quiet, say=quiet):
    """Train, and return the contents of the checkpoints."""
    assert train_together(group, device="cpu", say=say, progress=progress) == {}
    return {one.digest: one.checkpoint.load("trained") for one in group}


def test_cells_that_share_nothing_but_a_bundle_form_groups_of_their_own():
    data = cells.data()
    other = cells.data()
    runs = [run("fdl", 1, data), run("classical", 0, data), run("fdl", 0, data), run("classical", 0, other)]
    waiting = [Waiting(one, None, "") for one in runs]

    def made(device):
        return [
            [(one.run.settings.method, one.run.settings.seed) for one in group] for group in groups(waiting, device)
        ]

    assert made("cuda") == [[("classical", 0), ("fdl", 0), ("fdl", 1)], [("classical", 0)]]
    assert made("cpu") == [[("fdl", 1)], [("classical", 0), ("fdl", 0)], [("classical", 0)]]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "gncl"},
        {"method": "mine.loss"},
        {"own_batches": True},
        {"members": 1},
        {"learning_rates": (1e-3, 3e-3)},
        {"backbone": "torchvision-resnet18"},
    ],
)
def test_the_loop_takes_what_cannot_be_fused(changes):
    assert can_be_fused(run().settings)
    assert not can_be_fused(replace(run().settings, **changes))


@pytest.mark.parametrize(("device", "width", "fused"), [("cuda", 1.0, True), ("cpu", 0.5, True), ("cpu", 0.51, False)])
def test_a_cpu_fuses_narrow_nets_only(device, width, fused):
    assert is_fused(run(width=width).settings, device) is fused


@pytest.mark.parametrize("width", [0.5, 0.7])
def test_the_settings_know_which_cells_are_fused(width):
    methods = ["classical", "fdl", "gncl", "wide", "tuned", "deep-ensemble"]
    grid = [{"backbones": ["torchvision:resnet18"], "methods": ["fdl"]}, {"methods": methods}]
    params = tiny(grid=grid, width=width, image_size=64)
    inputs = object.__new__(BundleInputs)
    inputs.params, inputs.device = params, "cpu"
    for cell in params.cells():
        fused = is_fused(inputs.settings(cell), "cpu")
        assert fused == params.fuses_on_cpu(cell) == ("program_version" in params.training_settings(cell))
        assert params.fuses(cell) == can_be_fused(inputs.settings(cell))
    assert any(params.fuses_on_cpu(cell) for cell in params.cells()) is (width == 0.5)


@pytest.fixture(params=["cpu", "cuda"])
def grouping(request, monkeypatch):
    """The name of a device; cells are grouped as on that device."""
    monkeypatch.setattr(together, "groups", lambda waiting, device: groups(waiting, request.param))
    return request.param


def test_a_group_that_was_killed_goes_on_with_the_same_bits(tmp_path, grouping):
    undisturbed = train(waiting(tmp_path / "undisturbed"))

    def dies(line):
        if "epoch 3/4" in line:
            raise Killed

    with pytest.raises(Killed):
        train(waiting(tmp_path / "killed"), progress=dies)
    said = []
    resumed = train(waiting(tmp_path / "killed"), say=said.append)
    assert said == [f"{'6 runs' if grouping == 'cuda' else 'seed 0'}: going on after epoch 2"]
    for name, one in resumed.items():
        assert one["history"] == undisturbed[name]["history"]
        for rule, members in one["states"].items():
            for a, b in zip(members, undisturbed[name]["states"][rule], strict=True):
                assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("at", [0, 2])
def test_a_group_without_memory_is_halved_and_each_run_keeps_its_numbers(tmp_path, monkeypatch, fused, float64, at):
    """From some epoch on memory is exhausted with five or more runs: groups of four and two resume there."""
    train_epoch, tried = Program.train_epoch, []

    def limited(self, epoch):
        tried.append((len(self.runs), epoch))
        if len(self.runs) > 4 and epoch == at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return train_epoch(self, epoch)

    monkeypatch.setattr(Program, "train_epoch", limited)
    group, said = waiting(tmp_path), []
    trained = train(group, say=said.append)
    assert said[0] == "6 runs do not fit into the memory together; going on with 4 and 2"
    assert [epoch for runs, epoch in tried if runs == 4] == list(range(at, 4))
    for one in group:
        result = together.Trained(**trained[one.digest])
        size = 2 if one.run.settings.seed == 2 else 4
        assert result.layout == f"fused, {size} runs, halved for want of memory"
        assert_same(result, by_loop(one.run))
    # Another start does not try the whole again.
    for one in group:
        (one.checkpoint.folder / "trained.pt").unlink()
    tried.clear()
    train(group)
    assert {runs for runs, _ in tried} == {4, 2}


@pytest.fixture
def chosen(monkeypatch):
    """A list of the forms that the next programs will choose for their convolutions, as on a GPU."""
    build, forms = Program.__init__, []

    def choose(self, runs, *arguments):
        build(self, runs, *arguments)
        self.nets.back_ends = forms.pop(0)

    monkeypatch.setattr(Program, "__init__", choose)
    return forms


LOOP = {"training": {"features.5": "loop"}, "evaluation": {}}
UNFOLDED = {"training": {"features.5": "unfolded", "features.9": "unfolded"}, "evaluation": {"features.9": "loop"}}


def test_a_group_that_goes_on_keeps_the_forms_of_its_convolutions(tmp_path, fused, chosen):
    """Other forms give other bits, so the record names them."""

    def dies(line):
        if "epoch 3/4" in line:
            raise Killed

    chosen[:] = [UNFOLDED, UNFOLDED, LOOP, LOOP]
    undisturbed = train(waiting(tmp_path / "undisturbed"))
    with pytest.raises(Killed):
        train(waiting(tmp_path / "killed"), progress=dies)
    resumed = train(waiting(tmp_path / "killed"))
    other = train(waiting(tmp_path / "other"))
    named = "; unfolded in training: features.5 features.9; loop in evaluation: features.9"
    for name, one in undisturbed.items():
        assert one["layout"] == resumed[name]["layout"] == f"fused, 6 runs{named}"
        assert other[name]["layout"] == "fused, 6 runs; loop in training: features.5"
        assert one["history"] == resumed[name]["history"]
    assert any(one["history"] != other[name]["history"] for name, one in undisturbed.items())


def test_halves_choose_the_forms_of_their_convolutions_anew(tmp_path, monkeypatch, fused, chosen):
    train_epoch = Program.train_epoch

    def limited(self, epoch):
        if len(self.runs) > 4 and epoch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return train_epoch(self, epoch)

    monkeypatch.setattr(Program, "train_epoch", limited)
    chosen[:] = [UNFOLDED, LOOP, {}]
    layouts = [one["layout"] for one in train(waiting(tmp_path)).values()]
    halved = "halved for want of memory"
    assert layouts.count(f"fused, 4 runs, {halved}; loop in training: features.5") == 4
    assert layouts.count(f"fused, 2 runs, {halved}") == 2


def test_a_single_run_that_does_not_fit_is_reported_in_one_line(tmp_path, monkeypatch):
    def none(self, epoch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(Program, "train_epoch", none)
    with pytest.raises(InputError, match=r"one ensemble does not fit .*2\.00 GiB.*; set device: cpu$"):
        train(waiting(tmp_path))


def test_on_a_full_disk_the_results_are_kept_in_memory(tmp_path):
    group = waiting(tmp_path, count=1)
    for one in group:
        one.checkpoint.disabled = True
    unsaved = train_together(group, device="cpu", say=quiet, progress=quiet)
    assert {name: len(trained.history) for name, trained in unsaved.items()} == {"classical0": 4, "fdl0": 4}


def test_the_records_of_a_fused_bundle_are_those_of_the_loop(ready, fused, monkeypatch):
    run_bundle(ready, BUNDLE, say=quiet)
    fused_cells = {cell: dict(np.load(layout.record_folder(ready, cell) / "predictions.npz")) for cell in ready.cells()}
    for cell in ready.cells():
        record = records.read_run(layout.record_folder(ready, cell))
        assert record["provenance"]["layout"] == "fused, 4 runs"
        assert record["timings"]["train_seconds"] > 0
        (layout.record_folder(ready, cell) / "run.json").unlink()
    assert [path.name for path in layout.SCRATCH.iterdir()] == ["locks"]
    monkeypatch.setattr(bundle_module, "is_fused", lambda settings, device: False)
    run_bundle(ready, BUNDLE, say=quiet)
    for cell, predictions in fused_cells.items():
        record = layout.record_folder(ready, cell)
        assert records.read_run(record)["provenance"]["layout"] == "loop"
        for name, values in np.load(record / "predictions.npz").items():
            np.testing.assert_allclose(predictions[name], values, rtol=1e-3, atol=1e-4)


def test_a_fused_bundle_trains_what_is_missing_and_goes_on_after_a_kill_between_records(ready, fused, monkeypatch):
    write, scored = bundle_module.write_predictions, []

    def dies(*arguments, **options):
        if len(scored) == 2:
            raise Killed
        scored.append(1)
        return write(*arguments, **options)

    monkeypatch.setattr(bundle_module, "write_predictions", dies)
    with pytest.raises(Killed):
        run_bundle(ready, BUNDLE, say=quiet)
    monkeypatch.setattr(bundle_module, "write_predictions", write)
    monkeypatch.setattr(Program, "train", None)  # never called again
    run_bundle(ready, BUNDLE, say=quiet)
    assert {records.read_run(layout.record_folder(ready, c))["provenance"]["layout"] for c in ready.cells()} == {
        "fused, 4 runs"
    }
    assert [path.name for path in layout.SCRATCH.iterdir()] == ["locks"]


def test_a_fused_run_that_diverges_is_a_record_and_other_methods_go_through_the_loop(ready, fused):
    infinite = {"fdl": {"gaussian_weight": 3e38}}  # three pairs of members
    params = tiny(methods=["classical", "fdl", "gncl"], seeds=[0], members=3, method_params=infinite)
    assert train_bundle(params, BUNDLE, say=quiet) == {"trained": 2, "current": 0, "diverged": 1}
    receipt = run_bundle(params, BUNDLE, say=quiet)
    assert [entry["status"] for entry in receipt["cells"].values()] == ["done", "failed", "done"]
    failed = json.loads((folder(params) / "run.json").read_bytes())
    assert failed["failure"]["epoch"] == 0
    assert (failed["provenance"]["layout"], failed["timings"]["train_seconds"] > 0) == ("fused, 2 runs", True)
    loop = layout.record_folder(params, Cell("bsd", "alexnet", 3, "gncl", 0))
    assert records.read_run(loop)["provenance"]["layout"] == "loop"
