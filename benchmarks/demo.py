"""CPU seconds of the demo by stage: `python -m benchmarks.demo`.

Every stage consists of the commands that the workflow runs, executed one after another in a temporary folder. The time
of Snakemake itself is not included. `--code`, given several times, compares checkouts, whose commands alternate.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.timing import machine, write
from fdl.core.settings import load

ROOT = Path(__file__).parents[1]


def seconds_of(code: Path, folder: Path, *arguments: str) -> float:
    """CPU seconds (user and system) of a command of `fdl` from the checkout `code`."""
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # -P keeps the current folder off the module path, so that `code` is used.
    command = [sys.executable, "-P", "-m", "fdl", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def stages(datasets: list[str]) -> dict[str, list[tuple[str, ...]]]:
    """The commands of every stage of the demo, restricted to some datasets."""
    whole = ("--set", f"datasets=[{','.join(datasets)}]")
    bundles = load(ROOT / "params.yaml", "demo", {"datasets": datasets}).bundles()
    backbones = dict.fromkeys(bundle.backbone for bundle in bundles)
    return {
        "data": [("data", "prepare", dataset, *whole) for dataset in datasets],
        "split": [("split", *whole)],
        **{
            f"run {backbone}": [("run", bundle.key, *whole) for bundle in bundles if bundle.backbone == backbone]
            for backbone in backbones
        },
        "collect": [("collect", *whole)],
        "report": [("report", "--processes", "1", *whole)],
        "track": [("track", *whole)],
    }


def commit(code: Path) -> str:
    """The commit of a checkout, marked as dirty if files were changed since."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=code, check=True, capture_output=True, text=True
    )
    return described.stdout.strip()


def report(content: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    host, codes = content["machine"], list(content["seconds"])
    lines = [
        f"# Demo, {host['date']}",
        "",
        f"{host['cpu']}; torch {host['torch']}; load {host['load']} at the start. {content['what']}. "
        "Processor seconds.",
        "",
        f"| stage | {' | '.join(codes)} |",
        f"|---|{'---:|' * len(codes)}",
    ]
    names = list(content["seconds"][codes[0]])
    rows = {name: [content["seconds"][code].get(name, 0.0) for code in codes] for name in names}
    rows["all"] = [sum(content["seconds"][code].values()) for code in codes]
    lines += [f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |" for name, values in rows.items()]
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the demo, print the times, and write `results/demo.*`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, action="append", help="a checkout; none: this one")
    parser.add_argument("--datasets", nargs="+", default=["cifar10", "cifar100", "miniimagenet", "neu", "bsd", "tex"])
    options = parser.parse_args()
    codes = [path.resolve() for path in options.code or [ROOT]]
    names = {code: commit(code) for code in codes}
    seconds: dict[str, dict[str, float]] = {name: {} for name in names.values()}
    content = {"machine": machine(), "seconds": seconds}
    content["what"] = f"The demo's settings, {', '.join(options.datasets)}"
    with tempfile.TemporaryDirectory() as temporary:
        folders = {code: Path(temporary, str(number)) for number, code in enumerate(codes)}
        for folder in folders.values():
            folder.mkdir()
            (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        for name, commands in stages(options.datasets).items():
            for arguments in commands:
                for code, folder in folders.items():
                    spent = seconds_of(code, folder, *arguments)
                    seconds[names[code]][name] = seconds[names[code]].get(name, 0.0) + spent
    write("demo", content, report(content))


if __name__ == "__main__":
    main()
