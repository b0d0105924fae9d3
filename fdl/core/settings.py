"""Settings: one `params.yaml`, validated and typed.

The values are the file's defaults, then the block of `presets:` that `preset:` names, then
`overrides:`. Every key must be in the file: it is the one place where defaults are written.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fdl.core.errors import InputError, abbreviated, one_line, unknown
from fdl.core.grid import Bundle, Cell, Claims, GridBlock, OwnDataset
from fdl.core.params import Params, digest
from fdl.core.protocol import DATASETS
from fdl.core.settings_file import STRUCTURE, read

__all__ = ["Bundle", "Cell", "OwnDataset", "Params", "digest", "json_schema", "load", "resolve"]


def load(
    path: str | Path = "params.yaml", preset: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Params:
    """Read and resolve settings.

    Args:
        path: a `params.yaml`, or a resolved file below `results/<preset>/params/`.
        preset: block of `presets:` to use instead of the one that the file names.
        overrides: values on top of the file's `overrides:`.

    Raises:
        InputError: the file cannot be read, or a key or value is wrong.
    """
    return resolve(read(path), preset=preset, overrides=overrides, where=str(path))


def resolve(
    raw: Any,
    *,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    where: str = "params.yaml",
    origins: Mapping[str, str] | None = None,
) -> Params:
    """Resolve settings that were already read; see `load`.

    Args:
        raw: what the file holds.
        preset: as for `load`.
        overrides: as for `load`.
        where: names the file in messages.
        origins: by setting, what names its value in messages instead of the file.
    """
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: must be a mapping of keys to values, not {type(raw).__name__}")
    origins = origins or {}
    values = {key: value for key, value in raw.items() if key not in ("presets", "overrides")}
    if preset is not None:
        values["preset"] = preset
    if "presets" in raw:
        presets = _mapping(raw["presets"], "presets", where)
        name = values.get("preset")
        if not isinstance(name, str) or name not in presets:
            origin = "--preset" if preset is not None else origins.get("preset", where)
            raise InputError(f"{origin}: preset: {unknown(name, presets)}")
        _merge(values, _mapping(presets[name], f"presets.{name}", where))
    elif preset is not None and preset != raw.get("preset"):
        raise InputError(
            f"{where}: preset: the file holds the resolved settings of {raw.get('preset')!r}, not {preset!r}"
        )
    overriding = {**_mapping(raw.get("overrides"), "overrides", origins.get("overrides", where)), **(overrides or {})}
    _merge(values, overriding)
    _refuse_hidden(values, overriding, origins)
    for key in values:
        if key not in Params.model_fields:
            raise InputError(f"{origins.get(str(key), where)}: {unknown(key, Params.model_fields, what='key')}")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        message = _explain(error)
        setting = re.split(r"\W", message, maxsplit=1)[0]
        raise InputError(f"{origins.get(setting, where)}: {message}") from None


def _refuse_hidden(values: Mapping[str, Any], overriding: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """Refuse an override that a block of the preset's grid would hide."""
    grid = values.get("grid")
    if "grid" in overriding or not isinstance(grid, list):
        return
    for key in overriding:
        if any(isinstance(block, Mapping) and key in block for block in grid):
            raise InputError(
                f"{origins.get(key, 'overrides')}: {key}: a block of the grid of preset {values.get('preset')!r} "
                "names its own; set grid as well: null for the product of all lists, or blocks of your own"
            )


def _mapping(value: Any, key: str, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: {key}: must be a mapping, not {abbreviated(value)}")
    return value


def _merge(values: dict[str, Any], block: Mapping[str, Any]) -> None:
    for key, value in block.items():
        if key in STRUCTURE:
            raise InputError(f"params: {key!r} cannot be set inside a preset or an override")
        values[key] = value


def _explain(error: ValidationError) -> str:
    """The first of pydantic's errors in one line: key, value, what is allowed."""
    first = error.errors()[0]
    # Branches of a union ('int', 'dict[...]') are part of the location too; only keys and positions help a reader.
    loc = [str(part) for part in first["loc"]]
    models = (Params, GridBlock, Claims, OwnDataset)
    names = {*(name for model in models for name in model.model_fields), *DATASETS}
    key = ".".join(part for part in loc if part in names or part.isdigit())
    if first["type"] == "missing" and loc[0] == "datasets":
        needed = [name for name, about in OwnDataset.model_fields.items() if about.is_required()]
        return f"{key}: missing; your own images need {', '.join(needed)}"
    if first["type"] == "missing":
        where = "every setting must be in the file (one with a few settings is for --configfile)"
        return f"{key or '.'.join(loc)}: missing; {where}"
    if first["type"] == "extra_forbidden":
        return f"{'.'.join(part for part in loc[:-1] if part in names or part.isdigit())}: unknown key {loc[-1]!r}"
    message = one_line(first["msg"].removeprefix("Value error, "))
    if first["type"] == "value_error":
        return message
    hint = _hint(key, first["type"], first["input"])
    return f"{key}: {abbreviated(first['input'])} is not allowed: {message[0].lower()}{message[1:]}{hint}"


def _hint(key: str, kind: str, value: Any) -> str:
    """How to write what was probably meant."""
    if kind == "too_short" and key.endswith("grid"):
        return "; write null to leave it out"
    if kind == "string_type" and isinstance(value, int | float):
        return f"; in quotes it is text: {key}: '{value}', or on a command line \"{key}='{value}'\""
    if not isinstance(value, str):
        return ""
    if value in ("None", "none", "nil"):
        return "; write null"
    if kind == "bool_type":
        return "; write true or false"
    if kind in ("int_type", "float_type") and any(character.isdigit() for character in value):
        return "; write it in decimal digits, such as 10 or 1.0e-3"
    return f"; write [{value}]" if kind == "list_type" else ""


def json_schema() -> dict[str, Any]:
    """The JSON schema of `params.yaml`, for Snakemake's `validate` and for editors."""
    schema = Params.model_json_schema()
    partial = {"type": "object", "additionalProperties": False, "properties": schema["properties"]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "fdl settings"
    schema["$defs"]["Partial"] = partial
    schema["properties"] = {
        **schema["properties"],
        "presets": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Partial"}},
        "overrides": {"anyOf": [{"$ref": "#/$defs/Partial"}, {"type": "null"}]},
    }
    return schema
