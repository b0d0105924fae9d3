"""Whether a record is what today's settings ask for, and if not, what changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fdl.errors import InputError
from fdl.head_settings import head_settings
from fdl.params import Cell, Params
from fdl.provenance import SCORES_VERSION
from fdl.training.digests import PreparedImages

_VALUE = 40  # letters of a value that are shown


@dataclass(frozen=True)
class Comparison:
    """What differs between a record and today's settings and images."""

    settings: list[str]  # a line per key: "epochs: 100 → 200"
    images: list[str]  # "images: ...", "draw: ...": what it was trained on is not what is prepared here
    checked: bool  # whether the images could be compared: they are prepared and drawn here

    @property
    def changed(self) -> list[str]:
        """All that differs; empty: the record is current."""
        return self.settings + self.images


def compare(params: Params, cell: Cell, run: Mapping[str, Any], images: PreparedImages) -> Comparison:
    """Compare a record's `run.json` with what is asked for today.

    Raises:
        InputError: the images that are here are damaged.
    """
    settings = changed_settings(params, cell, run)
    if not images.are_there(cell):
        return Comparison(settings, [], checked=False)
    split, prepared = images.of(cell)
    differences = []
    if run["data"]["hash"] != prepared.hash:
        differences.append("images: trained on others than those prepared here")
    elif run["split"]["hash"] != split.hash:
        differences.append("draw: trained on another than the one drawn here")
    elif not settings and run["digests"]["training"] != images.training_digest(cell):
        differences.append("training: its digest fits neither its settings nor its images")
    return Comparison(settings, differences, checked=True)


def changed_settings(params: Params, cell: Cell, run: Mapping[str, Any]) -> list[str]:
    """The settings of a record that are not today's, a line each; no images are looked at."""
    lines = []
    if run["digests"]["settings"] != params.settings_digest(cell):
        then, now = _flat(run["settings"]), _flat(params.training_settings(cell))
        lines = [
            f"{key}: {_shown(then.get(key))} → {_shown(now.get(key))}"
            for key in dict.fromkeys([*now, *then])
            if then.get(key) != now.get(key)
        ] or ["settings: their digest does not fit them"]
    heads = head_settings(params, cell)
    if run["status"] == "done" and run["digests"].get("heads") != (heads and heads.digest):
        lines.append("heads: others are asked for")
    return lines


def is_asked_for(params: Params, cell: Cell, run: Mapping[str, Any]) -> bool:
    """Whether a record is of today's settings; its heads and images are not looked at."""
    return bool(run["digests"]["settings"] == params.settings_digest(cell))


def has_todays_scores(run: Mapping[str, Any]) -> bool:
    """Whether the scores of a finished cell are of this version of the code; `fdl combine` makes them so."""
    return bool(run["status"] != "done" or run["digests"].get("scores") == SCORES_VERSION)


def has_predictions(run: Mapping[str, Any]) -> bool:
    """Whether a finished cell can be scored again: one that was exported has left its predictions behind."""
    return "predictions.npz" in run["files"]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values of values by dotted keys: `method_params.cosine_weight`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = value if isinstance(value, Mapping) else {}
        flat |= {f"{key}.{name}": each for name, each in inner.items()} or {key: value}
    return flat


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 1]}…"


def require(run: Any) -> Mapping[str, Any]:
    """Check that a `run.json` from elsewhere has what is read of it.

    Raises:
        InputError: something is missing or of another kind.
    """
    blocks = {"digests": ("settings", "training"), "data": ("hash",), "split": ("hash",), "settings": (), "files": ()}
    try:
        if run["status"] not in ("done", "failed") or not isinstance(run["key"], str):
            raise ValueError
        for block, keys in blocks.items():
            if not isinstance(run[block], Mapping) or not all(isinstance(run[block][key], str) for key in keys):
                raise ValueError
    except (KeyError, TypeError, ValueError):
        raise InputError("run.json: not that of a record") from None
    checked: Mapping[str, Any] = run
    return checked
