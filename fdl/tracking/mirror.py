"""Mirrors the records of finished trainings in MLflow. It only writes to MLflow, and passes can be repeated safely.

An experiment shows a preset, a parent run a bundle (all cells with the same dataset, backbone and shots), and its child
runs the cells (trained ensembles). Each run is tagged with the digest of the record that it shows. A pass skips runs
whose digest is current, replaces runs that are outdated or were not completed, because a pass was killed, and leaves
all others alone. Training never waits for MLflow, and a deleted store can be rebuilt from the records.
`fdl.tracking.live` shows the cells that are being trained.

With SQLite, a first pass over 1,296 records of 120 epochs takes about four and a half minutes on a slow core, 0.21 s
per record, and a second pass takes ten seconds (`python -m benchmarks.mlflow_sync`, docs/performance.md).
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fdl.core import layout
from fdl.core.settings import Bundle, Params, digest
from fdl.results.state import Judge
from fdl.results.unfinished import unfinished_cells
from fdl.tracking import live as live_runs
from fdl.tracking import record_view
from fdl.tracking.artifacts import write_files
from fdl.tracking.record_view import BUNDLE_TAG, CELL_TAG, DIGEST_TAG, PARENT_TAG
from fdl.tracking.store import Store, create_run, log, opened

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CATCH_UP = "the records are safe: mirror them later with `python -m fdl track`"


def track(params: Params, *, uri: str | None = None, live: bool = False) -> dict[str, int]:
    """Mirror the records of `params.cells()` in MLflow's experiment `fdl-<preset>`.

    Args:
        params: the settings.
        uri: MLflow's tracking URI; None: $MLFLOW_TRACKING_URI or, if that is not set, `sqlite:///mlflow.db`.
        live: also show the cells that are being trained now, as runs with the status RUNNING.

    Returns:
        Numbers of cells. "new", "replaced" and "same" count the runs made from records. "missing" cells have no record;
        "stale" cells have a record that does not belong to the current settings and is not shown. With `live`,
        "running" counts the cells in training.

    Raises:
        InputError: the store cannot be reached, opened or written, or a record is damaged.
    """
    with opened(uri, on_failure=CATCH_UP) as store:
        return _mirror(store, params, live=live)


def mirrored(params: Params) -> dict[str, str]:
    """Training digests of the cells whose records a pass would show, by key of the cell."""
    states = Judge(params, contents=False, running=False).states()
    return {state.cell.key: state.run["digests"]["training"] for state in states if state.finished and state.run}


def _mirror(store: Store, params: Params, *, live: bool) -> dict[str, int]:
    client, experiment = store.client, store.experiment(f"fdl-{params.preset}")
    counts = {"new": 0, "replaced": 0, "same": 0, "missing": 0, "stale": 0}
    number = experiment.experiment_id
    for tag, value in record_view.experiment_tags(params, experiment.creation_time or 0).items():
        if experiment.tags.get(tag) != value:
            client.set_experiment_tag(number, tag, value)
    known = _known_runs(client, number)
    begun = unfinished_cells(params) if live else {}
    states = {state.cell: state for state in Judge(params, running=False).states()}
    for bundle, cells in params.bundles().items():
        finished = [record for cell in cells if (record := record_view.record_of(params, states[cell]))]
        recorded = {record.cell for record in finished}
        unfinished = {cell: begun[cell] for cell in cells if cell in begun and cell not in recorded}
        for status in ("missing", "stale"):
            counts[status] += sum(states[cell].status == status for cell in cells)
        # An unfinished training that was stopped matters only if MLflow has a run of it, which may still be running.
        if not finished and not any(progress.running or known.get(cell.key) for cell, progress in unfinished.items()):
            continue
        parent, fresh = _parent(client, number, bundle, len(cells), finished, known)
        for record in finished:
            runs = known.get(record.cell.key, [])
            if _keep_current(client, runs, record.digest):
                counts["same"] += 1
            else:
                _write_cell(client, number, parent, record, layout.dataset_name(params, bundle.dataset))
                counts["replaced" if runs else "new"] += 1
        for cell, progress in unfinished.items():
            live_runs.mirror(client, number, parent, params, progress, known.get(cell.key, []))
        if fresh:  # ended last, so that the next pass replaces the run if this pass is killed before
            client.set_terminated(parent, end_time=max((record.end for record in finished), default=None))
    return counts | ({"running": sum(progress.running for progress in begun.values())} if live else {})


def _known_runs(client: "MlflowClient", experiment: str) -> dict[str, list["Run"]]:
    """The experiment's runs that are not deleted, by the key of their cell or bundle."""
    runs: dict[str, list[Run]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            key = run.data.tags.get(CELL_TAG) or run.data.tags.get(BUNDLE_TAG)
            if key:
                runs.setdefault(key, []).append(run)
        token = page.token
        if not token:
            return runs


def _keep_current(client: "MlflowClient", runs: list["Run"], wanted: str) -> str | None:
    """Keep one finished run with the wanted digest, delete all others, and return its id; None if there is none."""
    current = None
    for run in runs:
        if not current and run.data.tags.get(DIGEST_TAG) == wanted and run.info.status in ("FINISHED", "FAILED"):
            current = run.info.run_id
        else:
            client.delete_run(run.info.run_id)
    return current


def _parent(
    client: "MlflowClient",
    experiment: str,
    bundle: Bundle,
    cells: int,
    finished: list[record_view.Record],
    known: Mapping[str, list["Run"]],
) -> tuple[str, bool]:
    """Find or create the bundle's run.

    Args:
        client: of the MLflow store.
        experiment: id of the experiment.
        bundle: the bundle.
        cells: number of cells of the bundle in the grid.
        finished: records of the cells that have a current one.
        known: runs by key, as `_known_runs` returns them.

    Returns:
        The id of the run, and whether it was created now, so that the caller must end it.
    """
    parent_digest = digest([cells, *(record.digest for record in finished)])
    current = _keep_current(client, known.get(bundle.key, []), parent_digest)
    if current:
        return current, False
    failed = sum(record.run["status"] == "failed" for record in finished)
    identity = asdict(bundle)
    status = f"{len(finished) - failed} done, {failed} failed, {cells - len(finished)} missing"
    tags = {BUNDLE_TAG: bundle.key, DIGEST_TAG: parent_digest, **identity, "status": status}
    if finished:
        tags |= record_view.data_tags(finished[0])
    start = min((record.start for record in finished), default=None)
    parent = create_run(client, experiment, bundle.key, tags, start)
    log(client, parent, max((record.end for record in finished), default=0), identity, record_view.means(finished), {})
    for key, runs in known.items():  # including the runs of cells that are no longer in the grid
        if key.startswith(f"{bundle.key}/"):
            for run in runs:
                client.set_tag(run.info.run_id, PARENT_TAG, parent)
    return parent, True


def _write_cell(client: "MlflowClient", experiment: str, parent: str, record: record_view.Record, dataset: str) -> None:
    status = "FAILED" if record.run["status"] == "failed" else "FINISHED"
    values, curves = record_view.final(record) | record_view.costs(record), record_view.curves(record)
    run_id = create_run(client, experiment, record.cell.key, record_view.cell_tags(record, parent), record.start)
    # The metrics come last, because every other call reads everything that the run holds so far.
    with tempfile.TemporaryDirectory() as folder:
        write_files(record, Path(folder))
        client.log_artifacts(run_id, folder)
    client.log_inputs(run_id, [record_view.dataset_input(record, dataset)])
    log(client, run_id, record.end, record_view.settings(record), values, curves)
    client.set_terminated(run_id, status, end_time=record.end)
