"""Which code and machine made a number.

Nothing here imports torch: Snakemake reads the versions every time it parses the workflow.
"""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Raised by hand whenever a change alters the numbers of a training; the golden-trajectory test
# (tests/training/test_golden.py) fails when they change without it.
TRAINING_VERSION = 1
# The same for the cells that a CPU trains as one fused program per seed: they alone carry it.
PROGRAM_VERSION = 1
# Raised whenever a metric or vote is added or changed: records are then scored again from their predictions.
# Records without predictions stay as they are, and lack what is new.
SCORES_VERSION = 3
# Raised as well when a metric is corrected or means something else: scores of an older version are then wrong,
# and records without predictions cannot be used any more.
SCORES_VALID_SINCE = 3


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
    """Commit of the code, and whether it was edited since; None outside a git checkout.

    Git refuses to read a checkout of another user, as a container or a CI job has it, since its settings could run a
    program of that user's. This very file is that user's too, and runs: so git is told to trust it.
    """
    file = Path(__file__)
    package = file.parents[1]
    checkout = next((folder for folder in file.parents if (folder / ".git").exists()), None)
    if checkout is None:
        return None
    # Variables such as GIT_DIR, which a hook sets, name another checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(package), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git(
            "ls-files", "--", str(file.relative_to(package))
        ):  # installed below somebody's checkout, and no part of it
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        print(f"{checkout}: git does not tell the commit ({reason}): records will not name it", file=sys.stderr)
        return None
