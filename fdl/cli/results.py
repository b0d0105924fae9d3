"""The verbs that work on existing records: `python -m fdl {status,clean,import,export,predict,register}`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdl.cli.options import (
    Load,
    UriOption,
    flag,
    takes_settings,
    with_options,
)
from fdl.cli.terminal import print_table
from fdl.core import files
from fdl.core.errors import first_few

if TYPE_CHECKING:
    from fdl.results.state import CellStatus

app = typer.Typer()

DryRun = Annotated[bool, flag("--dry-run", "Only say what would be done.")]
RecordArgument = Annotated[
    Path, typer.Argument(metavar="RECORD", help="A record with kept weights: results/<preset>/…/<method>/seed<s>.")
]
SelectionOption = Annotated[
    str | None, typer.Option(help="Whose weights: sum, sum3, own, last, sum-small; none: the headline's.")
]

_NOTES = 10  # lines of explanation of a status


@app.command()
@takes_settings
def status(
    load: Load,
    as_json: Annotated[bool, flag("--json", "Print every cell as JSON.")] = False,
) -> None:
    """Show what became of every cell: done, failed, running, missing, stale, damaged.

    Ends with 0 if every cell has its record (a training that diverged has one), else with 1.
    """
    from fdl.results import status as states

    resolved = load()
    cell_states = states.status(resolved)
    if as_json:
        print(files.to_json(states.as_json(resolved, cell_states)).decode(), end="")
    else:
        _print_states(cell_states)
    if not all(state.finished for state in cell_states):
        raise typer.Exit(1)


def _print_states(cell_states: "list[CellStatus]") -> None:
    """Counts by bundle, and what there is to say of single cells."""
    from fdl.results.state import STATUSES
    from fdl.results.status import by_bundle, counts

    rows = [
        (bundle.key, *(str(count or "·") for count in counts(bundle_states).values()))
        for bundle, bundle_states in by_bundle(cell_states).items()
    ]
    rows.append(("all", *map(str, counts(cell_states).values())))
    print_table(("bundle", *STATUSES), rows, numbers=True)
    for name in STATUSES:
        notes: dict[str, list[str]] = {}
        for state in cell_states:
            if state.status == name and state.note:
                notes.setdefault(state.note, []).append(state.cell.key)
        for note, keys in list(notes.items())[:_NOTES]:
            print(with_options(f"{name}: {first_few(keys, 1)}: {note}", sys.argv[1:]))
        if len(notes) > _NOTES:
            print(f"{name}: and others; --json names all")


@app.command()
@takes_settings
def clean(
    load: Load,
    stale: Annotated[
        bool, flag("--stale", "Also records that are not in the grid, or not of today's settings.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Remove what a preset left behind: half-written records, and checkpoints and settings no longer in use.

    Never touches data/, nor what carries the name of another preset.
    """
    from fdl.results.clean import as_text, find, remove

    resolved = load()
    leftovers = find(resolved, stale=stale)
    if not dry_run:
        remove(resolved, leftovers)
    for line in as_text(leftovers):
        print(line)
    megabytes = sum(leftover.size for leftover in leftovers) / 2**20
    print(f"{len(leftovers)} files and folders, {megabytes:.1f} MB{' would be' if dry_run else ''} removed")


@app.command("import")
@takes_settings
def import_(
    load: Load,
    source: Annotated[Path, typer.Argument(metavar="DIR", help="results/<preset> from elsewhere, or a .tar.gz of it.")],
    dry_run: DryRun = False,
) -> None:
    """Bring in records that were trained elsewhere, if they are what would be trained here.

    Ends with 1 if a record was damaged, or none could be used.
    """
    from fdl.results.transfer import import_records

    resolved = load()
    done = import_records(resolved, source, dry_run=dry_run, say=_complain)
    print(f"{'would import: ' if dry_run else ''}{done.as_text()}")
    if done.unchecked:
        print(f"{done.unchecked} of them: draw and images not checked, they are not prepared here")
    if done.receipts:
        print(f"complete: {', '.join(done.receipts)}")
    if done.damaged or not (done.new or done.replaced or done.same):
        raise typer.Exit(1)


@app.command()
@takes_settings
def export(
    load: Load,
    output: Annotated[
        Path | None,
        typer.Option(help="The archive, .tar.gz, or a folder for one per net; none: reports/<preset>/records.tar.gz."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an archive that git tracks.")] = False,
) -> None:
    """Pack the records without predictions, weights and images: what `import` needs to make the report again."""
    from fdl.core import layout
    from fdl.results.transfer import export_records

    resolved = load()
    target = output or layout.report_folder(resolved) / "records.tar.gz"
    done = export_records(resolved, target, force=force)
    missing = f", {done.missing} have no current record" if done.missing else ""
    print(f"{target}: {done.packed} records, {done.size / 2**20:.1f} MB{missing}")


@app.command()
def predict(
    record: RecordArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images, also in folders of it; or one image.")],
    output: Annotated[Path | None, typer.Option(help="Write the CSV to this file; none: to the screen.")] = None,
    selection: SelectionOption = None,
    cam: Annotated[
        Path | None, typer.Option(help="Write a picture of each image with the members' maps to this folder.")
    ] = None,
) -> None:
    """Predict the classes of images with a trained ensemble: file, class, probability, the members' votes.

    Ends with 1 if an image could not be read; the others are predicted.
    """
    from fdl.training.inference import as_csv, load_ensemble, predict_files

    ensemble = load_ensemble(record, selection)
    predictions, unreadable = predict_files(ensemble, folder, overlays=cam, say=_complain)
    table = as_csv(predictions, len(ensemble.nets))
    if output:
        files.write_atomically(output, table)
    else:
        print(table.decode(), end="")
    if unreadable:
        raise typer.Exit(1)


@app.command()
def register(
    record: RecordArgument,
    name: Annotated[str, typer.Option(help="Of the model in the registry.")],
    selection: SelectionOption = None,
    uri: UriOption = None,
) -> None:
    """Put a trained ensemble into MLflow's model registry; the same weights only once."""
    from fdl.tracking.registry import register as put

    done = put(record, name, selection=selection, uri=uri)
    print(f"models:/{done.name}/{done.version}{'' if done.new else ' (registered before)'}")


def _complain(line: str) -> None:
    print(f"fdl: {line}", file=sys.stderr)
