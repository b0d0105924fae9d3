"""The details of every cell (one trained ensemble) that the page lists: settings, digests, timings, versions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fdl.core import layout
from fdl.reporting.results import Results, read_record
from fdl.results.collect import USABLE, CellState

# Keys that the page leaves out. It shows them elsewhere already, or they are long and stand in another file: the class
# names in cells.json, the hashes of the files in the record.
_LEFT_OUT = ("files", "key", "cell", "status", "failure", "schema_version", "data.classes", "data.synthetic")


@dataclass(frozen=True)
class CellDetails:
    """One cell of the grid."""

    state: CellState
    accuracy: float | None  # test accuracy of the soft vote, in percent
    seconds: float | None
    details: dict[str, str]  # the values that differ between cells
    record: str  # path of the record's folder


@dataclass(frozen=True)
class Details:
    """All cells of the grid."""

    cells: list[CellDetails]
    common: dict[str, str]  # the values that all records share


def read_details(results: Results) -> Details:
    """Read `run.json` of every record that was collected.

    Raises:
        InputError: a record was replaced or removed after it had been collected.
    """
    cells_and_details: list[tuple[CellState, dict[str, str]]] = []
    for state in results.collected.cells:
        usable = state.status in USABLE
        cells_and_details.append((state, _flat(read_record(results.params, state)) if usable else {}))
    known = [details for _, details in cells_and_details if details]
    common = {
        key: value
        for key, value in (known[0] if known else {}).items()
        if all(details.get(key) == value for details in known)
    }
    cells = [
        CellDetails(
            state,
            100 * results.accuracy[state.cell] if state.cell in results.accuracy else None,
            float(details["timings.seconds"]) if details else None,
            {key: value for key, value in details.items() if key not in common},
            layout.record_folder(results.params, state.cell).as_posix(),
        )
        for state, details in cells_and_details
    ]
    return Details(cells, common)


def _flat(run: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The nested values as texts, by dotted key."""
    flat: dict[str, str] = {}
    for key, value in run.items():
        name = prefix + key
        if name in _LEFT_OUT:
            continue
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if value < 1000 else f"{value:.1f}"
    return json.dumps(value, ensure_ascii=False)
