"""The mirror of the records in MLflow: one way, safe to repeat.

An experiment holds a preset, a parent run a bundle, its child runs the bundle's cells. A run carries
the digest of the record it shows: a pass skips what is equal, replaces what changed or was left half
written, and touches nothing else. No training waits for MLflow; everything here can be made again.

`python -m fdl track` on 2 cores with SQLite: a first pass over the demo's 144 cells takes 22 s, 4 s of
them for importing MLflow and 4 s for creating the database; a second pass takes 7 s.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdl import layout, tracked
from fdl.errors import InputError
from fdl.params import Bundle, Params, digest
from fdl.tracked import BUNDLE_TAG, CELL_TAG, DIGEST_TAG, PARENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

DEFAULT_URI = "sqlite:///mlflow.db"
LOCK_SECONDS = 900.0  # many times a first pass over the 1,080 cells of `paper`: two minutes

# Read by MLflow when it is imported: nothing is sent anywhere but to the store, nothing printed.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# Read at each request, unless the user set them: MLflow's own would wait four minutes for a server that is down.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


def track(params: Params, *, uri: str | None = None) -> dict[str, int]:
    """Mirror the records of `params.cells()` into MLflow's experiment `fdl-<preset>`.

    Args:
        params: the settings.
        uri: MLflow's tracking URI; None: $MLFLOW_TRACKING_URI, or `sqlite:///mlflow.db`.

    Returns:
        Numbers of cells: "new", "replaced", "same", and "missing" for those without a record.

    Raises:
        InputError: the store cannot be reached, opened or written, or a record is damaged.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    database = _sqlite_file(uri)
    own_lock = layout.SCRATCH / "locks" / f"mlflow-{digest(uri)[:12]}.lock"
    lock = database.with_name(f"{database.name}.lock") if database else own_lock
    lock.parent.mkdir(parents=True, exist_ok=True)
    os.environ.update(ENVIRONMENT)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from filelock import FileLock, Timeout
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _silence(), FileLock(lock, timeout=LOCK_SECONDS):
            if database:
                _create_database(database)
            _probe_database(uri)
            # Beside the database, wherever the verb is called from; other stores have their own place.
            artifacts = database.resolve().parent / "mlartifacts" if database else None
            return _mirror(MlflowClient(tracking_uri=uri), params, artifacts)
    except Timeout:
        raise InputError(f"{lock}: held by another `fdl track` for {LOCK_SECONDS:.0f} s; try again later") from None
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        raise InputError(
            f"MLflow at {_without_password(uri)}: {_reason(error, uri)}; "
            "the records are safe: mirror them later with `python -m fdl track`"
        ) from None


# The store


def _sqlite_file(uri: str) -> Path | None:
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        name = make_url(uri).database
    except ArgumentError:
        name = None
    if not name or name == ":memory:":
        raise InputError(f"MLflow at {uri}: names no database file; write it as {DEFAULT_URI}")
    return Path(name)


def _create_database(database: Path) -> None:
    """Make MLflow's tables in a new SQLite file and put it in place by rename.

    A migration that is killed half-way leaves a file that MLflow can neither use nor repair.
    """
    from mlflow import MlflowClient

    if database.exists() and database.stat().st_size:
        return
    folder = database.with_name(f"{database.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # A name of its own: MLflow keeps one connection per name and process.
    new = Path(tempfile.mkdtemp(dir=folder)) / database.name
    MlflowClient(tracking_uri=f"sqlite:///{new.resolve()}").search_experiments(max_results=1)
    os.replace(new, database)
    shutil.rmtree(folder)


def _probe_database(uri: str) -> None:
    """Read something from a database: MLflow would try ten times, for 100 s, whatever is wrong with it."""
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import ArgumentError

    if uri.startswith(("http:", "https:")):
        return
    try:
        engine = create_engine(uri)
    except ArgumentError:  # not a database: MLflow knows what it is
        return
    try:
        inspect(engine).get_table_names()
    finally:
        engine.dispose()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the log lines of MLflow and its libraries off the screen; what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "sqlalchemy", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _without_password(uri: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri


def _reason(error: BaseException, uri: str) -> str:
    from requests.exceptions import ConnectionError, Timeout

    cause: BaseException | None = error
    while cause:
        if isinstance(cause, ConnectionError | Timeout):
            return "the tracking server does not answer"
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).replace(uri.rstrip("/"), _without_password(uri)).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


# The pass


def _mirror(client: "MlflowClient", params: Params, artifacts: Path | None) -> dict[str, int]:
    counts = {"new": 0, "replaced": 0, "same": 0, "missing": 0}
    experiment = _experiment(client, f"fdl-{params.preset}", artifacts)
    number = experiment.experiment_id
    for tag, value in tracked.experiment_tags(params, experiment.creation_time or 0).items():
        if experiment.tags.get(tag) != value:
            client.set_experiment_tag(number, tag, value)
    known = _known_runs(client, number)
    for bundle, cells in params.bundles().items():
        found = [record for cell in cells if (record := tracked.read(params, cell))]
        counts["missing"] += len(cells) - len(found)
        if not found:
            continue
        parent, fresh = _parent(client, number, bundle, len(cells), found, known)
        for record in found:
            runs = known.get(record.cell.key, [])
            if _keep_current(client, runs, record.digest):
                counts["same"] += 1
            else:
                _write_cell(client, number, parent, record, layout.dataset_name(params, bundle.dataset))
                counts["replaced" if runs else "new"] += 1
        if fresh:  # only now: a pass that was killed is seen as unfinished
            client.set_terminated(parent, end_time=max(record.end for record in found))
    return counts


def _experiment(client: "MlflowClient", name: str, artifacts: Path | None) -> "Experiment":
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = (artifacts / name).as_uri() if artifacts else None
        return client.get_experiment(client.create_experiment(name, artifact_location=location))
    if experiment.lifecycle_stage != "active":
        restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise InputError(f"MLflow's experiment {name!r} was deleted; bring it back with `{restore}`")
    return experiment


def _known_runs(client: "MlflowClient", experiment: str) -> dict[str, list["Run"]]:
    """The experiment's active runs by the key of their cell or bundle."""
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


def _keep_current(client: "MlflowClient", runs: list["Run"], expected: str) -> str | None:
    """Id of the one finished run with this digest; all others of these runs are deleted."""
    current = None
    for run in runs:
        if not current and run.data.tags.get(DIGEST_TAG) == expected and run.info.status in ("FINISHED", "FAILED"):
            current = run.info.run_id
        else:
            client.delete_run(run.info.run_id)
    return current


def _parent(
    client: "MlflowClient",
    experiment: str,
    bundle: Bundle,
    cells: int,
    found: list[tracked.Record],
    known: Mapping[str, list["Run"]],
) -> tuple[str, bool]:
    """Id of the bundle's run, and whether it was made now and is still to be ended."""
    expected = digest([cells, *(record.digest for record in found)])
    current = _keep_current(client, known.get(bundle.key, []), expected)
    if current:
        return current, False
    failed = sum(record.run["status"] == "failed" for record in found)
    identity = {"dataset": bundle.dataset, "backbone": bundle.backbone, "shots": bundle.shots}
    status = f"{len(found) - failed} done, {failed} failed, {cells - len(found)} missing"
    tags = {BUNDLE_TAG: bundle.key, DIGEST_TAG: expected, **identity, "status": status, **tracked.data_tags(found[0])}
    parent = _create(client, experiment, bundle.key, tags, min(record.start for record in found))
    _log(client, parent, max(record.end for record in found), identity, tracked.means(found), {})
    for key, runs in known.items():  # those of cells that left the grid, too
        if key.startswith(f"{bundle.key}/"):
            for run in runs:
                client.set_tag(run.info.run_id, PARENT_TAG, parent)
    return parent, True


def _write_cell(client: "MlflowClient", experiment: str, parent: str, record: tracked.Record, dataset: str) -> None:
    status = "FAILED" if record.run["status"] == "failed" else "FINISHED"
    values, curves = tracked.final(record) | tracked.costs(record), tracked.curves(record)
    run_id = _create(client, experiment, record.cell.key, tracked.cell_tags(record, parent), record.start)
    _log(client, run_id, record.end, tracked.settings(record), values, curves)
    client.log_inputs(run_id, [tracked.dataset_input(record, dataset)])
    for name in ("run.json", "metrics.json"):
        if (record.folder / name).exists():
            client.log_artifact(run_id, str(record.folder / name))
    client.set_terminated(run_id, status, end_time=record.end)


def _create(client: "MlflowClient", experiment: str, name: str, tags: Mapping[str, Any], start: int) -> str:
    source = {"mlflow.source.name": "fdl", "mlflow.source.type": "LOCAL"}
    text = {key: tracked.text(value) for key, value in tags.items()} | source
    return str(client.create_run(experiment, start_time=start, tags=text, run_name=name).info.run_id)


def _log(
    client: "MlflowClient",
    run_id: str,
    time: int,
    settings: Mapping[str, Any],
    values: Mapping[str, float],
    curves: Mapping[str, Sequence[tuple[int, float]]],
) -> None:
    from mlflow.entities import Metric, Param

    points = [Metric(name, value, time, 0) for name, value in values.items()]
    points += [Metric(name, value, time, epoch) for name, curve in curves.items() for epoch, value in curve]
    # The client itself keeps to the limits of one request (1,000 metrics, 100 params).
    client.log_batch(
        run_id, metrics=points, params=[Param(name, tracked.text(value)) for name, value in settings.items()]
    )
