"""The verbs: `python -m fdl <verb>`. Thin; whatever is slow to import is imported inside its verb."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml

from fdl import layout, params, records
from fdl.errors import InputError
from fdl.params import Bundle, Params

app = typer.Typer(
    help=__doc__ and "A fair test of the feature distance loss (arXiv 2205.11606).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Images: prepare them.", no_args_is_help=True)
app.add_typer(data_app, name="data")

ParamsOption = Annotated[Path, typer.Option("--params", help="The settings: params.yaml, or a resolved file.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help="Use this preset instead of the file's.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be repeated.")
]
Datasets = Annotated[list[str] | None, typer.Argument(help="Datasets; none: all of the settings'.")]
DEFAULT = Path("params.yaml")


def _load(path: Path, preset: str | None, assignments: list[str] | None) -> Params:
    overrides: dict[str, Any] = {}
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: write it as KEY=VALUE, for example --set epochs=100")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {assignment}: the value is not valid YAML") from None
    return params.load(path, preset=preset, overrides=overrides)


def _chosen(resolved: Params, datasets: list[str] | None) -> list[str]:
    used = list(dict.fromkeys(cell.dataset for cell in resolved.cells()))
    for dataset in datasets or []:
        if dataset not in used:
            raise InputError(f"dataset {dataset!r} is not in the settings; they use {', '.join(used)}")
    return datasets or used


@data_app.command("prepare")
def data_prepare(
    datasets: Datasets = None, file: ParamsOption = DEFAULT, preset: PresetOption = None, set_: SetOption = None
) -> None:
    """Read the source's files into pixel and label arrays below data/prepared/."""
    from fdl.data.prepare import prepare

    resolved = _load(file, preset, set_)
    for dataset in _chosen(resolved, datasets):
        print(f"{dataset}: {prepare(resolved, dataset)}")


@app.command()
def split(
    datasets: Datasets = None,
    file: ParamsOption = DEFAULT,
    preset: PresetOption = None,
    set_: SetOption = None,
    shots: Annotated[list[int] | None, typer.Option(help="Images per class; none: all of the settings'.")] = None,
    draw: Annotated[list[int] | None, typer.Option(help="Draws; none: all of the settings'.")] = None,
) -> None:
    """Draw the k-shot training images into data/splits/."""
    from fdl.data.splits import write_split

    resolved = _load(file, preset, set_)
    chosen = _chosen(resolved, datasets)
    wanted = {(cell.dataset, cell.shots, resolved.draw_of(cell.seed)) for cell in resolved.cells()}
    for dataset, k, d in sorted(wanted):
        if dataset in chosen and k in (shots or [k]) and d in (draw or [d]):
            print(write_split(resolved, dataset, k, d))


@app.command()
def run(
    bundles: Annotated[list[str] | None, typer.Argument(help="Such as neu/alexnet/3shot; none: all.")] = None,
    file: ParamsOption = DEFAULT,
    preset: PresetOption = None,
    set_: SetOption = None,
) -> None:
    """Train and score the cells of a bundle that have no current record."""
    resolved = _load(file, preset, set_)
    known = {bundle.key: bundle for bundle in resolved.bundles()}
    chosen: list[Bundle] = []
    for key in bundles or known:
        if key not in known:
            raise InputError(
                f"bundle {key!r} is not in the grid of preset {resolved.preset!r}; e.g. {next(iter(known))}"
            )
        chosen.append(known[key])
    # Only now: torch takes two seconds.
    from fdl.training.bundle import run_bundle

    for bundle in chosen:
        receipt = run_bundle(resolved, bundle, say=lambda line: print(line, flush=True))
        failed = sum(cell["status"] == "failed" for cell in receipt["cells"].values())
        print(f"{bundle.key}: {len(receipt['cells'])} cells, {failed} failed")


@app.command()
def collect(
    file: ParamsOption = DEFAULT,
    preset: PresetOption = None,
    set_: SetOption = None,
    partial: Annotated[bool, typer.Option(help="Leave missing and stale cells out instead of refusing.")] = False,
) -> None:
    """Gather the records into reports/<preset>/runs.csv and costs.csv."""
    from fdl.reporting.collect import collect as gather

    resolved = _load(file, preset, set_)
    gather(resolved, partial=partial)
    print(layout.report_folder(resolved) / "runs.csv")


@app.command()
def report(
    file: ParamsOption = DEFAULT,
    preset: PresetOption = None,
    set_: SetOption = None,
    show: Annotated[bool, typer.Option("--show", help="Only print the headline table of the last report.")] = False,
) -> None:
    """Make the tables and figures from runs.csv."""
    from fdl.reporting import report as reporting

    resolved = _load(file, preset, set_)
    if not show:
        for path in reporting.write_report(resolved):
            print(path)
    else:
        print(reporting.headline(resolved))


@app.command()
def track(
    file: ParamsOption = DEFAULT,
    preset: PresetOption = None,
    set_: SetOption = None,
    uri: Annotated[str | None, typer.Option(help="MLflow store; none: $MLFLOW_TRACKING_URI, or mlflow.db.")] = None,
    receipt: Annotated[Path | None, typer.Option(help="Write the mirrored cells' digests to this file.")] = None,
) -> None:
    """Mirror the records into MLflow; safe to repeat."""
    from fdl.tracking import track as mirror

    resolved = _load(file, preset, set_)
    counts = mirror(resolved, uri=uri)
    print("mlflow: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    if receipt:
        runs = {cell.key: records.read_run(layout.record_folder(resolved, cell)) for cell in resolved.cells()}
        digests = {key: run["digests"]["training"] for key, run in runs.items() if run}
        records.write_atomically(receipt, records.to_json(digests))


def main() -> NoReturn:
    """Run the command line: 0 done, 1 failed, 2 wrong input (one line on stderr)."""
    try:
        app()
    except InputError as error:
        print(f"fdl: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a read-only folder: a fact about the machine, not a bug
        print(f"fdl: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
