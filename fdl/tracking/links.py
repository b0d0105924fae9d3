"""Addresses of the tables that `track` made in MLflow's pages; `make ui` prints them."""

import sys
from collections.abc import Sequence

from fdl.core.errors import InputError
from fdl.tracking.store import opened

VIEWS = ("cells", "bundles")  # as `fdl.tracking.record_view` names them
SERVER = "http://127.0.0.1:5000"


def links(server: str = SERVER, uri: str | None = None) -> list[str]:
    """A line per experiment and view: its name and address.

    Args:
        server: where the pages are served.
        uri: MLflow's store; None: as `fdl track`.

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


def main(arguments: Sequence[str]) -> int:
    """Print them."""
    try:
        lines = links(*arguments)
    except InputError as error:
        print(f"fdl: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines) or "No runs yet: `python -m fdl track` mirrors the records into MLflow.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
