"""MLflow's store: found, created, held by one process at a time; what goes wrong with it becomes one line."""

import json
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fdl.core import layout
from fdl.core.addresses import is_plain, masked
from fdl.core.errors import InputError, one_line
from fdl.core.settings import digest

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


class Unusable(InputError):
    """The store fails in a way that another attempt cannot cure."""


# What the page of an experiment opens with: trainings, not traces of language models.
KIND = ("mlflow.experimentKind", "custom_model_development")


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
            experiment = self.client.get_experiment(self.client.create_experiment(name, artifact_location=location))
        if experiment.lifecycle_stage != "active":
            restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            raise InputError(f"MLflow's experiment {name!r} was deleted; bring it back with `{restore}`")
        if KIND[0] not in experiment.tags:
            self.client.set_experiment_tag(experiment.experiment_id, *KIND)
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
    os.environ.update(ENVIRONMENT)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from filelock import FileLock, Timeout
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with _silence(), FileLock(lock, timeout=LOCK_SECONDS):
            if database:
                _create_database(database)
            _probe(uri)
            # Beside the database, wherever the verb is called from; other stores have their own place.
            artifacts = database.parent / "mlartifacts" if database else None
            yield Store(uri, MlflowClient(tracking_uri=uri), artifacts)
    except Timeout:
        raise InputError(f"{lock}: another `track` has held it for {LOCK_SECONDS:.0f} s; try again later") from None
    except PermissionError as error:
        raise Unusable(f"{_not_writable(Path(str(error.filename or lock)))}; {on_failure}") from None
    except (MlflowException, SQLAlchemyError, RequestException, ImportError) as error:
        if database and (problem := _of_the_file(error, database)):
            raise Unusable(f"{problem}; {on_failure}") from None
        raise InputError(f"MLflow at {masked(uri)}: {_reason(error, uri)}; {on_failure}") from None


def _sqlite_file(uri: str) -> Path | None:
    """The database's file, whatever links lead to it; None for other stores."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        name = make_url(uri).database
    except (ArgumentError, ValueError):
        name = None
    if not name or name == ":memory:":
        raise Unusable(f"MLflow at {masked(uri)}: names no database file; write it as {DEFAULT_URI}")
    return Path(name).resolve()


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
    # SQLite's own files are writable by their owner alone; an empty one follows the umask, and is filled.
    new.touch()
    MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
    os.replace(new, database)
    shutil.rmtree(folder)


def _probe(uri: str) -> None:
    """Check an address, and that a database opens: MLflow would try ten times, for 100 s, whatever is wrong."""
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import ArgumentError

    try:
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https") and not (parts.hostname and (parts.port is None or parts.port)):
            raise ValueError("no host")
        if parts.scheme in ("", "file", "http", "https", "databricks"):
            return
        engine = create_engine(uri)
    except ArgumentError:  # not a database: MLflow knows what it is
        return
    except (ValueError, TypeError):
        raise Unusable(
            f"MLflow at {masked(uri)}: not an address; write http://HOST:PORT, a database as {DEFAULT_URI}, "
            "and what a password holds besides letters and digits as %XX"
        ) from None
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


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it; of a database's error, what the database said, without the SQL."""
    cause: BaseException | None = error
    while cause:
        yield cause
        if isinstance(original := getattr(cause, "orig", None), BaseException):
            yield original
        cause = cause.__cause__ or cause.__context__


def _of_the_file(error: BaseException, database: Path) -> str | None:
    """What is wrong with an SQLite file and what mends it; None: nothing that is known."""
    again = f"delete {database}, then run `python -m fdl track` (models that were registered are lost with it)"
    text = " ".join(str(cause) for cause in _causes(error))
    if "readonly database" in text or "unable to open database file" in text:
        return _not_writable(database)
    if "not a database" in text or "malformed" in text or "disk image" in text:
        return f"{database}: damaged; {again}"
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return f"{database}: its tables are of another version of MLflow; {again}"
    said = [cause for cause in _causes(error) if isinstance(cause, sqlite3.DatabaseError)]
    if said and not re.search("locked|full|disk I/O", text):
        return f"{database}: not an MLflow database, or damaged ({said[0]}); {again}"
    return None


def _not_writable(path: Path) -> str:
    """A line about a file or folder that belongs to another user."""
    there = next((place for place in (path, *path.parents) if place.exists()), path)
    try:
        owner = there.owner()
    except (KeyError, OSError):
        owner = "another user"
    return (
        f"{path}: cannot be written by you ({there} is {owner}'s); ask for the right to write there, "
        "or name a database of your own with --uri sqlite:///FILE"
    )


def _reason(error: BaseException, uri: str) -> str:
    from requests.exceptions import ConnectionError, Timeout
    from sqlalchemy.exc import SQLAlchemyError

    causes = list(_causes(error))
    if any(isinstance(cause, ConnectionError | Timeout) for cause in causes):
        return "the tracking server does not answer"
    if isinstance(error, ImportError):
        return one_line(error)
    cause = causes[1] if isinstance(error, SQLAlchemyError) and len(causes) > 1 else error
    text = one_line(cause).split("[SQL:")[0].strip()
    # A library quotes an address in its own ways, and with it the password.
    if not is_plain(uri):
        text = f"{type(error).__name__}; its message is left out, since it may hold the password"
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
