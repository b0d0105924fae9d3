"""A user's own method: trained with the others, and what can go wrong when it is imported and called."""

import sys
from pathlib import Path

import pytest
import torch

from fdl import layout, records
from fdl.data.prepare import prepare
from fdl.data.splits import write_split
from fdl.errors import InputError
from fdl.methods import METHODS
from fdl.params import Bundle
from fdl.training.bundle import run_bundle
from tests.projects import tiny, write_images

OWN = '''
import torch
from fdl.losses import descriptor


def {name}(maps, logits, inputs, labels, *, epoch, strength=0.5):
    """Bright places of the members must not lie on each other."""
    first, second = (descriptor(m) for m in maps[:2])
    return strength * (first * second).mean()
'''


def write_own(module, text=OWN):
    Path(f"{module}.py").write_text(text.replace("{name}", "apart"))


def call(name, maps=(), **parameters):
    return METHODS[name](maps, (), None, None, epoch=0, **parameters)


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
