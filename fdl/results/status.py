"""What became of every cell of a grid, from the files alone: nothing is trained, loaded or changed."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fdl.core.settings import Bundle, Params
from fdl.results.state import STATUSES, CellStatus, Judge

SCHEMA_VERSION = 1
_SHOWN = ("cell", "status", "epoch", "epochs", "changed", "reason")


def status(params: Params) -> list[CellStatus]:
    """The status of every cell of the grid, in its order; the hashes of all files are compared."""
    return Judge(params).states()


def counts(states: Sequence[CellStatus]) -> dict[str, int]:
    """Numbers of cells by status; all statuses are there."""
    counted = Counter(state.status for state in states)
    return {status: counted[status] for status in STATUSES}


def by_bundle(states: Sequence[CellStatus]) -> dict[Bundle, list[CellStatus]]:
    """The statuses of every bundle's cells."""
    bundles: dict[Bundle, list[CellStatus]] = {}
    for state in states:
        bundles.setdefault(state.cell.bundle, []).append(state)
    return bundles


def as_json(params: Params, states: Sequence[CellStatus]) -> dict[str, Any]:
    """What `fdl status --json` prints; docs/using-results.md has its schema."""
    cells = [
        {name: getattr(state, name) for name in _SHOWN} | {"cell": state.cell.key, "changed": list(state.changed)}
        for state in states
    ]
    return {"schema_version": SCHEMA_VERSION, "preset": params.preset, "counts": counts(states), "cells": cells}
