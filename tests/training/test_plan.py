"""The forecast of a grid's cost: the counts equal those of a real run."""

import json

import numpy as np
import pytest
import torch

from fdl.core import layout
from fdl.core.protocol import DATASETS
from fdl.core.settings import Bundle, Cell
from fdl.evaluation import kept_maps
from fdl.evaluation.cam import OF_EACH
from fdl.models import Member
from fdl.reporting.results import read_results
from fdl.training import costs, fused, fused_heads, plan
from fdl.training.bundle import run_bundle
from fdl.training.costs import Shape
from fdl.training.cuda_graph import WARM_UP
from fdl.training.device import autocast_bfloat16
from fdl.training.seed_plan import seeds_for, seeds_needed
from tests.faults.conftest import fdl
from tests.projects import tiny, write_images, write_params
from tests.reporting.claim_records import gain, grid, write

__all__ = ["fdl"]  # a fixture
fused_program = fused.Program

# Millions of FLOPs of a forward pass, counted layer by layer from docs/reference.md 1.
FORWARD = {
    ("cifar10", "alexnet"): 516,
    ("cifar100", "vgg"): 385,
    ("miniimagenet", "resnet"): 4932,
    ("neu", "vgg"): 22276,
    ("bsd", "alexnet"): 1339,
    ("tex", "resnet"): 2935,
}


@pytest.mark.parametrize(("dataset", "backbone"), FORWARD)
def test_flops_and_parameters_of_the_authors_networks(dataset, backbone):
    protocol = DATASETS[dataset]
    net = costs.count(Shape(backbone, dataset, len(protocol.classes), protocol.image_size, 1.0))
    assert net.forward / 1e6 == pytest.approx(FORWARD[dataset, backbone], rel=1e-3)
    # The first convolution has no gradient by the images.
    assert 2.9 < net.training / net.forward < 3
    assert net.kept > net.largest > 0


def test_a_net_of_torchvision_is_counted_too():
    net = costs.count(Shape("torchvision-resnet18", "neu", 6, 64, 1.0))
    assert net.parameters == pytest.approx(11.2e6, rel=0.02)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"evaluate_every": 1, "selections": ["sum", "last"], "bn_statistics": "moving", "epochs": 3},
        {"methods": ["tuned", "wide"]},
        {"heads": ["fusion"], "head_augment": True},
        {"heads": ["fusion", "stacking"], "evaluate_every": 1, "selections": ["sum"], "tuning_epochs": 2},
        {"precision": "bfloat16", "heads": ["fusion"]},
        {"heads": ["fusion", "stacking"], "kept": 0},
    ],
)
def test_the_images_that_are_counted_are_those_that_the_nets_see(fdl, monkeypatch, changes):
    write_images()
    # Wide nets are trained one by one, so that their calls can be counted; a fused program calls no single net.
    changes = {"seeds": [0], "methods": ["fdl"], "width": 0.6} | changes
    if changes.get("precision") == "bfloat16" and not autocast_bfloat16("auto", "cpu"):
        pytest.skip("this processor has no bfloat16 arithmetic")
    monkeypatch.setattr(kept_maps, "MOST_BYTES", changes.pop("kept", kept_maps.MOST_BYTES))
    write_params(layout.Path("params.yaml"), **changes)
    assert fdl("data", "prepare")[0] == fdl("split")[0] == 0
    params, forward = tiny(**changes), Member.forward
    works = [costs.work(params, cell) for cell in params.cells()]
    for work in works:
        costs.count(work.shape)  # fills the cache: it calls the net, as a bundle would if disk space is low
    seen = {"trained": 0, "evaluated": 0, "mapped": 0}

    def counting(self, x):
        frozen = not (torch.is_grad_enabled() and next(self.parameters()).requires_grad)
        kind = "mapped" if x.requires_grad else "evaluated" if frozen else "trained"
        seen[kind] += len(x)
        return forward(self, x)

    monkeypatch.setattr(Member, "forward", counting)
    run_bundle(params, Bundle("bsd", "alexnet", 3), say=lambda line: None)
    members = sum(work.members for work in works)
    # The maps that are shown come on top: of two classes some images, of their own and of the predicted class.
    shown = 2 * OF_EACH * members
    expected = {
        "trained": sum(work.trained for work in works),
        "evaluated": sum(work.evaluated for work in works) + shown,
        "mapped": sum(work.mapped for work in works),
    }
    assert seen == expected


def test_the_longest_bundles_begin_first():
    assert plan.makespan([1, 1, 2], 2) == 2
    assert plan.makespan([3, 1, 1, 1], 2) == 3
    assert plan.makespan([1, 2, 3], 1) == 6


@pytest.mark.parametrize(("methods", "width", "nets"), [(["classical", "fdl"], 0.0625, 4), (["gncl"], 0.0625, 0)])
def test_narrow_nets_are_measured_as_they_are_trained(project, monkeypatch, methods, width, nets):
    """Both methods of a seed are one program of two ensembles with two nets each; other methods use the plain loop."""
    seen = []
    monkeypatch.setattr(fused, "Program", lambda *about: seen.append(fused_program(*about)) or seen[-1])
    lines = plan.plan(tiny(methods=methods, width=width), seconds=0.2).lines
    assert [program.nets.count for program in seen] == [nets] * bool(nets)
    assert lines[0].hours > 0


def test_the_plan_of_a_project(fdl, project):
    write_params(project / "params.yaml")
    code, out, _ = fdl("plan", "--seconds", "0.5", "--json")
    before = json.loads(out)
    assert code == 0
    assert [(line["bundle"], line["cells"], line["finished"]) for line in before["lines"]] == [
        ("bsd/alexnet/3shot", 4, 0)
    ]
    assert before["hours"] > 0
    assert before["notes"] == ["not prepared, so with the authors' numbers of images: bsd"]
    write_images()
    assert fdl("data", "prepare")[0] == fdl("split")[0] == fdl("run")[0] == 0
    after = json.loads(fdl("plan", "--seconds", "0.5", "--json")[1])
    assert (after["lines"][0]["finished"], after["hours"], after["notes"]) == (4, 0, [])
    code, out, _ = fdl("plan", "--seconds", "0.5", "--set", "epochs=4")
    assert code == 0
    assert "demo: 4 of 4 cells to train" in out
    # A dataset that was never measured is taken to vary as much as any that was.
    assert "in 80 % of cases without a difference: 67\n" in out
    assert "in points: bsd 5.5 (not measured: taken as NEU's)" in out


def test_own_images_are_counted_when_they_are_prepared(fdl, project):
    own = {"name": "bolts", "folder": "photos", "image_size": 32, "like": "neu"}
    write_params(project / "params.yaml", datasets=[own])
    code, _, err = fdl("plan")
    assert code == 2
    assert err == "fdl: bolts: how many images there are is known after `python -m fdl data prepare bolts`\n"


def test_seeds_for_two_points_by_hand():
    # One bundle: (t + 1.2816) · 2 / √n < 2 with n − 1 degrees of freedom: 10 give 3.115 < 3.162, 9 give 3.141 > 3.
    assert seeds_for({"neu": 1}, {"neu": 2.0}) == 10
    # Four bundles that share 0.3 of their variance: (1 + 3 · 0.3) / 4 of it.
    assert seeds_for({"neu": 4}, {"neu": 2.0 * (4 / 1.9) ** 0.5}) == 10
    # A second dataset that does not vary, with as many: half the standard error, and the same degrees of freedom.
    assert seeds_for({"neu": 1, "bsd": 1}, {"neu": 4.0, "bsd": 0.0}) == 10
    assert seeds_for({"neu": 1}, {"neu": 100.0}) is None


def test_the_spread_is_that_of_the_records_at_hand(project):
    params = grid()
    write(params, gain(6))
    needed = seeds_needed(params, params.cells())
    values = read_results(params).values("soft", "accuracy")
    for dataset in ("bsd", "neu"):
        pairs = [
            [100 * (values[Cell(dataset, "alexnet", k, "fdl", s)] - values[Cell(dataset, "alexnet", k, "classical", s)])
             for s in range(5)]
            for k in (3, 5)
        ]  # fmt: skip
        assert needed.spreads[dataset].source == "the records at hand"
        assert needed.spreads[dataset].points == pytest.approx(np.var(pairs, axis=1, ddof=1).mean() ** 0.5)
    assert needed.all is not None
    assert needed.all <= max(needed.datasets.values())
    assert seeds_needed(grid(methods=["classical"]), []) is None
    assert seeds_needed(params, []).spreads["neu"].source == "reports/lite"


def test_a_gpu_is_measured_as_it_trains_evaluates_and_tunes(project, monkeypatch):
    """Tested on the CPU: evaluations use the program, and heads the fused members of one ensemble at a time."""
    called = []

    def noting(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: called.append(name) or function(*given))

    noting(fused.Program, "train_epoch")
    noting(fused.Program, "validate")
    noting(fused_heads.ReplayedSteps, "__call__")
    pace = plan._measure(tiny(), Shape("alexnet", "bsd", 3, 32, 0.0625), 2, "cpu", 0.1, on_gpu=True)
    assert called.count("train_epoch") > WARM_UP
    assert called.count("__call__") > WARM_UP
    assert "validate" in called
    assert min(pace.trained, pace.evaluated, pace.mapped, pace.tuned) > 0


def test_a_program_on_a_gpu_is_no_larger_than_the_card(project, monkeypatch):
    params = tiny(seeds=[0, 1, 2], methods=["classical", "fdl", "gncl"])
    monkeypatch.setattr("fdl.training.device.autocast_bfloat16", lambda precision, device: False)
    together = {work.together for work in plan._works(params, params.cells(), "cuda")}
    assert together == {1, 6}, "a loss that is not declared is trained alone"
    work = costs.work(params, params.cells()[0])
    monkeypatch.setattr("fdl.training.extent.gpu_memory", lambda: 1.0)
    assert plan._ensembles_at_once(params, work, 6, "cuda") == 1
    assert plan._ensembles_at_once(params, work, 6, "cpu") == 6


def test_heads_are_forecast_at_their_own_pace(project):
    params = tiny(seeds=[0], heads=["fusion"], tuning_epochs=5, head_epochs=1)
    cells = params.cells()
    works = plan._works(params, cells, "cpu")
    network = works[0].shape, works[0].together

    def hours(tuned):
        paces = {network: plan.Pace(1.0, 0.0, 0.0, tuned, measured=True)}
        return plan._line(params, cells[0].bundle, cells, works, paces, device="cpu").hours

    tuned = sum(work.tuned for work in works)
    assert tuned == sum(work.members for work in works) * 5 * 3 * 2
    assert 3600 * (hours(11.0) - hours(1.0)) == pytest.approx(10.0 * tuned)
