"""The verbs about cost: `python -m fdl {plan,bench}`."""

import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fdl.cli.options import Load, flag, takes_settings
from fdl.cli.terminal import print_table
from fdl.core import files

if TYPE_CHECKING:
    from fdl.training.plan import Line, Plan
    from fdl.training.seed_plan import SeedsNeeded

app = typer.Typer()


@app.command()
@takes_settings
def plan(
    load: Load,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Bundles at once; none: one per core, or per GPU.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Seconds of the calibration.")] = 20.0,
    as_json: Annotated[bool, flag("--json", "Print the plan as JSON.")] = False,
) -> None:
    """Say before the start what the grid costs on this machine: hours, memory, disk."""
    resolved = load()
    from fdl.training import plan as planning

    made = planning.plan(resolved, processes=processes, seconds=seconds)
    if as_json:
        print(files.to_json(made.as_json()).decode(), end="")
    else:
        _print_plan(made)


def _print_plan(made: "Plan") -> None:
    """A line for each dataset and backbone, then what the whole takes."""
    groups: dict[str, list[Line]] = {}
    for line in made.lines:
        groups.setdefault(line.bundle.rpartition("/")[0], []).append(line)
    columns = ("cells", "finished", "PFLOP", "hours", "RAM GiB", "GPU GiB", "checkpoints GiB", "records GiB")
    rows = [
        (
            name,
            str(sum(line.cells for line in lines)),
            str(sum(line.finished for line in lines) or "·"),
            f"{sum(line.flops for line in lines) / 1e15:.3g}",
            f"{sum(line.hours for line in lines):.2f}",
            f"{max(line.memory for line in lines):.1f}",
            f"{max(line.gpu_memory for line in lines):.1f}",
            f"{max(line.scratch for line in lines):.2f}",
            f"{sum(line.records for line in lines):.2f}",
        )
        for name, lines in groups.items()
    ]
    print_table(("dataset/backbone", *columns), rows, numbers=True)
    cells, finished = (sum(getattr(line, name) for line in made.lines) for name in ("cells", "finished"))
    flops, hours = sum(line.flops for line in made.lines), sum(line.hours for line in made.lines)
    print(f"{made.preset}: {cells - finished:,} of {cells:,} cells to train, {flops / 1e15:.3g} PFLOP")
    print(f"on this machine ({made.device}): {hours:.2f} hours of one process, {made.hours:.2f} with {made.processes}")
    print(f"memory {made.memory:.1f} GiB, checkpoints up to {made.scratch:.2f} GiB, records {made.records:.2f} GiB")
    print("hours assume an otherwise idle machine; data, heads' own layers, scores and the report come on top")
    if made.seeds:
        print(_seeds_text(made.seeds))
    for note in made.notes:
        print(f"note: {note}")


def _seeds_text(needed: "SeedsNeeded") -> str:
    """How many seeds ± 2 points take, and what that rests on."""

    def count(seeds: int | None) -> str:
        return "more than 1,000" if seeds is None else str(seeds)

    several = len(needed.datasets) > 1
    alone = ", ".join(f"{name} alone {count(seeds)}" for name, seeds in needed.datasets.items())
    spreads = ", ".join(f"{name} {each.points:.1f} ({each.source})" for name, each in needed.spreads.items())
    whole = f"{count(needed.all)} for the grid; {alone}" if several else count(needed.all)
    return (
        f"seeds to find 'equivalent within ± 2 points' in 80 % of cases without a difference: {whole}\n"
        f"s.d. of a pair between seeds, in points: {spreads}"
    )


@app.command()
def bench(
    repeats: Annotated[int, typer.Option(min=1, help="Turns of every comparison on a CPU.")] = 7,
    keras: Annotated[
        str | None, typer.Option(metavar="PYTHON", help="Also the authors' Keras model, in this environment.")
    ] = None,
) -> None:
    """Measure how fast this machine trains beside a naive loop; writes benchmarks/results/.

    The benchmark of the GPU where there is one, else that of the CPU (`benchmarks/`, in a checkout).
    """
    from pathlib import Path

    from fdl.core.errors import InputError
    from fdl.training.device import gpu_slots

    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "cpu.py").is_file():
        raise InputError(
            f"{root / 'benchmarks'}: not there; bench needs the project's source folder, not only the package"
        )
    commands = [["benchmarks.gpu"]] if gpu_slots() else [["benchmarks.cpu", "--repeats", str(repeats)]]
    if keras:
        commands.append(
            ["benchmarks.keras_reference", "--python", str(Path(keras).absolute()), "--repeats", str(repeats)]
        )
    for command in commands:
        done = subprocess.run([sys.executable, "-m", *command], cwd=root)
        if done.returncode:
            raise typer.Exit(done.returncode)
