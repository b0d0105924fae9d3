"""The verbs as a user types them: exit codes, and one line where something is wrong."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fdl.cli import main
from fdl.core import layout
from fdl.core.settings import Bundle
from tests.projects import ROOT, tiny, write_images, write_params


@pytest.fixture
def fdl(project, monkeypatch, capsys):
    """Call a verb in this process: exit code, what it printed, its errors."""
    write_params(project / "params.yaml")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fdl", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return call


def test_the_installed_command_is_the_module():
    (script,) = entry_points(group="console_scripts", name="fdl")
    assert script.load() is main.main


def test_the_verbs_in_order_make_a_record(fdl):
    write_images()
    assert fdl("data", "prepare")[0] == 0
    code, out, _ = fdl("split")
    assert code == 0
    assert len(out.splitlines()) == 2  # one file per draw
    code, out, _ = fdl("run", "bsd/alexnet/3shot", "--set", "seeds=[0]")
    assert code == 0
    assert out.splitlines()[-1] == "bsd/alexnet/3shot: 2 cells, 0 failed"
    assert layout.bundle_file(tiny(), Bundle("bsd", "alexnet", 3)).exists()


def unreadable():
    write_images()
    path = next(iter((Path("images/bsd/test/pitting")).iterdir()))
    path.write_bytes(path.read_bytes()[:50])


WRONG = {
    "a wrong key": (["split", "--set", "epoch=3"], None, "unknown key 'epoch'; did you mean 'epochs'?"),
    "a wrong value": (["split", "--set", "epochs=-3"], None, "epochs: -3 is not allowed"),
    "no equals sign": (["split", "--set", "epochs"], None, "--set epochs: write it as KEY=VALUE"),
    "no params file": (["split", "--params", "nowhere.yaml"], None, "nowhere.yaml: no such file"),
    "an unknown preset": (["split", "--preset", "papper"], None, "preset: unknown 'papper'; did you mean 'paper'?"),
    "no data folder named": (["data", "prepare", "--set", "data_dir=null"], None, "set data_dir"),
    "a missing data folder": (["data", "prepare"], None, "images/bsd: no such folder"),
    "an unreadable image": (["data", "prepare"], unreadable, "images/bsd/test/pitting/"),
    "not prepared": (["split"], None, "no such file; run `python -m fdl data prepare`"),
    "an unknown dataset": (["data", "prepare", "tex"], None, "dataset 'tex' is not in the settings; they use bsd"),
    "an unknown bundle": (["run", "bsd/vgg/3shot"], None, "bundle 'bsd/vgg/3shot' is not in the grid"),
    "no records": (["collect"], None, "4 of 4 records cannot be used"),
    "nothing collected": (["report"], None, "no such file; run `python -m fdl collect"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_and_exit_code_2(fdl, case):
    arguments, prepare, message = WRONG[case]
    if prepare:
        prepare()
    code, _, err = fdl(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("fdl: ")
    assert len(err.splitlines()) == 1


def test_more_shots_than_the_pool_holds(fdl):
    write_images(train=2)
    assert fdl("data", "prepare")[0] == 0
    code, _, err = fdl("split")
    assert code == 2
    assert err == (
        "fdl: 3 shots: the training pool of bsd holds only 2 images of class no pitting; ask for fewer shots\n"
    )


def test_a_full_disk_is_one_line_and_exit_code_1(fdl, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "data/prepared")

    write_images()
    monkeypatch.setattr("fdl.core.files.write_atomically", full)
    code, _, err = fdl("data", "prepare")
    assert code == 1
    assert err.startswith("fdl: data/prepared: No space left on device; make room (`python -m fdl clean --dry-run`")
    assert err.count("\n") == 1


def python(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_help_of_every_verb(project):
    for verb in ([], ["data", "prepare"], ["split"], ["run"], ["collect"], ["report"], ["track"]):
        done = python("-m", "fdl", *verb, "--help", cwd=project)
        assert done.returncode == 0
        assert "Usage" in done.stdout


def test_a_wrong_option_ends_with_2(project):
    done = python("-m", "fdl", "run", "--nonsense", cwd=project)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_settings_are_read_without_the_heavy_libraries(project):
    """36 bundles and 24 draws start a process each: torch costs them seconds, MLflow and pandas too."""
    code = (
        "import sys; import fdl.cli.main, fdl.core.settings, fdl.data.splits; "
        "import fdl.reporting.targets, fdl.tracking.mirror; fdl.reporting.targets.entries(); "
        "print([name for name in ('torch', 'pandas', 'mlflow', 'matplotlib', 'pyarrow') if name in sys.modules])"
    )
    assert python("-c", code, cwd=project).stdout == "[]\n"


def test_training_keeps_out_what_is_slow_to_import(project):
    code = (
        "import sys, fdl.training.bundle; from fdl.training.engine import train; from tests.training import cells; "
        "train(cells.settings(epochs=1), cells.data(), device='cpu', progress=lambda line: None); "
        "slow = ('torch._dynamo', 'torchvision', 'pandas', 'mlflow', 'sklearn'); "
        "print([name for name in slow if name in sys.modules])"
    )
    assert python("-c", code, cwd=project).stdout == "[]\n"
