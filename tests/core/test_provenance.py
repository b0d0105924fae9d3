"""The provenance block of a record."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fdl.core import provenance

SHOW = "from fdl.core import provenance; print(provenance.provenance('cpu')['git'])"


def test_a_record_says_what_made_it():
    block = provenance.provenance("cpu")
    assert block["versions"]["torch"]
    assert block["device"] == "cpu"
    assert set(block["git"] or {"commit": "", "dirty": False}) == {"commit", "dirty"}


def git(*arguments):
    identity = ["-c", "user.name=ann", "-c", "user.email=ann@lab.example"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(project):
    """A checkout of the few modules that tell the commit; its commit."""
    Path("fdl/core").mkdir(parents=True)
    Path("fdl/__init__.py").touch()
    Path("fdl/core/__init__.py").touch()
    shutil.copy(Path(provenance.__file__), "fdl/core/provenance.py")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "all")
    return git("rev-parse", "HEAD")


def shown(**variables):
    """What a process of its own prints, and its errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": "."}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"} | variables
    done = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.strip()


def test_the_commit_and_whether_it_was_edited(checkout):
    assert shown() == (str({"commit": checkout, "dirty": False}), "")
    with Path("fdl/core/provenance.py").open("a") as file:
        file.write("# edited\n")
    assert shown() == (str({"commit": checkout, "dirty": True}), "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_checkout_that_was_given_to_another_user(checkout):
    for path in [Path.cwd(), *Path.cwd().rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    refused = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert shown() == (str({"commit": checkout, "dirty": False}), "")


def test_the_checkout_of_a_hook_is_not_taken_for_this_one(checkout, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    git("init", "--quiet", str(other))
    assert shown(GIT_DIR=str(other / ".git")) == (str({"commit": checkout, "dirty": False}), "")


def test_a_package_below_somebodys_checkout_is_no_part_of_it(checkout):
    git("rm", "--quiet", "--cached", "-r", "fdl")
    git("commit", "--quiet", "--message", "none")
    assert shown() == ("None", "")


def test_a_commit_that_cannot_be_told_is_said(checkout):
    printed, errors = shown(PATH=str(Path.cwd()))
    assert printed == "None"
    assert "git does not tell the commit" in errors
    assert "records will not name it" in errors
    assert len(errors.splitlines()) == 1
