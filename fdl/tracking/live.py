"""Shows cells that are being trained as running runs in MLflow, and holds the loop that keeps them up to date.

A cell is one ensemble to train. These runs are only a preview: when a cell is finished, its run is replaced by one made
from its record.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from fdl.core.console import Say
from fdl.core.errors import InputError
from fdl.core.settings import Params
from fdl.results.unfinished import Unfinished
from fdl.tracking.record_view import CELL_TAG, CURVE_POINTS, NO_TERMS, PARENT_TAG, curve_name
from fdl.tracking.store import Unusable, create_run, log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TRAINING_TAG, EPOCHS_TAG = "fdl.training", "fdl.epochs"
ATTEMPTS = 6  # number of consecutive passes that may fail before `watch` gives up
LONGEST_WAIT = 300.0  # seconds between two attempts


def mirror(
    client: "MlflowClient",
    experiment: str,
    parent: str,
    params: Params,
    begun: Unfinished,
    runs: list["Run"],
) -> None:
    """Bring the run of an unfinished cell up to date.

    If the training is no longer running, its run, if any, is ended as killed.

    Args:
        client: of the MLflow store.
        experiment: id of the experiment.
        parent: id of the bundle's run; the bundle is all cells with the same dataset, backbone and shots.
        params: the settings.
        begun: the state of the cell's training.
        runs: all runs of the cell. The run of this training is continued; runs of other unfinished trainings are
            deleted; runs made from a record are left alone.
    """
    cell, training, epochs = begun.cell, begun.folder.name, len(begun.history)
    shown, run_id, status = 0, None, ""
    for run in runs:
        if TRAINING_TAG not in run.data.tags:
            continue  # made from a record
        at = int(run.data.tags[EPOCHS_TAG])
        if run_id is None and run.data.tags[TRAINING_TAG] == training and at <= epochs:
            shown, run_id, status = at, run.info.run_id, run.info.status
        else:  # a training with other settings, or one that has started again from the beginning
            client.delete_run(run.info.run_id)
    if not begun.running:
        if run_id and status == "RUNNING":
            client.set_terminated(run_id, "KILLED", end_time=begun.updated)
        return
    if run_id is None:
        identity = asdict(cell)
        tags = {CELL_TAG: cell.key, PARENT_TAG: parent, TRAINING_TAG: training, EPOCHS_TAG: 0, "status": "running"}
        run_id = create_run(client, experiment, cell.key, tags | identity, begun.started)
        settings = params.training_settings(cell)
        asked = {name: settings[name] for name in ("epochs", "members", "learning_rate", "precision")}
        log(client, run_id, begun.updated, identity | NO_TERMS | settings["method_params"] | asked, {}, {})
    elif status != "RUNNING":  # the training was stopped and has been resumed
        client.update_run(run_id, status="RUNNING")
    if epochs > shown:
        log(client, run_id, begun.updated, {}, {}, curves(begun, after=shown))
        client.set_tag(run_id, EPOCHS_TAG, str(epochs))


def curves(begun: Unfinished, *, after: int = 0) -> dict[str, list[tuple[int, float]]]:
    """Points (epoch, value) of the history so far, by name of the curve.

    The epochs are divided into at most `CURVE_POINTS` stretches of equal length, and each gives its first point.

    Args:
        begun: an unfinished cell.
        after: leave out the points of this many first epochs, which are shown already.
    """
    stretch = math.ceil(begun.epochs / CURVE_POINTS)
    by_curve: dict[str, dict[int, tuple[int, float]]] = {}
    for row in begun.history:
        epoch = int(row["epoch"] or 0)
        for column, value in row.items():
            if column != "epoch" and value is not None:
                by_curve.setdefault(curve_name(column), {}).setdefault(epoch // stretch, (epoch, value))
    return {name: [point for point in points.values() if point[0] >= after] for name, points in by_curve.items()}


def watch(
    one_pass: Callable[[], dict[str, int]],
    *,
    seconds: float,
    say: Say = print,
    wait: Callable[[float], None] = time.sleep,
) -> dict[str, int]:
    """Repeat passes until every cell has a current record, or until Ctrl-C.

    After a pass that fails, the wait doubles each time, because a server may be restarting.

    Args:
        one_pass: `fdl.tracking.mirror.track` with `live=True`; returns counts by kind.
        seconds: time between passes.
        say: takes a line whenever the counts change or a pass fails.
        wait: waits for a number of seconds.

    Returns:
        The counts of the last pass that succeeded.

    Raises:
        InputError: `ATTEMPTS` consecutive passes failed, or one failed for a reason that another pass cannot cure.
    """
    counts: dict[str, int] = {}
    failures = 0
    try:
        while True:
            try:
                current = one_pass()
            except InputError as error:
                failures += 1
                if failures == ATTEMPTS or isinstance(error, Unusable):
                    raise
                pause = min(seconds * 2**failures, LONGEST_WAIT)
                say(f"{error} (trying again in {pause:.0f} s)")
            else:
                failures, pause = 0, seconds
                if current != counts:
                    say(f"mlflow: {', '.join(f'{count} {name}' for name, count in current.items())}")
                counts = current
                if not counts["missing"] and not counts["stale"]:
                    return counts
            wait(pause)
    except KeyboardInterrupt:
        say("stopped; trainings go on, and the next `python -m fdl track` shows what they have finished")
        return counts
