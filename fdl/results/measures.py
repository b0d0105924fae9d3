"""What a record's `metrics.json` may hold: names and possible values.

A wrong number is worse than a missing one.
"""

import json
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from fdl.core.errors import abbreviated, one_line
from fdl.evaluation.diversity import DISTANCE, DIVERSITY
from fdl.evaluation.metrics import METRICS, Metric
from fdl.evaluation.overlap import OVERLAP
from fdl.evaluation.voting import COMBINERS

ENSEMBLE = "ensemble"  # in the column `combiner` of measures of all members together
# A sum of float32 probabilities may be off in its last places.
_ROUNDING = 1e-6
_SPLITS = ("train", "validation", "test")
_MEMBER = re.compile(r"member\d{1,2}")
_SELECTION = re.compile(r"sum|sum3|own|last|sum-small")
_KEYS = {"selection", "split", "combiner", "metric", "value"}


def measures() -> dict[str, Metric]:
    """All that a record may hold, by name."""
    return METRICS | DIVERSITY | DISTANCE | OVERLAP


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.json`: selection, split, combiner, metric, value.

    Raises:
        ValueError: a row is malformed, names what does not exist, holds an impossible value, or appears twice.
    """
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(rows, list):
        raise ValueError("not a list of rows")
    seen = set()
    for row in rows:
        key = _checked(row)
        if key in seen:
            raise ValueError(f"{' '.join(key)} appears twice")
        seen.add(key)
    return rows


def problem_in(path: Path) -> str:
    """What is wrong in a `metrics.json`, in a few words; empty if nothing is."""
    try:
        read_metrics(path)
    except (OSError, ValueError) as error:
        return one_line(error)
    return ""


def _checked(row: Any) -> tuple[str, str, str, str]:
    if not isinstance(row, Mapping) or set(row) != _KEYS:
        raise ValueError(f"a row without the keys {', '.join(sorted(_KEYS))}")
    key = row["selection"], row["split"], row["combiner"], row["metric"]
    if not all(isinstance(name, str) for name in key):
        raise ValueError("a row whose names are not text")
    selection, split, combiner, metric = key
    known = combiner in (*COMBINERS, ENSEMBLE) or _MEMBER.fullmatch(combiner)
    if not _SELECTION.fullmatch(selection) or split not in _SPLITS or not known:
        raise ValueError(f"no such selection, split or combiner: {abbreviated(key)}")
    if metric not in measures():
        raise ValueError(f"no such metric: {abbreviated(key)}")
    value = row["value"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{' '.join(key)} is {abbreviated(value)}, not a number")
    low, high = measures()[metric].limits
    if not isfinite(value) or not low - _ROUNDING <= value <= high + _ROUNDING:
        raise ValueError(f"{' '.join(key)} is {value}")
    return selection, split, combiner, metric
