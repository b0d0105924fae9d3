"""Runs a bundle: trains the cells that are not current, scores them, puts each record in place at once."""

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

    Each record is put in place when its cell is finished, so a crash costs no finished cell. A cell
    that diverges gets a record with `status: failed`.

    Args:
        params, bundle: the settings, and which cells of theirs.
        say: takes what happens, line by line.
        progress: takes a line per epoch; without it `say` takes some of them.

    Returns:
        The content of `bundle.json`.

    Raises:
        InputError: the bundle is not in the grid, or its data are missing or damaged.
    """
    with _opened(params, bundle, say, progress) as (cells, inputs):
        made_by = provenance(inputs.device)  # now: the code may be edited while it runs
        judge = Judge(params, running=False)
        before = {state.cell: state for state in judge.states(cells)}
        _say_what_is_due(before.values(), say)
        _look_for_room(before, inputs)
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
            late = next(state for state in after if not state.finished)
            raise InputError(
                f"{late.cell.key}: changed while its bundle was trained ({late.note}); run the bundle again"
            )
        return receipt


def train_bundle(params: Params, bundle: Bundle, *, say: Say = print, progress: Say | None = None) -> dict[str, int]:
    """Train the cells of a bundle that have no current record, and leave the nets in `scratch/`; `run` goes on there.

    Args:
        params, bundle, say, progress: as in `run_bundle`.

    Returns:
        Numbers of cells: "trained" now, "current" before, "diverged": `run` writes their records.

    Raises:
        InputError: as `run_bundle`.
    """
    counts = {"trained": 0, "current": 0, "diverged": 0}
    with _opened(params, bundle, say, progress) as (cells, inputs):
        before = {state.cell: state for state in Judge(params, running=False).states(cells)}
        _look_for_room(before, inputs, all_wait=True)
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
    """Make the class activation maps of a bundle's records again, from their kept weights.

    Args:
        params, bundle, say: as in `run_bundle`.
        overlap, score: see `predictions.replace_maps`.

    Returns:
        Numbers of cells: "made", and "without weights": failed, not trained, or trained without `keep_weights`.

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
            run["digests"]["scores"] = SCORES_VERSION  # they were made again, too
            records.publish(temporary, folder, run)
            counts["made"] += 1
        if counts["made"]:  # the report is made of them
            write_receipt(params, bundle, judge.states(cells))
    return counts


def _train_together(states: Mapping[Cell, CellStatus], inputs: BundleInputs) -> list[Cell]:
    """Train those cells that share a program and are not trained; which they are. The loop trains the others."""
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


def _look_for_room(states: Mapping[Cell, CellStatus], inputs: BundleInputs, *, all_wait: bool = False) -> None:
    if is_plenty():
        return
    params = inputs.params
    due = {cell: inputs.images.training_digest(cell) for cell, state in states.items() if _is_due(params, state)}
    program = program_size(params, due, inputs.device)
    warn_of_little_room(params, inputs.bundle, due, program=program, all_wait=all_wait, say=inputs.say)


def _is_due(params: Params, state: CellStatus) -> bool:
    """Whether a cell's nets must be trained, now or in an earlier attempt."""
    run, cell = _trained_record(state), state.cell
    kept = run and weights_file(params.selections_of(cell.dataset)[0]) in run["files"]
    return run is None or not (state.has_heads or head_settings(params, cell) is None or kept)


@contextmanager
def _opened(
    params: Params, bundle: Bundle, say: Say, progress: Say | None = None
) -> Iterator[tuple[list[Cell], BundleInputs]]:
    """The bundle's cells and data, with its lock and a device held and signals kept until the end of an epoch."""
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
    """The `run.json` of a cell whose nets need no training; None where they do.

    A record without predictions whose scores are void cannot be scored again: it is trained again.
    """
    void = state.status == "stale" and state.trained and state.has_heads and not state.scores_due
    return dict(state.run) if state.run is not None and state.trained and not void else None


def _say_what_is_due(states: Iterable[CellStatus], say: Say) -> None:
    """Why records that are there are made again."""
    for state in states:
        if state.status in ("stale", "damaged"):
            say(f"{state.cell.key}: {state.status}: {state.note}")


def _run_heads(
    cell: Cell, inputs: BundleInputs, run: dict[str, Any], heads: HeadSettings | None
) -> dict[str, Any] | None:
    """Give a record other heads, from its kept weights; None where no weights were kept."""
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
    """The cell's training: one that was finished before, or a new one, which is saved if `keep` says so.

    Raises:
        Diverged: it diverged, now or before.
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
    """What a record says of the trained nets: their epochs, their learning rate if it was tuned, their size."""
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
    """What the nets were computed in."""
    if autocast:
        return "bfloat16"
    return "tf32" if device == "cuda" and params.precision == "tf32" else "float32"


@contextmanager
def _method_errors_of(cell: Cell) -> Iterator[None]:
    """Say in which cell a user's method failed."""
    try:
        yield
    except MethodError as error:
        raise MethodError(f"{cell.key}: {error}") from error


def _finished_training(checkpoint: Checkpoint, unsaved: Trained | Diverged | None) -> Trained | None:
    """A training that was finished before; raises `Diverged` if that was its end."""
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
