"""What a training says of itself before there is a record: its history so far, for `status` and `track --watch`.

`scratch/<training digest>/progress.json` is written at the ends of epochs, every few seconds, and goes
when the record is in place. No training waits for a reader, and none ends because the file cannot be written.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdl.core import layout
from fdl.core.settings import Cell, Params
from fdl.results.locks import holder_of

SCHEMA_VERSION = 1
SECONDS = 5.0  # at most this often
Row = Mapping[str, float]


class ProgressFile:
    """Writes the progress of one cell.

    Args:
        folder: the cell's, below `scratch/`.
        about: preset, cell, settings digest, and `by`: who trains it (`fdl.results.locks.bundle_lock`).
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self.path, self.about = folder / "progress.json", about
        self.started = int(time.time() * 1000)
        self.written = -math.inf

    def write(self, history: Sequence[Row], epochs: int) -> None:
        """Write the history, if it is the first or the last time, or some seconds after the last.

        Args:
            history: a row per finished epoch.
            epochs: how many there will be.
        """
        if len(history) < epochs and time.monotonic() - self.written < SECONDS:
            return
        content = {
            "schema_version": SCHEMA_VERSION,
            **self.about,
            "started": self.started,
            "epochs": epochs,
            "history": [
                {name: value if math.isfinite(value) else None for name, value in row.items()} for row in history
            ],
        }
        temporary = self.path.with_suffix(".new")
        try:  # renamed, but not forced to the disk: after a power cut nobody misses it
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content))
            os.replace(temporary, self.path)
        except OSError:  # a full disk; the next attempt may succeed
            pass
        self.written = time.monotonic()


@dataclass(frozen=True)
class Unfinished:
    """A cell that was begun and has no record yet."""

    folder: Path
    preset: str
    cell: Cell
    settings: str  # digest of its settings
    running: bool  # its process lives and is at this cell
    started: int  # ms since the epoch
    updated: int  # ms since the epoch
    epochs: int  # how many there will be
    history: list[dict[str, float | None]]  # of the epochs that are finished


def unfinished(preset: str) -> list[Unfinished]:
    """All that was begun with a preset and has no record, in no order."""
    trainings = [_read(path) for path in layout.SCRATCH.glob("*/progress.json")]
    return [training for training in trainings if training and training.preset == preset]


def unfinished_cells(params: Params) -> dict[Cell, Unfinished]:
    """Cells of the grid that were begun with today's settings; of two trainings, the one that is newer."""
    begun = sorted(unfinished(params.preset), key=lambda training: (training.running, training.updated))
    newest = {(training.cell, training.settings): training for training in begun}
    if not newest:  # spares the digests of a grid of which nothing was begun
        return {}
    trainings = {cell: newest.get((cell, params.settings_digest(cell))) for cell in params.cells()}
    return {cell: training for cell, training in trainings.items() if training}


def _read(path: Path) -> Unfinished | None:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        if content["schema_version"] != SCHEMA_VERSION:
            return None
        cell = Cell.parse(content["cell"])
        return Unfinished(
            folder=path.parent,
            preset=content["preset"],
            cell=cell,
            settings=content["settings"],
            running=holder_of(content["preset"], cell.bundle.key) == content["by"],
            started=content["started"],
            updated=int(path.stat().st_mtime * 1000),
            epochs=content["epochs"],
            history=content["history"],
        )
    except (OSError, ValueError, KeyError, TypeError):  # gone since it was listed, or left by another version
        return None
