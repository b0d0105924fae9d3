"""`bundle.json`: what a bundle was asked to train, and what came of it; and how Snakemake learns that more is due.

The receipt is the one file of a bundle that Snakemake declares. Whether it is out of date cannot be left to
Snakemake: it does not know the records, forgets what it ran when `.snakemake/` is deleted, and has never seen a
receipt that came with imported records. So the rule has one input of its own, below `.snakemake/`, which is made
newer than the receipt whenever the judge of records finds that a cell of the bundle is not current.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdl.core import files, layout
from fdl.core.head_settings import head_settings
from fdl.core.settings import Bundle, Cell, Params
from fdl.results.state import CellStatus, Judge

_LONG_AGO = 946_684_800  # 2000-01-01: older than any receipt


def asked_for(params: Params, cells: Sequence[Cell]) -> list[str]:
    """What decides the records of a bundle: the digests of its settings, and of its heads where there are any."""
    heads = [head_settings(params, cell) for cell in cells]
    return [
        *(params.settings_digest(cell) for cell in cells),
        *(head.digest for head in heads if head),
    ]


def write_receipt(params: Params, bundle: Bundle, states: Sequence[CellStatus]) -> dict[str, Any] | None:
    """Write a bundle's receipt, if each of its cells has a current record; return its content.

    Args:
        params: the settings.
        bundle: one of their grid.
        states: of its cells, as the judge finds them now.
    """
    cells = {
        state.cell.key: {"digest": state.run["digests"]["training"], "status": state.status}
        for state in states
        if state.finished and state.run is not None
    }
    asked = params.bundles()[bundle]
    if cells.keys() != {cell.key for cell in asked}:
        return None
    receipt = {"bundle": bundle.key, "cells": cells, "asked": asked_for(params, asked)}
    files.write_atomically(layout.bundle_file(params, bundle), files.to_json(receipt))
    return receipt


def due_file(params: Params, cells: Sequence[Cell], judge: Judge) -> Path:
    """The input of a bundle's job that is newer than its receipt while something is to be done.

    It is written here, below `.snakemake/`, and never while a job that it has started is at work: a look from a
    second terminal disturbs nothing.

    Args:
        params: the settings.
        cells: of one bundle, all.
        judge: of the same settings, without contents: Snakemake asks at every start.

    Returns:
        `.snakemake/fdl/due/<preset>/<bundle>`.
    """
    bundle = cells[0].bundle
    path, receipt = layout.SNAKEMAKE / "due" / params.preset / bundle.key, layout.bundle_file(params, bundle)
    written = receipt.stat().st_mtime if receipt.exists() else 0.0
    due = _what_is_due(params, cells, judge, receipt) if written else ""
    # A file from the future, dated by a wrong clock, would be newer than what its job makes.
    if due and not (path.exists() and written < path.stat().st_mtime <= time.time()):
        # To Snakemake a file with the same content is unchanged, whatever its time stamp.
        files.write_atomically(path, f"{time.time_ns()}\n{due}\n".encode())
        newer = max(path.stat().st_mtime, written + 0.01)
        os.utime(path, (newer, newer))
    elif not due and (not path.exists() or path.stat().st_mtime > written > 0):
        # Newer without need: its clock was wrong, or the records came from elsewhere.
        files.write_atomically(path, b"nothing\n")
        os.utime(path, (_LONG_AGO, _LONG_AGO))
    return path


def _what_is_due(params: Params, cells: Sequence[Cell], judge: Judge, receipt: Path) -> str:
    """A line for each cell that is not current, or for the receipt that is not; empty if nothing is to be done."""
    states = [judge.state(cell) for cell in cells]
    lines = [f"{state.cell.key}: {state.status}: {state.note}" for state in states if not state.finished]
    if lines:
        return "\n".join(lines)
    content = files.read_json(receipt)
    if not isinstance(content, dict) or content.get("asked") != asked_for(params, cells):
        return "the receipt is of other settings"
    return ""
