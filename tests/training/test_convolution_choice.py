"""The choice of the fastest form of every convolution: how it is measured, remembered and named."""

import json
import re
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional

from fdl.models import build
from fdl.models.convolutions import BACK_ENDS, window_elements
from fdl.models.fused import FusedNets, Pass
from fdl.training import convolution_choice
from fdl.training.convolution_choice import choose, convolutions, described, gpu_milliseconds
from fdl.training.cuda_graph import Replays
from fdl.training.fused import Program
from tests.training import cells
from tests.training.test_fused import quiet, run

IMAGES = {"training": 3, "evaluation": 5}
LOOP_IS_FAST = {"grouped": 2.0, "grouped, channels first": 1.9, "loop": 1.0, "unfolded": 1.5}


@pytest.fixture
def nets():
    members = [build("resnet", "cifar10", 3, 32, 0.0625, member=member).train() for member in range(4)]
    return FusedNets(members, inputs=2)


class Clock:
    """A timer that calls the function and returns prescribed times."""

    def __init__(self, milliseconds):
        self.milliseconds, self.forms = milliseconds, []

    def __call__(self, work):
        work()
        (form,) = work.args
        self.forms.append(form)
        return self.milliseconds[form]


def chosen(nets, file, clock=None, **options):
    given = {"autocast": False, "say": quiet, "milliseconds": clock or Clock(LOOP_IS_FAST), "file": file}
    return choose(nets, 32, IMAGES, **given | options)


def test_every_convolution_takes_the_fastest_form(nets, tmp_path):
    clock, said = Clock(LOOP_IS_FAST), []
    back_ends = chosen(nets, tmp_path / "file.json", clock, say=said.append)
    layers = [name for name, module in nets.template.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert back_ends == {kind: dict.fromkeys(layers, "loop") for kind in IMAGES}
    different = len(clock.forms) / len(BACK_ENDS)
    assert different < 2 * len(layers), "layers that are alike are measured once"
    assert len(said) == 1
    assert re.fullmatch(rf"{different:.0f} convolutions measured in \d+ s{re.escape(described(back_ends))}", said[0])
    assert f"; loop in evaluation: {' '.join(layers)}" in said[0]


def test_the_measured_nets_are_left_as_they_were(nets, tmp_path):
    nets.gradient.fill_(3.0)
    flat = nets.flat.clone()
    chosen(nets, tmp_path / "file.json")
    assert torch.equal(nets.flat, flat)
    assert bool((nets.gradient == 3.0).all())


@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_measured_is_what_a_program_calls(nets, tmp_path, monkeypatch, autocast):
    """The inputs of every layer have the same shapes, types and memory formats, in training and in evaluation."""
    measured, called = [], []

    def noting(calls):
        def grouped(x, weight, bias, layer):
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            calls.append((torch.is_grad_enabled(), x.requires_grad, x.shape, x.dtype, channels_last, weight.shape))
            return BACK_ENDS["loop"](x, weight, bias, layer)

        return grouped

    monkeypatch.setitem(BACK_ENDS, "grouped", noting(measured))
    chosen(nets, tmp_path / "file.json", autocast=autocast)
    monkeypatch.setitem(BACK_ENDS, "grouped", noting(called))
    for kind, number in IMAGES.items():
        inputs = torch.rand(number, 6, 32, 32).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", enabled=autocast), torch.set_grad_enabled(kind == "training"):
            nets(inputs, Pass(momentum=0.01) if kind == "training" else None)
    assert set(measured) == set(called)


def test_only_a_clearly_faster_form_is_taken(nets, tmp_path):
    times = dict.fromkeys(BACK_ENDS, 1.0) | {"loop": 0.95}
    assert chosen(nets, tmp_path / "file.json", Clock(times)) == {"training": {}, "evaluation": {}}
    assert described({"training": {}, "evaluation": {}}) == ""


def test_what_was_measured_is_remembered_for_this_card_and_these_versions(nets, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    file = tmp_path / "new" / "file.json"
    first = chosen(nets, file)
    again = Clock(dict.fromkeys(BACK_ENDS, 1.0))
    assert chosen(nets, file, again) == first
    assert again.forms == []
    monkeypatch.setattr(convolution_choice, "_card", lambda: "another card")
    assert chosen(nets, file, again) != first
    cards = json.loads(file.read_text())
    assert len(cards) == 2
    assert {case["form"] for case in cards["another card"].values()} == {"grouped"}
    for case, values in cards["another card"].items():
        assert case.startswith(("training, float32: ", "evaluation, float32: "))
        assert values["milliseconds"] == dict.fromkeys(BACK_ENDS, 1.0)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    chosen(nets, file, again)
    chosen(nets, file, again, autocast=True)
    names = {case.partition(":")[0] for case in json.loads(file.read_text())["another card"]}
    assert names == {f"{kind}, {precision}" for kind in IMAGES for precision in ("float32", "tf32", "bfloat16")}


@pytest.mark.parametrize("text", ["", "[1]", '{"card": 3}', "{"])
def test_a_damaged_file_is_written_anew(nets, tmp_path, text):
    file = tmp_path / "file.json"
    file.write_text(text)
    chosen(nets, file)
    assert json.loads(file.read_text())


def test_a_folder_that_cannot_be_written_is_said(nets, tmp_path):
    (tmp_path / "file").touch()
    said = []
    chosen(nets, tmp_path / "file" / "file.json", say=said.append)
    assert said[0].endswith("cannot be written (File exists); the next program measures again")


@pytest.mark.parametrize("error", [RuntimeError("no engine\nmore"), torch.OutOfMemoryError("no engine")])
def test_a_form_that_fails_is_left_out(nets, tmp_path, monkeypatch, error):
    def fails(*given):
        raise error

    said = []
    monkeypatch.setitem(BACK_ENDS, "loop", fails)
    back_ends = chosen(nets, tmp_path / "file.json", say=said.append)
    assert {form for forms in back_ends.values() for form in forms.values()} == {"unfolded"}
    assert said[0] == "features.0.main.0: no convolution of the form loop (no engine)"
    for form in BACK_ENDS:
        monkeypatch.setitem(BACK_ENDS, form, fails)
    assert chosen(nets, tmp_path / "other.json") == {"training": {}, "evaluation": {}}, "a step will say why"


def test_windows_that_would_fill_the_card_are_not_tried(nets, tmp_path, monkeypatch):
    """Here there is memory only for the windows of the last layers, whose inputs are smaller."""
    layer, size = convolutions(nets.template, 32)["features.1.main.0"]
    windows = 4 * nets.count * window_elements(layer, IMAGES["training"], *size)
    monkeypatch.setattr(convolution_choice, "gpu_memory", lambda: 64 * (windows - 1))
    unfolded_is_fast = LOOP_IS_FAST | {"unfolded": 0.5}
    forms = chosen(nets, tmp_path / "memory.json", Clock(unfolded_is_fast))["training"]
    assert (forms["features.1.main.0"], list(forms.values())[-1]) == ("loop", "unfolded")
    monkeypatch.setattr(convolution_choice, "gpu_memory", lambda: 2.0**60)
    monkeypatch.setattr(convolution_choice, "ELEMENTS", windows // 4 - 1)
    assert chosen(nets, tmp_path / "elements.json", Clock(unfolded_is_fast))["training"] == forms


@pytest.mark.parametrize("layer", [torch.nn.Conv2d(3, 2, 3, padding=1), torch.nn.Conv2d(2, 5, (5, 4), 2, (2, 0))])
def test_the_windows_are_counted(layer):
    images = torch.rand(2, layer.in_channels, 13, 11)
    unfolded = functional.unfold(images, layer.kernel_size, padding=layer.padding, stride=layer.stride)
    assert window_elements(layer, 2, 13, 11) == unfolded.numel()


def test_a_time_is_the_median_of_replays(monkeypatch):
    monkeypatch.setenv("FDL_EAGER", "1")  # which is for programs
    made = []

    class Graphs(Replays):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

        def _captured(self, name, function):
            function()

    monkeypatch.setattr(convolution_choice, "Replays", Graphs)
    calls, times = [], iter([5.0, 1.0, 4.0] + 100 * [1000.0])
    now = [0.0]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return end.at - self.at

    def work():
        calls.append(1)
        if len(calls) > 5:
            now[0] += next(times)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(convolution_choice, "_REPEATS", 3)
    monkeypatch.setattr(convolution_choice, "_SECONDS", 60.0)
    assert gpu_milliseconds(work, quiet) == 4.0
    assert [list(graphs.graphs) for graphs in made] == [["form"]], "it was captured"
    assert len(calls) == 5 + 3


def test_a_program_on_a_gpu_chooses_for_what_it_does(monkeypatch):
    given = []

    def chooses(*arguments, **options):
        given.extend([*arguments, options["autocast"]])
        return {"training": {"features.5": "loop"}}

    monkeypatch.setattr(convolution_choice, "choose", chooses)
    monkeypatch.setattr(Program, "stream", lambda program: nullcontext())
    program = Program([run(data=cells.data(validation=12))], "cpu", quiet)
    assert (program.nets.back_ends, given) == ({}, []), "a CPU has no choice"
    program._choose_convolutions()
    assert program.nets.back_ends == {"training": {"features.5": "loop"}}
    assert given == [program.nets, 32, {"training": 4, "evaluation": 12}, False]


def test_the_measurements_are_kept_for_the_user(nets, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(convolution_choice, "gpu_milliseconds", lambda work, say: Clock(LOOP_IS_FAST)(work))
    back_ends = choose(nets, 32, IMAGES, autocast=False, say=quiet)
    assert set(back_ends["training"].values()) == {"loop"}
    assert (tmp_path / "fdl" / "convolutions.json").is_file()
