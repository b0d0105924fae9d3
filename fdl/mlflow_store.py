"""MLflow's store: found, created, held by one process at a time; what goes wrong with it becomes one line."""

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdl import layout
from fdl.errors import InputError
from fdl.params import digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

DEFAULT_URI = "sqlite:///mlflow.db"
LOCK_SECONDS = 900.0  # many times a first pass over the 1,080 cells of `paper`

# Read by MLflow when it is imported: nothing is sent anywhere but to the store, nothing printed.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# Read at each request, unless the user set them: MLflow's own would wait four minutes for a server that is down.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


@dataclass(frozen=True)
class Store:
    """An MLflow store that answers."""

    uri: str
    client: "MlflowClient"
    artifacts: Path | None  # where a new experiment keeps files; None: the store has a place of its own

    def experiment(self, name: str) -> "Experiment":
        """The experiment of this name, made if there is none.

        Raises:
            InputError: it was deleted.
        """
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            location = (self.artifacts / name).as_uri() if self.artifacts else None
            return self.client.get_experiment(self.client.create_experiment(name, artifact_location=location))
        if experiment.lifecycle_stage != "active":
            restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            raise InputError(f"MLflow's experiment {name!r} was deleted; bring it back with `{restore}`")
        return experiment


@contextmanager
def opened(uri: str | None, *, on_failure: str) -> Iterator[Store]:
    """Hold a store until the block ends; an SQLite database that is not there is created.

    Args:
        uri: MLflow's tracking URI; None: $MLFLOW_TRACKING_URI, or `sqlite:///mlflow.db`.
        on_failure: the end of the line that a user reads when the store fails.

    Raises:
        InputError: the store cannot be reached, opened or written.
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
            yield Store(uri, MlflowClient(tracking_uri=uri), artifacts)
    except Timeout:
        raise InputError(f"{lock}: held by another `fdl track` for {LOCK_SECONDS:.0f} s; try again later") from None
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        raise InputError(f"MLflow at {_without_password(uri)}: {_reason(error, uri)}; {on_failure}") from None


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
    """Keep the log lines and warnings of MLflow and its libraries off the screen; what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "sqlalchemy", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="mlflow")
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


# Runs


def create_run(
    client: "MlflowClient", experiment: str, name: str, tags: Mapping[str, Any], start: int | None = None
) -> str:
    """Id of a new run; `start`: ms since the epoch, None: now."""
    source = {"mlflow.source.name": "fdl", "mlflow.source.type": "LOCAL"}
    texts = {key: text(value) for key, value in tags.items()} | source
    return str(client.create_run(experiment, start_time=start, tags=texts, run_name=name).info.run_id)


def log(
    client: "MlflowClient",
    run_id: str,
    time: int,
    settings: Mapping[str, Any],
    values: Mapping[str, float],
    curves: Mapping[str, Sequence[tuple[int, float]]],
) -> None:
    """Write a run's parameters, final numbers, and (epoch, value) of its curves; `time`: ms since the epoch."""
    from mlflow.entities import Metric, Param

    points = [Metric(name, value, time, 0) for name, value in values.items()]
    points += [Metric(name, value, time, epoch) for name, curve in curves.items() for epoch, value in curve]
    # The client itself keeps to the limits of one request (1,000 metrics, 100 params).
    client.log_batch(run_id, metrics=points, params=[Param(name, text(value)) for name, value in settings.items()])


def text(value: Any) -> str:
    """A tag's or parameter's value as MLflow stores it."""
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
