"""Opens MLflow's store, creates it if needed, locks it for one process at a time, and explains failures in one line."""

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
LOCK_SECONDS = 900.0  # about four times as long as a first pass over the 1,080 cells of `paper` takes on a slow core

# MLflow reads these when it is imported. They keep it from sending usage data and from printing.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# MLflow reads these at each request. They do not replace values set by the user. With its defaults, MLflow would wait
# four minutes for a server that is down.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


class Unusable(InputError):
    """The store fails in a way that another attempt cannot cure."""


# This tag makes the page of an experiment open with trainings instead of traces of language models.
KIND = ("mlflow.experimentKind", "custom_model_development")


@dataclass(frozen=True)
class Store:
    """An open MLflow store."""

    uri: str
    client: "MlflowClient"
    artifacts: Path | None  # folder for the files of new experiments; None: the store has a place of its own

    def experiment(self, name: str) -> "Experiment":
        """The experiment with this name, which is created if there is none.

        Raises:
            InputError: the experiment was deleted in MLflow, which keeps its name occupied.
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
    """Open a store and hold its lock until the context ends; an SQLite database that does not exist is created.

    Args:
        uri: MLflow's tracking URI; None: $MLFLOW_TRACKING_URI or, if that is not set, `sqlite:///mlflow.db`.
        on_failure: end of the error message.

    Raises:
        InputError: the store cannot be reached, opened or written, or another process holds its lock for too long.
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
            # The files lie beside the database, whatever the working folder is. Other stores have a place of their own.
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
    """The file of an SQLite database, with symbolic links resolved; None for other stores.

    Raises:
        Unusable: the URI names no file.
    """
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
    """Create MLflow's tables in a temporary SQLite file and rename it, unless the database exists already.

    If MLflow is killed while it creates the tables, it leaves a file that it can neither use nor repair.
    """
    from mlflow import MlflowClient

    if database.exists() and database.stat().st_size:
        return
    folder = database.with_name(f"{database.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # The temporary name is always new, because MLflow keeps one connection per name and process.
    new = Path(tempfile.mkdtemp(dir=folder)) / database.name
    # SQLite would create a file that only its owner can write. An empty file, which it fills, follows the umask.
    new.touch()
    MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
    os.replace(new, database)
    shutil.rmtree(folder)


def _probe(uri: str) -> None:
    """Check the address, and that a database can be opened; MLflow would try ten times, for 100 s, whatever is wrong.

    Raises:
        Unusable: the URI is not an address.
    """
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import ArgumentError

    try:
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https") and not (parts.hostname and (parts.port is None or parts.port)):
            raise ValueError("no host")
        if parts.scheme in ("", "file", "http", "https", "databricks"):
            return
        engine = create_engine(uri)
    except ArgumentError:  # not a database, so it is left to MLflow
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
    """Suppress log lines and warnings of MLflow and its libraries, because everything that matters is raised."""
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
    """The error and its causes; after an error of SQLAlchemy also the database's own, which does not quote the SQL."""
    cause: BaseException | None = error
    while cause:
        yield cause
        if isinstance(original := getattr(cause, "orig", None), BaseException):
            yield original
        cause = cause.__cause__ or cause.__context__


def _of_the_file(error: BaseException, database: Path) -> str | None:
    """A message that says what is wrong with an SQLite file and how to mend it; None if the cause is not known."""
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
    """A message about a file or folder that the user may not write."""
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
    # Libraries quote the address, and with it the password, in forms that cannot all be masked.
    if not is_plain(uri):
        text = f"{type(error).__name__}; its message is left out, since it may hold the password"
    return text if len(text) <= 300 else f"{text[:297]}..."


# Runs


def create_run(
    client: "MlflowClient", experiment: str, name: str, tags: Mapping[str, Any], start: int | None = None
) -> str:
    """Create a run and return its id.

    Args:
        client: of the MLflow store.
        experiment: id of the experiment.
        name: name of the run.
        tags: tags of the run; values are converted by `text`.
        start: time at which it started, in ms since the Unix epoch; None: now.
    """
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
    """Write parameters, final numbers and curves of a run.

    Args:
        client: of the MLflow store.
        run_id: id of the run.
        time: time stamp of all numbers, in ms since the Unix epoch.
        settings: parameters by name; values are converted by `text`.
        values: final numbers by name.
        curves: points (epoch, value) by name of the curve.
    """
    from mlflow.entities import Metric, Param

    points = [Metric(name, value, time, 0) for name, value in values.items()]
    points += [Metric(name, value, time, epoch) for name, curve in curves.items() for epoch, value in curve]
    # The client splits the data to respect the limits of a request (1,000 metrics, 100 parameters).
    client.log_batch(run_id, metrics=points, params=[Param(name, text(value)) for name, value in settings.items()])


def text(value: Any) -> str:
    """The value of a tag or parameter as the text that MLflow stores."""
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
