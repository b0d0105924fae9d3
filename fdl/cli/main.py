"""The verbs: `python -m fdl <verb>`. Thin; whatever is slow to import is imported inside its verb."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fdl import __version__
from fdl.cli import costs, data, results
from fdl.cli.options import (
    Datasets,
    Load,
    UriOption,
    chosen,
    flag,
    takes_settings,
    with_options,
)
from fdl.cli.terminal import degrade
from fdl.core import files, layout
from fdl.core.console import live_lines, plain
from fdl.core.errors import InputError, MethodError, fact_about_the_machine, first_lines
from fdl.core.protocol import images_name
from fdl.core.provenance import available_cores
from fdl.core.settings import Bundle, Params


class CamScore(StrEnum):
    """The choices of `fdl cam --score`."""

    probability = "probability"
    logit = "logit"


Bundles = Annotated[list[str] | None, typer.Argument(help="Such as neu/alexnet/3shot; none: all.")]

_NAMED = 10  # cells that `collect --partial` names

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"fdl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A fair test of the feature distance loss (arXiv 2205.11606)."""


app.add_typer(data.app, name="data")
app.add_typer(results.app)  # without a name: its verbs are the app's
app.add_typer(costs.app)


@app.command()
@takes_settings
def split(
    load: Load,
    datasets: Datasets = None,
    shots: Annotated[list[int] | None, typer.Option(help="Images per class; none: all of the settings'.")] = None,
    draw: Annotated[list[int] | None, typer.Option(help="Draws; none: all of the settings'.")] = None,
) -> None:
    """Draw the k-shot training images into data/splits/."""
    from fdl.data.splits import write_split

    resolved = load()
    drawn = chosen(resolved, datasets)
    wanted = {
        (
            images_name(cell.dataset, resolved.pool_of(cell.dataset, cell.backbone)),
            cell.shots,
            resolved.draw_of(cell.seed),
        )
        for cell in resolved.cells()
    }
    for name, k, d in sorted(wanted):
        if name in drawn and k in (shots or [k]) and d in (draw or [d]):
            dataset, pool = resolved.images()[name]
            print(write_split(resolved, dataset, k, d, pool))


@app.command()
@takes_settings
def run(load: Load, bundles: Bundles = None) -> None:
    """Train and score the cells of a bundle that have no current record."""
    resolved = load()
    asked = _bundles(resolved, bundles)
    resolved.write(layout.RESULTS)  # for those who ask later with which settings
    # Only now: torch takes two seconds.
    from fdl.training.bundle import run_bundle

    for bundle in asked:
        with _interruptible(), live_lines() as (say, progress):
            receipt = run_bundle(resolved, bundle, say=say, progress=progress)
        failed = sum(cell["status"] == "failed" for cell in receipt["cells"].values())
        print(f"{bundle.key}: {len(receipt['cells'])} cells, {failed} failed")


@app.command()
@takes_settings
def train(load: Load, bundles: Bundles = None) -> None:
    """Only train the cells of a bundle that have no current record; `run` goes on from there."""
    resolved = load()
    asked = _bundles(resolved, bundles)
    from fdl.training.bundle import train_bundle

    for bundle in asked:
        with _interruptible(), live_lines() as (say, progress):
            counts = train_bundle(resolved, bundle, say=say, progress=progress)
        print(f"{bundle.key}: {_counted(counts)}")


@app.command()
@takes_settings
def cam(
    load: Load,
    bundles: Bundles = None,
    overlap: Annotated[bool, flag("--overlap", "Also their overlap over all test images; it takes longer.")] = False,
    score: Annotated[CamScore, typer.Option(help="Whose gradient the maps are made of.")] = CamScore.probability,
) -> None:
    """Make the class activation maps of finished cells again, from weights kept by `keep_weights`."""
    resolved = load()
    asked = _bundles(resolved, bundles)
    from fdl.training.bundle import map_bundle

    for bundle in asked:
        counts = map_bundle(resolved, bundle, overlap=overlap, score=score.value, say=plain)
        print(f"{bundle.key}: {_counted(counts)}")


def _bundles(resolved: Params, keys: list[str] | None) -> list[Bundle]:
    """The bundles that were named, or all."""
    known = {bundle.key: bundle for bundle in resolved.bundles()}
    for key in keys or []:
        if key not in known:
            raise InputError(
                f"bundle {key!r} is not in the grid of preset {resolved.preset!r}; e.g. {next(iter(known))}"
            )
    return [known[key] for key in keys or known]


@contextmanager
def _interruptible() -> Iterator[None]:
    """Say in one line that a training was stopped, its state saved; exit with the status shells give the signal."""
    from fdl.training.checkpoint import Interrupted

    try:
        yield
    except Interrupted as error:
        print(f"fdl: {error}", file=sys.stderr)
        raise typer.Exit(128 + error.number) from None


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


@app.command()
@takes_settings
def combine(load: Load) -> None:
    """Score the finished cells again from their stored predictions; trains nothing."""
    from fdl.results.scoring import rescore

    counts = rescore(load())
    print(_counted(counts))


@app.command()
@takes_settings
def collect(
    load: Load,
    partial: Annotated[bool, flag("--partial", "Leave missing and stale cells out instead of refusing.")] = False,
) -> None:
    """Gather the records into reports/<preset>/runs.csv and costs.csv."""
    from fdl.results.collect import collect as gather

    resolved = load()
    left_out = [
        f"{state.cell.key}: {state.status}{f': {state.reason}' if state.reason else ''}"
        for state in gather(resolved, partial=partial).left_out
    ]
    for line in first_lines(left_out, _NAMED):
        print(f"left out: {line}")
    print(layout.report_folder(resolved) / "runs.csv")


@app.command()
@takes_settings
def report(
    load: Load,
    show: Annotated[
        bool,
        flag("--show", "Only print the headline table and the answer; with --only, that table."),
    ] = False,
    only: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only make this table or figure, such as accuracy.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Draw in at most so many, and one per 300 cells; none: one per core."),
    ] = None,
) -> None:
    """Make the tables, the figures and the page from runs.csv and the records."""
    from fdl.reporting import report as reporting

    resolved = load()
    if processes and (only or show):
        raise InputError("--processes: only a whole report is drawn in several; leave it out")
    if show:
        print(reporting.shown_table(resolved, only) if only else reporting.headline(resolved))
        return
    reporting.collect_garbage_seldom()
    if only:
        written = reporting.write_one(resolved, only)
    else:
        written = reporting.write_report(resolved, processes=processes or available_cores())
    for path in written:
        print(path)


@app.command()
@takes_settings
def track(
    load: Load,
    uri: UriOption = None,
    receipt: Annotated[Path | None, typer.Option(help="Write the mirrored cells' digests to this file.")] = None,
    watch: Annotated[bool, flag("--watch", "Repeat until all cells are finished, and show running ones, too.")] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between the passes of --watch.")] = 30,
) -> None:
    """Mirror the records into MLflow; safe to repeat."""
    from fdl.tracking import live, mirror

    resolved = load()
    if watch:
        live.watch(
            lambda: mirror.track(resolved, uri=uri, live=True),
            seconds=every,
            say=plain,
        )
    else:
        print(f"mlflow: {_counted(mirror.track(resolved, uri=uri))}")
    if receipt:
        files.write_atomically(receipt, files.to_json(mirror.mirrored(resolved)))


def main() -> NoReturn:
    """Run the command line: 0 done, 1 failed, 2 wrong input (one line on stderr)."""
    degrade()
    try:
        app()
    except InputError as error:
        print(f"fdl: {with_options(str(error), sys.argv[1:])}", file=sys.stderr)
        sys.exit(2)
    except MethodError as error:
        print(f"fdl: {error}", file=sys.stderr)
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        said = fact_about_the_machine(error)
        if said is None:  # a fault of the program
            raise
        print(f"fdl: {said}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
