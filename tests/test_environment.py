"""The three lists of dependencies say the same."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_users_get_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    assert packages["pip"] == PROJECT["dependencies"]


def test_every_dependency_is_pinned_to_a_version_that_pyproject_allows():
    pinned = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        pinned.setdefault(requirement.name.lower(), []).append(pin.version)
    for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        versions = pinned[wanted.name.lower()]
        assert all(version in wanted.specifier for version in versions), f"{wanted} is pinned to {versions}"


def test_no_file_names_a_registry():
    assert not re.search(r"https?://|--index|--find-links", (ROOT / "requirements.txt").read_text())
