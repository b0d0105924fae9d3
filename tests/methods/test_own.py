"""A user's own method: trained with the others, and what can go wrong when it is imported and called."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch

from fdl.cli.main import main
from fdl.core import layout
from fdl.core.errors import InputError, MethodError
from fdl.core.settings import Bundle
from fdl.data.prepare import prepare
from fdl.data.splits import write_split
from fdl.methods.registry import METHODS
from fdl.results import records
from fdl.training.bundle import run_bundle
from fdl.training.engine import train
from tests.projects import tiny, write_images, write_params
from tests.training import cells

OWN = '''
import torch
from fdl.methods.losses import descriptor


def {name}(maps, logits, inputs, labels, *, epoch, strength=0.5):
    """Bright places of the members must not lie on each other."""
    first, second = (descriptor(m) for m in maps[:2])
    return strength * (first * second).mean()
'''


def write_own(module, text=OWN):
    Path(f"{module}.py").write_text(text.replace("{name}", "apart"))


def call(name, maps=(), **parameters):
    return METHODS[name](maps, (), torch.zeros(1), torch.zeros(1), epoch=0, **parameters)


def test_only_the_cells_of_an_own_method_are_trained_when_it_is_new_or_changed(project):
    write_images()
    params = tiny(seeds=[0])
    prepare(params, "bsd", say=lambda line: None)
    write_split(params, "bsd", 3, 0)

    def run(**overrides):
        """The methods that were trained."""
        said = []
        params = tiny(seeds=[0], **overrides)
        run_bundle(params, Bundle("bsd", "alexnet", 3), say=said.append)
        return [line.split()[-3] for line in said if ": cell " in line]

    assert run() == ["classical", "fdl"]
    write_own("own_trained")
    methods = ["classical", "fdl", "own_trained:apart"]
    assert run(methods=methods) == ["own_trained.apart"]
    assert run(methods=methods) == []
    folder = layout.results_folder(params) / "bsd/alexnet/3shot/own_trained.apart/seed0"
    record = records.read_run(folder)
    records.verify(folder, record)
    assert record["status"] == "done"
    assert record["settings"]["method_params"] == {}
    write_own("own_trained", OWN.replace("Bright places", "Brightest places"))
    assert run(methods=methods) == []
    assert run(methods=methods, method_params={"own_trained:apart": {"strength": 2.0}}) == ["own_trained.apart"]
    write_own("own_trained", OWN.replace(".mean()", ".sum()"))
    assert run(methods=methods) == ["own_trained.apart"]


def test_an_own_method_computes_what_its_function_says(project):
    write_own("own_called")
    ones = torch.tensor([[[[1.0, 0.0]]]])
    assert call("own_called.apart", [ones, ones]).item() == 0.25
    assert call("own_called.apart", [ones, ones], strength=2.0).item() == 1
    assert str(project) not in sys.path


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        (
            "own_import",
            "import absent_package\n" + OWN,
            "importing .*own_import.py fails: ModuleNotFoundError: No module",
        ),
        ("own_error", OWN + "\n1 / 0\n", "importing .*own_error.py fails: ZeroDivisionError"),
        ("colorsys", OWN, "Python already has a module 'colorsys'; rename colorsys.py"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(project, module, text, message):
    import colorsys  # noqa: F401 - any module that is already there

    write_own(module, text)
    with pytest.raises(InputError, match=message) as error:
        METHODS[f"{module}.apart"]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("None", "it returned NoneType"),
        ("torch.zeros(2)", r"it returned torch.float32 \(2,\)"),
        ("torch.zeros((), dtype=torch.int64)", "it returned torch.int64"),
    ],
)
def test_what_is_no_loss_is_refused(project, result, message):
    module = f"own_result_{abs(hash(result))}"
    write_own(module, f"import torch\ndef {{name}}(maps, logits, inputs, labels, *, epoch):\n    return {result}\n")
    with pytest.raises(InputError, match=message):
        call(f"{module}.apart")


FAILING = {
    "exit": ("sys.exit(0)", "line 5, epoch 1: it ends the process, with status 0"),
    "hard_exit": ("os._exit(0)", "line 5, epoch 1: it ends the process, with status 0"),
    "error": ("raise ValueError('no\\nway')", "line 5, epoch 1: ValueError: no way"),
    "in_torch": ("maps[0] @ labels", "line 5, epoch 1: RuntimeError: "),
    "maps": ("maps[0].detach().mul_(0)", r"epoch 1: it changes maps\[0\] in place"),
    "data": ("maps[1].data.zero_()", r"epoch 1: it changes maps\[1\] in place"),
    "numpy": ("labels.numpy()[:] = 0", r"epoch 1: it changes labels in place"),
    "logits": ("logits[1].data.add_(1)", r"epoch 1: it changes logits\[1\] in place"),
    "inputs": ("inputs.zero_()", "epoch 1: it changes inputs in place"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_method_that_fails_in_a_training_is_one_line_and_status_1(project, capfd, monkeypatch, kind):
    statement, message = FAILING[kind]
    write_own(
        f"own_{kind}",
        f"import os, sys\ndef {{name}}(maps, logits, inputs, labels, *, epoch):\n"
        f"    loss = maps[0].sum() * 0\n    if epoch == 1:\n        {statement}\n    return loss\n",
    )
    write_images()
    write_params(Path("params.yaml"), seeds=[0], methods=["classical", f"own_{kind}:apart"])
    prepare(tiny(), "bsd", say=lambda line: None)
    write_split(tiny(), "bsd", 3, 0)
    monkeypatch.setattr(sys, "argv", ["fdl", "run"])
    with pytest.raises(SystemExit) as status:
        main()
    error = capfd.readouterr().err
    assert status.value.code == 1
    assert error.count("\n") == 1
    assert re.match(
        rf"fdl: bsd/alexnet/3shot/own_{kind}\.apart/seed0: methods: own_{kind}\.apart: own_{kind}\.py, {message}", error
    )
    assert not list(Path("results").rglob("bundle.json"))
    assert len(list(Path("results").rglob("run.json"))) == 1, "the other cell keeps its record"


def test_an_error_in_the_backward_pass_of_a_method_is_told_too(project):
    write_own(
        "own_backward",
        """
import torch
class Loss(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.sum()
    @staticmethod
    def backward(context, gradient):
        raise ValueError("no gradient")
def {name}(maps, logits, inputs, labels, *, epoch):
    return Loss.apply(maps[0])
""",
    )
    with pytest.raises(MethodError, match=r"own_backward\.py, line 9, epoch 0: ValueError: no gradient"):
        train(cells.settings(method="own_backward.apart"), cells.data(), device="cpu", progress=lambda line: None)


def test_a_method_that_changes_its_lists_changes_those_of_nobody_else(project):
    write_own(
        "own_lists",
        "def {name}(maps, logits, inputs, labels, *, epoch):\n    logits.reverse()\n    return maps.pop().sum() * 0\n",
    )
    settings, data = cells.settings(method="own_lists.apart"), cells.data()
    trained = [train(one, data, device="cpu", progress=lambda line: None) for one in (settings, cells.settings())]
    assert trained[0].history == trained[1].history


def test_a_process_that_a_method_forks_may_end_as_it_wants_to(project):
    write_own(
        "own_fork",
        "import os\n"
        "def {name}(maps, logits, inputs, labels, *, epoch):\n"
        "    child = os.fork()\n    if not child:\n        os._exit(3)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n    return maps[0].sum()\n",
    )
    ones = torch.ones(1, 1, 1, 1)
    assert METHODS["own_fork.apart"]([ones], [ones], ones, ones, epoch=0).item() == 1
    assert os._exit.__name__ == "_exit"
