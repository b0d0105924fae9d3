"""Runs a bundle: trains the cells without a current record, scores them, and publishes each record as it is finished.

A bundle is all cells (trained ensembles) of one dataset, backbone and number of shots.
"""

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fdl.core import files, layout, torchvision_nets
from fdl.core.console import Say
from fdl.core.errors import InputError, MethodError
from fdl.core.head_settings import HeadSettings, head_settings
from fdl.core.provenance import SCORES_VERSION, provenance
from fdl.core.settings import Bundle, Cell, Params
from fdl.evaluation.cam import Score
from fdl.results import records
from fdl.results.locks import bundle_lock
from fdl.results.receipts import write_receipt
from fdl.results.scoring import rescore_record
from fdl.results.state import CellStatus, Judge
from fdl.training.bundle_inputs import BundleInputs
from fdl.training.checkpoint import Checkpoint, signals_wait_for_the_epoch
from fdl.training.costs import program_size
from fdl.training.device import device_slot, set_up_torch
from fdl.training.disk_space import is_plenty, warn_of_little_room
from fdl.training.fused import Run
from fdl.training.parquet_files import write_table
from fdl.training.predictions import replace_heads, replace_maps, weights_file, write_predictions
from fdl.training.progress import Throttle
from fdl.training.state import CellData, CellSettings, Diverged, Trained
from fdl.training.together import Waiting, is_finished, is_fused, train_together
from fdl.training.tuning import train


def run_bundle(params: Params, bundle: Bundle, *, say: Say = print, progress: Say | None = None) -> dict[str, Any]:
    """Train, score and record every cell of a bundle that has no current record; write `bundle.json`.

    Each record is published as soon as its cell is finished, so a crash loses no finished cell. A cell
    that diverges gets a record with `status: failed`.

    Args:
        params, bundle: the settings, and the bundle of their grid to run.
        say: takes lines for the log.
        progress: takes a line per epoch; None: `say` takes one every five seconds at most.

    Returns:
        The content of `bundle.json`.

    Raises:
        InputError: the bundle is not in the grid, or its data are missing or damaged.
    """
    with _opened(params, bundle, say, progress) as (cells, inputs):
        made_by = provenance(inputs.device)  # before the training, because the code may be edited meanwhile
        judge = Judge(params, running=False)
        before = {state.cell: state for state in judge.states(cells)}
        _say_what_is_replaced(before.values(), say)
        _check_disk_space(before, inputs)
        _train_together(before, inputs)
        for number, (cell, state) in enumerate(before.items(), start=1):
            heads = head_settings(params, cell)
            run = _trained_record(state)
            if run is not None and not state.has_heads:
                with files.named_in_errors(layout.record_folder(params, cell)):
                    run = _run_heads(cell, inputs, run, heads)
            elif run is not None and state.scores_due:
                rescore_record(layout.record_folder(params, cell), run)
            if run is None:
                say(f"{bundle.key}: cell {number} of {len(cells)}: {cell.method} seed {cell.seed}")
                with files.named_in_errors(layout.record_folder(params, cell)):
                    _run_cell(cell, inputs, heads, made_by)
        after = judge.states(cells)
        receipt = write_receipt(params, bundle, after)
        if receipt is None:
            unfinished = next(state for state in after if not state.finished)
            raise InputError(
                f"{unfinished.cell.key}: changed while its bundle was trained ({unfinished.note}); run the bundle again"
            )
        return receipt


def train_bundle(params: Params, bundle: Bundle, *, say: Say = print, progress: Say | None = None) -> dict[str, int]:
    """Train the cells of a bundle that have no current record, and leave the nets in `scratch/` for `run_bundle`.

    Args:
        params, bundle, say, progress: as in `run_bundle`.

    Returns:
        Numbers of cells: "trained" by this call, "current" before it, "diverged". `run_bundle` writes their records.

    Raises:
        InputError: as `run_bundle`.
    """
    counts = {"trained": 0, "current": 0, "diverged": 0}
    with _opened(params, bundle, say, progress) as (cells, inputs):
        before = {state.cell: state for state in Judge(params, running=False).states(cells)}
        _check_disk_space(before, inputs, all_wait=True)
        fused = _train_together(before, inputs)
        for number, (cell, state) in enumerate(before.items(), start=1):
            training = inputs.images.training_digest(cell)
            checkpoint = inputs.checkpoint(cell, training)
            if cell in fused:
                counts["diverged" if checkpoint.has("diverged") else "trained"] += 1
                continue
            if _trained_record(state) or is_finished(checkpoint):
                counts["current"] += 1
                continue
            say(f"{bundle.key}: cell {number} of {len(cells)}: {cell.method} seed {cell.seed}")
            try:
                _train(cell, inputs.data(cell), inputs, checkpoint, keep=True)
            except Diverged as error:
                say(f"{cell.key}: {error}")
                counts["diverged"] += 1
                continue
            counts["trained"] += 1
    return counts


def map_bundle(
    params: Params, bundle: Bundle, *, overlap: bool = False, score: Score = "probability", say: Say = print
) -> dict[str, int]:
    """Recompute the class activation maps of a bundle's records from their kept weights.

    Args:
        params, bundle, say: as in `run_bundle`.
        overlap, score: see `predictions.replace_maps`.

    Returns:
        Numbers of cells: "made", and "without weights" (diverged, not trained, or trained without `keep_weights`).

    Raises:
        InputError: as `run_bundle`.
    """
    counts = {"made": 0, "without weights": 0}
    with _opened(params, bundle, say) as (cells, inputs):
        judge = Judge(params, running=False)
        for cell in cells:
            folder = layout.record_folder(params, cell)
            run = _trained_record(judge.state(cell))
            if run is None or weights_file(params.selections_of(cell.dataset)[0]) not in run["files"]:
                counts["without weights"] += 1
                continue
            say(f"{cell.key}: class activation maps")
            settings, data = inputs.settings(cell), inputs.data(cell)
            temporary = records.fresh_folder(folder)
            replace_maps(temporary, folder, settings, data, device=inputs.device, overlap=overlap, score=score)
            run["digests"]["scores"] = SCORES_VERSION  # `replace_maps` also scores the record again
            records.publish(temporary, folder, run)
            counts["made"] += 1
        if counts["made"]:  # so that the workflow makes the report again
            write_receipt(params, bundle, judge.states(cells))
    return counts


def _train_together(states: Mapping[Cell, CellStatus], inputs: BundleInputs) -> list[Cell]:
    """Train all cells that can be fused into a program and still need training, and return those trained now.

    A program trains several ensembles as one network (`fdl.training.fused`). The caller trains the other cells one by
    one in the loop, the plain training loop of `fdl.training.engine`.
    """
    waiting = {}
    for cell, state in states.items():
        settings, training = inputs.settings(cell), inputs.images.training_digest(cell)
        if is_fused(settings, inputs.device) and _is_due(inputs.params, state):
            data = inputs.data(cell)
            waiting[cell] = Waiting(Run(settings, data), inputs.checkpoint(cell, training), training)
    new = [cell for cell, ensemble in waiting.items() if not is_finished(ensemble.checkpoint)]
    inputs.unsaved = train_together(
        list(waiting.values()), device=inputs.device, say=inputs.say, progress=inputs.progress
    )
    return new


def _check_disk_space(states: Mapping[Cell, CellStatus], inputs: BundleInputs, *, all_wait: bool = False) -> None:
    if is_plenty():
        return
    params = inputs.params
    due = {cell: inputs.images.training_digest(cell) for cell, state in states.items() if _is_due(params, state)}
    program = program_size(params, due, inputs.device)
    warn_of_little_room(params, inputs.bundle, due, program=program, all_wait=all_wait, say=inputs.say)


def _is_due(params: Params, state: CellStatus) -> bool:
    """Whether a cell needs trained nets from a training, be it a new one or one that an earlier attempt finished."""
    run, cell = _trained_record(state), state.cell
    kept = run and weights_file(params.selections_of(cell.dataset)[0]) in run["files"]
    return run is None or not (state.has_heads or head_settings(params, cell) is None or kept)


@contextmanager
def _opened(
    params: Params, bundle: Bundle, say: Say, progress: Say | None = None
) -> Iterator[tuple[list[Cell], BundleInputs]]:
    """The bundle's cells and inputs, while its lock and a device are held and signals wait for the end of an epoch."""
    cells = params.bundles().get(bundle)
    if cells is None:
        raise InputError(f"bundle {bundle.key} is not in the grid of preset {params.preset!r}; see params.yaml")
    with (
        bundle_lock(params.preset, bundle.key, waiting=say) as holder,
        device_slot(params.device, layout.SCRATCH / "locks") as device,
        signals_wait_for_the_epoch(),
    ):
        for cell in cells:
            records.finish_exchange(layout.record_folder(params, cell))
        set_up_torch(params, device)
        yield cells, BundleInputs(params, bundle, device, holder, say, progress or Throttle(say))


def _trained_record(state: CellStatus) -> dict[str, Any] | None:
    """The content of `run.json` if the cell's nets need no training, otherwise None.

    A record whose scores are out of date and that holds no predictions cannot be scored again, so it is trained again.
    """
    void = state.status == "stale" and state.trained and state.has_heads and not state.scores_due
    return dict(state.run) if state.run is not None and state.trained and not void else None


def _say_what_is_replaced(states: Iterable[CellStatus], say: Say) -> None:
    """Tell why existing records will be replaced."""
    for state in states:
        if state.status in ("stale", "damaged"):
            say(f"{state.cell.key}: {state.status}: {state.note}")


def _run_heads(
    cell: Cell, inputs: BundleInputs, run: dict[str, Any], heads: HeadSettings | None
) -> dict[str, Any] | None:
    """Train a record's heads again on its kept weights; returns its new `run.json`, or None if none were kept."""
    params, say = inputs.params, inputs.say
    folder, rule = layout.record_folder(params, cell), params.selections_of(cell.dataset)[0]
    if heads and weights_file(rule) not in run["files"]:
        say(f"{cell.key}: other heads, but its weights were not kept (keep_weights): it is trained again")
        return None
    say(f"{cell.key}: heads: {', '.join(heads.heads) if heads else 'none'}")
    checkpoint = Checkpoint(layout.SCRATCH / run["digests"]["training"], say)
    settings, data = inputs.settings(cell), inputs.data(cell)
    temporary = records.fresh_folder(folder)
    run["heads"] = replace_heads(
        temporary, folder, settings, heads, data, device=inputs.device, checkpoint=checkpoint, say=inputs.progress
    )
    _say_failed_heads(cell, run, say)
    run["digests"] |= {"heads": heads and heads.digest, "scores": SCORES_VERSION}
    records.publish(temporary, folder, run)
    checkpoint.remove()
    return run


def _say_failed_heads(cell: Cell, run: dict[str, Any], say: Say) -> None:
    for combiner, head in run["heads"].items():
        if "failed" in head:
            say(f"{cell.key}: {combiner}: {head['failed']}; left out")


def _run_cell(cell: Cell, inputs: BundleInputs, heads: HeadSettings | None, made_by: dict[str, Any]) -> None:
    """Train and score one cell, and publish its record."""
    params, say = inputs.params, inputs.say
    settings, data = inputs.settings(cell), inputs.data(cell)
    training = inputs.images.training_digest(cell)
    checkpoint = inputs.checkpoint(cell, training)
    folder = layout.record_folder(params, cell)
    run = inputs.about(cell, training, heads, data)
    start = time.perf_counter()
    try:
        trained = _train(cell, data, inputs, checkpoint, inputs.unsaved.pop(training, None), keep=bool(heads))
        train_seconds = time.perf_counter() - start
        ended: Trained | Diverged = trained
        temporary = records.fresh_folder(folder)
        run["heads"] = write_predictions(
            temporary,
            settings,
            heads,
            trained,
            data,
            device=inputs.device,
            keep_weights=params.keep_weights,
            checkpoint=checkpoint,
            say=inputs.progress,
        )
    except Diverged as error:
        train_seconds = time.perf_counter() - start
        ended = error
        temporary = records.fresh_folder(folder)
        run |= {"status": "failed", "failure": {"epoch": error.epoch, "reason": error.reason}, "selected": {}}
        say(f"{cell.key}: failed: {error}")
    else:
        _say_failed_heads(cell, run, say)
        run |= {"status": "done", "failure": None} | _about_nets(cell, settings, trained)
    _write_history(temporary, ended.history)
    evaluate_seconds = time.perf_counter() - start - train_seconds
    train_seconds = train_seconds if ended.seconds is None else ended.seconds
    run["timings"] = {
        "seconds": train_seconds + evaluate_seconds,
        "train_seconds": train_seconds,
        "evaluate_seconds": evaluate_seconds,
        "peak_memory_mb": _peak_memory_mb(inputs.device),
    }
    precision = _precision(params, inputs.device, autocast=settings.autocast)
    run["provenance"] = made_by | {"precision": precision, "threads": params.threads, "layout": ended.layout}
    records.publish(temporary, folder, run)
    checkpoint.remove()


def _train(
    cell: Cell,
    data: CellData,
    inputs: BundleInputs,
    checkpoint: Checkpoint,
    unsaved: Trained | Diverged | None = None,
    *,
    keep: bool,
) -> Trained:
    """The cell's trained nets, from an earlier attempt that finished them or from a training now.

    Args:
        cell, data, inputs, checkpoint: which cell, its images, and where its state is kept.
        unsaved: its training as part of a program, if the disk had no room for it.
        keep: whether to save the nets of a training now, for heads that may be interrupted or a later command.

    Raises:
        Diverged: the training diverged, in this attempt or an earlier one.
    """
    settings = inputs.settings(cell)
    if trained := _finished_training(checkpoint, unsaved):
        checkpoint.show(trained.history, settings.epochs)
        return trained
    with _method_errors_of(cell):
        trained = train(settings, data, device=inputs.device, progress=inputs.progress, checkpoint=checkpoint)
    if keep:
        checkpoint.save(vars(trained), "trained")
    return trained


def _about_nets(cell: Cell, settings: CellSettings, trained: Trained) -> dict[str, Any]:
    """What a record says of the trained nets: selected epochs, parameters per member, tuning of the learning rate."""
    state = next(iter(trained.states.values()))[0]
    about: dict[str, Any] = {
        "selected": trained.selected,
        "parameters": sum(value.numel() for name, value in state.items() if "num_batches" not in name),
    }
    if trained.tuning:
        about["tuning"] = trained.tuning
    if published := torchvision_nets.parse(cell.backbone):
        from fdl.models.torchvision_member import feature_node

        about["feature_map"] = feature_node(published, settings.image_size)
    return about


def _precision(params: Params, device: str, *, autocast: bool) -> str:
    """The floating-point format of the nets' matrix products."""
    if autocast:
        return "bfloat16"
    return "tf32" if device == "cuda" and params.precision == "tf32" else "float32"


@contextmanager
def _method_errors_of(cell: Cell) -> Iterator[None]:
    """Prefix the error of a user's method with the cell in which it was raised."""
    try:
        yield
    except MethodError as error:
        raise MethodError(f"{cell.key}: {error}") from error


def _finished_training(checkpoint: Checkpoint, unsaved: Trained | Diverged | None) -> Trained | None:
    """The training of an earlier attempt if it was finished, otherwise None; raises `Diverged` if it diverged."""
    if isinstance(unsaved, Diverged):
        raise unsaved
    if failure := checkpoint.load("diverged") if checkpoint.has("diverged") else None:
        raise Diverged(**failure)
    if unsaved is None and (kept := checkpoint.load("trained")):
        return Trained(**kept)
    return unsaved


def _write_history(folder: Path, history: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in history for name in row))
    columns = {name: [row.get(name, float("nan")) for row in history] for name in names}
    write_table(folder / "history.parquet", columns)


def _peak_memory_mb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo / 2**20
