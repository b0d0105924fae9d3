"""Which code and machine made a number: versions and digests.

Nothing here imports torch: Snakemake reads these digests every time it parses the workflow.
"""

import ast
import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Raised by hand whenever a change alters the numbers of a training; the golden-trajectory test
# (tests/training/test_golden.py) fails when they change without it.
TRAINING_VERSION = 1

_METHODS = Path(__file__).with_name("methods.py")


@cache
def _method_functions() -> dict[str, ast.FunctionDef]:
    """The functions that the registry `METHODS` of methods.py names, by method."""
    tree = ast.parse(_METHODS.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == "METHODS"
            and isinstance(node.value, ast.Dict)
        ):
            names = [ast.literal_eval(key) for key in node.value.keys if key]
            return dict(zip(names, (functions[ast.unparse(value)] for value in node.value.values), strict=True))
    raise RuntimeError("methods.py has no dictionary METHODS")


def method_names() -> list[str]:
    """Names of the registered methods."""
    return list(_method_functions())


def method_digest(name: str) -> str:
    """Digest of a method's own function without docstring and comments: editing prose retrains nothing."""
    function = _method_functions()[name]
    body = function.body[1:] if ast.get_docstring(function) else function.body
    text = ast.dump(function.args) + "".join(ast.dump(statement) for statement in body)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance(device: str) -> dict[str, Any]:
    """Commit, versions and machine, for the `provenance` block of a record."""
    packages = ("numpy", "torch", "torchvision")
    return {
        "git": _git(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "device": device,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _git() -> dict[str, Any] | None:
    """Commit of the code, and whether it was edited since; None outside a git checkout."""
    root = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "-C", root, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
