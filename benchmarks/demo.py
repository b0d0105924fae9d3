"""Where the demo's time goes: processor seconds by stage, `python -m benchmarks.demo`.

Every stage is the command that the workflow runs, one process after another, in a folder of its own; what Snakemake
itself takes comes on top. `--code` names another checkout, to compare two: their turns alternate.
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
    """User and system time of a verb."""
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # -P: not the code of the folder that this was started in.
    command = [sys.executable, "-P", "-m", "fdl", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def stages(datasets: list[str]) -> dict[str, list[tuple[str, ...]]]:
    """The commands of every stage, of the demo's bundles of some datasets."""
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
    """Of a checkout, with a mark if files were changed since."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=code, check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def report(content: dict[str, Any]) -> str:
    """As Markdown."""
    of, codes = content["machine"], list(content["seconds"])
    lines = [
        f"# Demo, {of['date']}",
        "",
        f"{of['cpu']}; torch {of['torch']}; load {of['load']} at the start. {content['what']}. Processor seconds.",
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
    """Run the demo, print, and write `results/demo.*`."""
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
