"""Which code and machine made a number.

Nothing here imports torch: Snakemake reads the versions every time it parses the workflow.
"""

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
# The same for the cells that a CPU trains as one fused program per seed (fdl/fused_methods.py): they alone carry it.
PROGRAM_VERSION = 1
# Raised whenever metrics, votes or their names change: records are then scored again from their predictions.
SCORES_VERSION = 3


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


def available_cores() -> int:
    """How many this process may use: a Slurm job, for example, may have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
