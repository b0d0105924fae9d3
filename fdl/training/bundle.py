"""Runs a bundle: trains the cells that are not current, scores them, puts each record in place at once."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fdl import layout, records
from fdl.combine.scores import write_scores
from fdl.data import prepare, splits
from fdl.errors import InputError
from fdl.evaluation.cam import cam_record
from fdl.evaluation.diversity import FeatureDistanceMeter
from fdl.params import Bundle, Cell, Params, digest
from fdl.provenance import provenance
from fdl.training.checkpoint import Checkpoint, signals_wait_for_the_epoch
from fdl.training.device import autocast_bfloat16, device_slot
from fdl.training.engine import (
    CellData,
    CellSettings,
    Diverged,
    Images,
    Trained,
    load_members,
    predict,
    to_input,
    train,
)

Say = Callable[[str], None]


def run_bundle(params: Params, bundle: Bundle, *, say: Say = print) -> dict[str, Any]:
    """Train, score and record every cell of a bundle that has no current record; write `bundle.json`.

    Each record is put in place when its cell is finished, so a crash costs no finished cell. A cell
    that diverges gets a record with `status: failed`.

    Returns:
        The content of `bundle.json`.

    Raises:
        InputError: the bundle is not in the grid, or its data are missing or damaged.
    """
    cells = params.bundles().get(bundle)
    if cells is None:
        raise InputError(f"bundle {bundle.key} is not in the grid of preset {params.preset!r}; see params.yaml")
    receipt: dict[str, Any] = {"bundle": bundle.key, "cells": {}}
    with device_slot(params.device, layout.SCRATCH / "locks") as device, signals_wait_for_the_epoch():
        _set_up_torch(params, device)
        inputs = _BundleInputs(params, bundle, device)
        made_by = provenance(device)  # now: the code may be edited while it runs
        for number, cell in enumerate(cells, start=1):
            folder = layout.record_folder(params, cell)
            expected = inputs.training_digest(cell)
            run = _current_record(folder, expected, say)
            if run is None:
                say(f"{bundle.key}: cell {number} of {len(cells)}: {cell.method} seed {cell.seed}")
                run = _run_cell(params, cell, inputs, expected, made_by, say)
            receipt["cells"][cell.key] = {"digest": expected, "status": run["status"]}
    records.write_atomically(layout.bundle_file(params, bundle), records.to_json(receipt))
    return receipt


def _set_up_torch(params: Params, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: CUDA does not start (driver, or FDL_GPU_SLOTS without a GPU?); set device: cpu")
    torch.set_num_threads(params.threads)
    torch.backends.cuda.matmul.allow_tf32 = params.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = params.precision == "tf32"
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device == "cpu":
        # Denormals slow the small activations of late epochs down by an order of magnitude.
        torch.set_flush_denormal(True)


class _BundleInputs:
    """What the cells of a bundle share: the prepared dataset, and one draw per seed."""

    def __init__(self, params: Params, bundle: Bundle, device: str) -> None:
        self.params, self.bundle, self.device = params, bundle, device
        self.prepared = prepare.load(layout.prepared_folder(params, bundle.dataset))
        self._images: dict[bytes, Images] = {}

    def split(self, cell: Cell) -> splits.Split:
        """The draw of a cell's seed."""
        draw = self.params.draw_of(cell.seed)
        return splits.load_split(layout.split_file(self.params, cell.dataset, cell.shots, draw), self.prepared)

    def training_digest(self, cell: Cell) -> str:
        """Digest of everything that decides the cell's numbers: settings, draw, pixels."""
        split = self.split(cell)
        return digest([self.params.settings_digest(cell), split.hash, self.prepared.hash])

    def data(self, cell: Cell) -> tuple[CellData, splits.Split]:
        """The cell's images on the device; validation and test are read once per bundle."""
        split = self.split(cell)
        train = self._read(split.train)
        validation, test = self._shared(split.validation), self._shared(split.test)
        position = {row: index for index, row in enumerate(split.validation.tolist())}
        small = torch.tensor([position[row] for row in split.validation_small.tolist()], device=self.device)
        return CellData(train, validation, test, small, len(self.prepared.classes)), split

    def _shared(self, rows: NDArray[np.int64]) -> Images:
        key = rows.tobytes()
        if key not in self._images:
            self._images[key] = self._read(rows)
        return self._images[key]

    def _read(self, rows: NDArray[np.int64]) -> Images:
        pixels = torch.from_numpy(self.prepared.rows(rows)).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(np.asarray(self.prepared.labels)[rows].astype(np.int64))
        return Images(pixels.to(self.device), labels.to(self.device))


def _current_record(folder: Path, expected: str, say: Say) -> dict[str, Any] | None:
    """The cell's `run.json` if the record is whole and of the expected digest."""
    try:
        run = records.read_run(folder)
        if run is None or run["digests"]["training"] != expected:
            return None
        records.verify(folder, run)
    except InputError as error:
        say(f"{error} (doing so now)")
        return None
    return run


def _run_cell(
    params: Params, cell: Cell, inputs: "_BundleInputs", expected: str, made_by: dict[str, Any], say: Say
) -> dict[str, Any]:
    """Train and score one cell, publish its record, return its `run.json`."""
    device = inputs.device
    settings = params.training_settings(cell)
    data, split = inputs.data(cell)
    autocast = autocast_bfloat16(params.precision, device)
    cell_settings = CellSettings(
        backbone=cell.backbone,
        dataset=settings.get("like", cell.dataset),  # whose networks are built
        method=cell.method,
        seed=cell.seed,
        autocast=autocast,
        **{name: settings[name] for name in CellSettings.__dataclass_fields__ if name in settings},
    )
    folder = layout.record_folder(params, cell)
    checkpoint = Checkpoint(layout.SCRATCH / expected, say)
    prepared = inputs.prepared
    run: dict[str, Any] = {
        "key": cell.key,
        "cell": {name: getattr(cell, name) for name in ("dataset", "backbone", "shots", "method", "seed")},
        "digests": {"settings": params.settings_digest(cell), "training": expected},
        "settings": settings,
        "data": {
            "source": prepared.source,
            "synthetic": prepared.synthetic,
            "notes": list(prepared.notes),
            "classes": list(prepared.classes),
            "hash": prepared.hash,
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
        },
        "split": {"hash": split.hash, "draw": split.draw, "rule": split.rule},
    }
    start = time.perf_counter()
    try:
        trained = train(cell_settings, data, device=device, progress=_Throttle(say), checkpoint=checkpoint)
        train_seconds, history = time.perf_counter() - start, trained.history
        temporary = records.fresh_folder(folder)
        _write_predictions(temporary, cell_settings, trained, data, device, params.keep_weights)
    except Diverged as error:
        train_seconds, history = time.perf_counter() - start, error.history
        temporary = records.fresh_folder(folder)
        run |= {"status": "failed", "failure": {"epoch": error.epoch, "reason": error.reason}, "selected": {}}
        say(f"{cell.key}: failed: {error}")
    else:
        run |= {"status": "done", "failure": None, "selected": trained.selected}
        run["parameters"] = sum(
            value.numel() for name, value in next(iter(trained.states.values()))[0].items() if "num_batches" not in name
        )
    _write_history(temporary, history)
    run["timings"] = {
        "seconds": time.perf_counter() - start,
        "train_seconds": train_seconds,
        "evaluate_seconds": time.perf_counter() - start - train_seconds,
        "peak_memory_mb": _peak_memory_mb(device),
    }
    run["provenance"] = made_by | {
        "precision": "bfloat16"
        if autocast
        else "tf32"
        if device == "cuda" and params.precision == "tf32"
        else "float32",
        "threads": params.threads,
    }
    records.publish(temporary, folder, run)
    checkpoint.remove()
    return run


def _write_history(folder: Path, history: list[dict[str, float]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = list(dict.fromkeys(name for row in history for name in row))
    table = pa.table({name: [row.get(name, float("nan")) for row in history] for name in names})
    parquet.write_table(table, folder / "history.parquet")


def _write_predictions(
    folder: Path, settings: CellSettings, trained: Trained, data: CellData, device: str, keep_weights: bool
) -> None:
    predictions: dict[str, NDArray[Any]] = {
        "validation/labels": data.validation.labels.cpu().numpy(),
        "test/labels": data.test.labels.cpu().numpy(),
    }
    for number, (rule, states) in enumerate(trained.states.items()):
        nets = load_members(settings, states, data.num_classes, device)
        for split, images in (("validation", data.validation), ("test", data.test)):
            meter = FeatureDistanceMeter()
            logits = predict(settings, nets, images.pixels, meter).cpu().numpy()
            distance = np.array(list(meter.values().values()))
            if not (np.isfinite(logits).all() and np.isfinite(distance).all()):
                raise Diverged(settings.epochs - 1, f"predictions on {split} are not finite", trained.history)
            predictions[f"{rule}/{split}/logits"], predictions[f"{rule}/{split}/distance"] = logits, distance
        if number == 0:  # maps of the headline selection only: they cost as much as the predictions
            maps = cam_record(nets, data.test.pixels, data.test.labels, to_input=to_input)
            np.savez(folder / "cam.npz", allow_pickle=False, **maps)
        if keep_weights:
            _write_weights(folder / f"weights-{rule}.safetensors", states)
    predictions["validated_epochs"] = np.array(trained.validated)
    validation_correct = torch.stack(trained.validation_correct).numpy()  # (epochs, M, N)
    predictions["validation_correct"] = np.packbits(validation_correct, axis=-1)
    np.savez(folder / "predictions.npz", allow_pickle=False, **predictions)
    write_scores(folder, folder)


def _write_weights(path: Path, states: list[dict[str, torch.Tensor]]) -> None:
    from safetensors.torch import save_file

    tensors = {
        f"{m}.{name}": value.contiguous().cpu() for m, state in enumerate(states) for name, value in state.items()
    }
    save_file(tensors, path)


def _peak_memory_mb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo / 2**20


class _Throttle:
    """Passes at most one line per five seconds."""

    def __init__(self, say: Say, seconds: float = 5.0) -> None:
        self.say, self.seconds, self.last = say, seconds, time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self.last >= self.seconds:
            self.say(line)
            self.last = time.monotonic()
