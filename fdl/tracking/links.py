"""Addresses of the tables (saved views) that `track` created in MLflow; `make ui` prints them."""

import socket
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from fdl.core.errors import InputError
from fdl.tracking.store import opened

VIEWS = ("cells", "bundles")  # in lower case, the names of the views in `fdl.tracking.record_view.experiment_tags`
SERVER = "http://127.0.0.1:5000"


def links(server: str = SERVER, uri: str | None = None) -> list[str]:
    """A line per experiment and view, with their names and the address.

    Args:
        server: address of the MLflow server that serves the pages.
        uri: MLflow's tracking URI; None: as in `fdl.tracking.store.opened`.

    Raises:
        InputError: the store cannot be opened.
    """
    with opened(uri, on_failure="no links to show") as store:
        experiments = store.client.search_experiments(filter_string="name LIKE 'fdl-%'")
        return [
            f"{experiment.name}, {view}: {server}/#/experiments/{experiment.experiment_id}/runs"
            f"?viewStateShareKey=fdl-{view}"
            for experiment in sorted(experiments, key=lambda each: each.name)
            for view in VIEWS
            if f"mlflow.sharedViewState.fdl-{view}" in experiment.tags
        ]


def taken(server: str) -> bool:
    """Whether something already listens at the address of the server that is to be started."""
    address = urlsplit(server)
    with socket.socket() as connection:
        return connection.connect_ex((address.hostname, address.port)) == 0


def main(arguments: Sequence[str]) -> int:
    """Print the links.

    Args:
        arguments: those of `links`, in order.

    Returns:
        The exit status: 0, or 2 if the port is taken or the store cannot be opened.
    """
    server = arguments[0] if arguments else SERVER
    try:
        if taken(server):
            port = urlsplit(server).port or 0
            raise InputError(
                f"port {port} is taken, perhaps by another `make ui`; use one of your own: make ui PORT={port + 1}"
            )
        lines = links(*arguments)
    except InputError as error:
        print(f"fdl: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines) or "No runs yet: `python -m fdl track` mirrors the records into MLflow.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
