"""Sources of methods: prose changes no digest, a changed line changes one method, nothing is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from fdl.core import method_digest, method_sources
from fdl.core.errors import InputError
from fdl.core.method_sources import method_source
from fdl.methods.registry import METHODS

OWN = '''"""Own methods."""

raise RuntimeError("reading must not run this")

SCALE = 2
UNUSED = 3


def norm(m):
    """The size of a map."""
    return SCALE * m.square().mean()


def pull(maps, logits, inputs, labels, *, epoch, strength, power=2):
    """Small maps."""
    return strength * sum(norm(m) for m in maps)


def other(maps, logits, inputs, labels, *, epoch):
    return maps[0].mean()
'''


@pytest.fixture
def own(project):
    """Writes the module with a text replaced; the digests of its two methods."""

    def digests(old="", new=""):
        assert old in OWN
        (project / "own.py").write_text(OWN.replace(old, new))
        return method_source("own.pull").digest, method_source("own.other").digest

    return digests


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Digests as they would be if registry.py were edited so."""

    def digests(old="", new=""):
        text = method_sources._METHODS.read_text()
        assert old in text
        copy = tmp_path / "registry.py"
        copy.write_text(text.replace(old, new))
        with monkeypatch.context() as patch:
            patch.setattr(method_sources, "_METHODS", copy)
            return {name: method_source(name).digest for name in METHODS}

    return digests


def test_prose_changes_no_digest(edited):
    assert edited("The feature distance loss of the paper.", "Another text.") == edited()
    assert edited("# No zero-weighted distance", "# Nothing") == edited()


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("fdl", "cosine_weight, gaussian_weight).total", "cosine_weight, 2 * gaussian_weight).total"),
        ("fdl-cosine", "cosine_weight, 0).total", "cosine_weight, 0.0).total"),
        ("gncl", ".mean(dim=0)", ".sum(dim=0)"),
        ("cka", "min=1e-12", "min=1e-10"),
        ("smd", "logsumexp", "sum"),
    ],
)
def test_a_changed_line_changes_its_own_method_only(edited, method, old, new):
    before, after = edited(), edited(old, new)
    assert {name for name in before if before[name] != after[name]} == {method}


def test_the_digests_of_the_papers_methods_are_those_of_the_stored_records():
    """Records were written under these: a change here trains all of them again."""
    assert method_source("classical").digest == "9ef6d47d6d7fac92"
    assert method_source("fdl").digest == "f88aa08321b88543"


def test_parameters_are_the_keywords_besides_the_epoch(own):
    own()
    source = method_source("own.pull")
    assert (source.parameters, source.required) == (("strength", "power"), {"strength"})
    assert method_source("classical").parameters == ()
    assert set(method_source("fdl").parameters) == {"cosine_weight", "gaussian_weight"}


def test_an_own_method_is_read_anew_when_its_file_changes(own):
    before = own()
    assert own("Small maps.", "Tiny maps.") == before
    assert own("The size of a map.", "A norm.") == before
    assert own("UNUSED = 3", "UNUSED = 4") == before
    pull, other = before
    for old, new in (("power=2", "power=3"), ("m.square()", "m.abs()"), ("SCALE = 2", "SCALE = 4")):
        changed = own(old, new)
        assert changed[0] != pull, f"{old} is a part of it"
        assert changed[1] == other, f"{old} is no part of it"


@pytest.mark.parametrize("block", ["if True:\n    SCALE = {}", "SCALE = {}\nSCALE += 1", "SCALE, X = {}, 1"])
def test_values_count_however_they_are_defined(own, block):
    assert own("SCALE = 2", block.format(2))[0] != own("SCALE = 2", block.format(5))[0]


def test_a_decorator_counts(own):
    assert own("def pull", "@norm\ndef pull")[0] != own()[0]


def test_a_module_inside_packages_is_found_and_none_is_run(project):
    (project / "lab" / "losses").mkdir(parents=True)
    (project / "lab" / "__init__.py").write_text("raise RuntimeError")
    (project / "lab" / "losses" / "own.py").write_text(OWN)  # a folder without __init__.py is a package too
    assert method_source("lab.losses.own.pull").file == project / "lab" / "losses" / "own.py"
    assert "lab" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gncll", "unknown 'gncll'; did you mean 'gncl'?"),
        ("absent.pull", "no module 'absent': put absent.py into"),
        ("own.absent.pull", "no module 'own.absent': put own/absent.py into"),
        ("own.pul", "own.pul: own.py has no function 'pul'; did you mean 'pull'?"),
        ("own.SCALE", "own.py has no function 'SCALE'; there are: norm, pull, other"),
        ("own.norm", "own.norm: own.py, line 9: write it as def norm(maps, logits, inputs, labels, *, epoch, ...)"),
        ("math.sin", "module 'math' has no Python source to read"),
        ("broken.pull", "broken.pull: broken.py is not Python: line 2: "),
        ("binary.pull", "binary.pull: binary.py "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(own, name, message):
    own()
    Path("broken.py").write_text("x = 1\ndef pull(:\n")
    Path("binary.py").write_bytes(b"\0\xff")
    with pytest.raises(InputError) as error:
        method_source(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "signature", ["maps, *, epoch", "a, b, c, d", "a, b, c, d, *e, epoch", "a, b, c, d, *, epoch, **e"]
)
def test_a_function_that_cannot_be_called_as_a_method_is_refused(project, signature):
    (project / "own.py").write_text(f"def f({signature}):\n    pass\n")
    with pytest.raises(InputError, match="write it as def f"):
        method_source("own.f")


def test_the_settings_read_methods_without_torch(project):
    (project / "own.py").write_text(OWN)
    code = f"""
import sys, yaml
from fdl.core.settings import load
params = load({str(Path(method_sources.__file__).parents[2] / "params.yaml")!r}, preset="demo", overrides={{
    "methods": ["fdl", "smd", "own:pull"], "method_params": {{"own:pull": {{"strength": 1.0}}}}}})
assert len({{params.settings_digest(cell) for cell in params.cells()}}) == len(params.cells())
assert "torch" not in sys.modules
"""
    environment = {"PYTHONPATH": str(Path(method_sources.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.fixture
def edited_loss(tmp_path, monkeypatch):
    """Digests of the registered methods as they would be in a copy of `fdl` whose losses.py was edited so."""
    import shutil

    package = tmp_path / "copy" / "fdl"
    shutil.copytree(Path(method_sources.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(method_sources, "_METHODS", package / "methods" / "registry.py")
    monkeypatch.setattr(method_digest, "_PACKAGE", package)
    monkeypatch.syspath_prepend(str(package.parent))
    losses = package / "methods" / "losses.py"
    text = losses.read_text()

    def digests(old="", new=""):
        assert old in text
        losses.write_text(text.replace(old, new))
        return {name: method_source(name).digest for name in METHODS}

    return digests


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mean.detach() > threshold", "mean.detach() >= threshold"),  # descriptor
        ("-(d[i] - d[j]).square()", "-2 * (d[i] - d[j]).square()"),  # pair_similarities
        ("min=1e-12", "min=1e-6"),
        ("gaussians.mean(dim=(-2, -1)).sum()", "gaussians.mean(dim=(-2, -1)).mean()"),  # feature_distance
    ],
)
def test_an_edited_loss_changes_the_methods_that_use_it_and_no_other(edited_loss, old, new):
    before, after = edited_loss(), edited_loss(old, new)
    assert {name for name in before if before[name] != after[name]} == {"fdl", "fdl-cosine", "fdl-gaussian"}


def test_prose_of_the_loss_changes_no_digest(edited_loss):
    before = edited_loss()
    assert before["fdl"] == "f88aa08321b88543", "the loss as it was when the stored records were written"
    assert edited_loss("# `where`, not a product", "# not a product") == before
    assert edited_loss("The loss and its two terms, 0-d tensors", "Three tensors") == before


@pytest.mark.parametrize("imported", ["from fdl import descriptor", "from fdl.methods.losses import descriptor"])
def test_an_edited_loss_changes_an_own_method_that_uses_it(project, edited_loss, imported):
    Path("own.py").write_text(
        f"{imported}\n\n\ndef pull(maps, logits, inputs, labels, *, epoch):\n    return descriptor(maps[0]).sum()\n"
    )
    edited_loss()
    before = method_source("own.pull").digest
    edited_loss("gaussians.mean(dim=(-2, -1)).sum()", "gaussians.mean(dim=(-2, -1)).mean()")  # not its part
    assert method_source("own.pull").digest == before
    edited_loss("mean.detach() > threshold", "mean.detach() >= threshold")
    assert method_source("own.pull").digest != before


USER = {
    "own.py": "from parts.terms import size as norm\n\n\ndef pull(maps, logits, inputs, labels, *, epoch):\n"
    "    return norm(maps)\n",
    "parts/__init__.py": "",
    "parts/terms.py": "from . import scale\nfrom .deep.more import *\nimport json\n\n\ndef size(maps):\n"
    "    return scale.FACTOR * maps[0].mean() + extra()\n\n\ndef unused():\n    return 1\n",
    "parts/scale.py": "FACTOR = 2\n",
    "parts/deep/more.py": "def extra():\n    from fdl.methods.losses import descriptor\n\n    return descriptor\n",
}


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("own.py", "norm(maps)", "2 * norm(maps)", True),
        ("parts/terms.py", "maps[0].mean()", "maps[0].sum()", True),
        ("parts/scale.py", "FACTOR = 2", "FACTOR = 3", True),
        ("parts/deep/more.py", "return descriptor", "return descriptor(0)", True),
        ("parts/deep/more.py", "descriptor", "feature_distance", True),
        ("parts/terms.py", "return 1", "return 2", False),
        ("parts/scale.py", "FACTOR = 2", "FACTOR = 2  # of what", False),
    ],
)
def test_an_own_method_covers_the_modules_of_the_project_that_it_uses(project, file, old, new, counts):
    for name, text in USER.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    before = method_source("own.pull").digest
    assert old in USER[file]
    (project / file).write_text(USER[file].replace(old, new))
    assert (method_source("own.pull").digest != before) == counts


def test_modules_that_import_each_other_are_read_once(project):
    (project / "own.py").write_text(
        "import other\n\n\ndef pull(maps, logits, inputs, labels, *, epoch):\n    return other.f()\n"
    )
    (project / "other.py").write_text("import own\n\n\ndef f():\n    return own.pull\n")
    before = method_source("own.pull").digest
    (project / "other.py").write_text("import own\n\n\ndef f():\n    return own.pull, 1\n")
    assert method_source("own.pull").digest != before
