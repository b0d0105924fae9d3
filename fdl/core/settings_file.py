"""Files of settings, and the overlays on them: YAML in which a value is what it looks like.

YAML 1.1, which PyYAML reads, takes `1e-3` for text, `010` for 8, `1_000` for 1000, `1:30` for 90 and `no` for
false; readers of YAML 1.2 take some of these otherwise. Here only decimal numbers, `true`, `false` and `null` are
more than text. So `010` is refused where a number is expected, and kept as it is written where text is expected,
as in `data_dir: 007`. A key that appears twice is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fdl.core.errors import InputError, one_line

# Values of one file, with its aliases written out: ten aliases of ten aliases of … fit on ten lines.
VALUES_AT_MOST = 100_000
# Keys that say where settings are found, and are not settings themselves.
STRUCTURE = ("preset", "presets", "overrides")

_TAG = "tag:yaml.org,2002:"
_NUMBER = r"(0|[1-9][0-9]*)"
_PLAIN = {
    f"{_TAG}null": (r"~|null|Null|NULL|", ["", *"~nN"]),
    f"{_TAG}bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    f"{_TAG}int": (rf"[-+]?{_NUMBER}", list("-+0123456789")),
    f"{_TAG}float": (
        rf"[-+]?({_NUMBER}(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    f"{_TAG}merge": (r"<<", ["<"]),
}
_PATTERNS = {tag: re.compile(rf"^(?:{pattern})\Z") for tag, (pattern, _) in _PLAIN.items()}


class _Loader(yaml.SafeLoader):
    """Takes only the plain forms above for more than text."""

    # PyYAML's own, of YAML 1.1, would be inherited.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - declared so by PyYAML

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check(node, {})
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader`, or a reader of YAML 1.1, would take for something else."""


for _tag, (_, _starts) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, _PATTERNS[_tag], _starts)
    _Dumper.add_implicit_resolver(_tag, _PATTERNS[_tag], _starts)


def _check(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """Count the values of a node, with its aliases written out, and refuse what cannot be settings.

    Args:
        node: a parsed document, or a part of it.
        sizes: of the nodes met so far; 0 marks those that are not finished.
    """
    line = node.start_mark.line + 1
    if node in sizes:
        if not sizes[node]:
            raise InputError(f"line {line}: an alias inside its own anchor")
        return sizes[node]
    sizes[node] = 0
    size = 1
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _PATTERNS and not _PATTERNS[node.tag].match(node.value):
            raise InputError(f"line {line}: {node.value!r} is not a plain {node.tag.removeprefix(_TAG)}")
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                here = key.start_mark.line + 1
                if key.value in lines:
                    raise InputError(f"{key.value!r} appears twice, on lines {lines[key.value]} and {here}; keep one")
                lines[key.value] = here
            size += _check(key, sizes) + _check(value, sizes)
    else:
        size += sum(_check(value, sizes) for value in node.value)
    if size > VALUES_AT_MOST:
        raise InputError(f"line {line}: more than {VALUES_AT_MOST:,} values, aliases written out")
    sizes[node] = size
    return size


def read(path: str | Path) -> Any:
    """What a file of settings holds, not resolved.

    Raises:
        InputError: it cannot be read, or holds a key twice.
    """
    path = Path(path)
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run in the project's folder or name one with --params") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse(text: str) -> Any:
    """The value of a YAML text; raises `InputError`."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"not valid YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"not valid YAML: {one_line(error)}") from None


def dump(values: Mapping[str, Any]) -> str:
    """The YAML text that `parse` reads the same values from."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


@dataclass
class LayeredSettings:
    """A file of settings, with the overlays on it."""

    raw: dict[str, Any]  # the file, with the overlays on its presets and overrides
    overrides: dict[str, Any] = field(
        default_factory=dict
    )  # the other keys of the overlays: a preset must not hide them
    origins: dict[str, str] = field(default_factory=dict)  # by setting: the overlay that gives its value, for messages


def read_layered(
    path: str | Path, files: Sequence[str | Path], assignments: Sequence[str], option: str
) -> LayeredSettings:
    """Read a file of settings and the overlays on it, merged as Snakemake merges them, but typed as here.

    Args:
        path: the file, such as `params.yaml`.
        files: overlays, in this order: mappings are merged key by key, anything else is replaced.
        assignments: single values on top of these, each `KEY=VALUE`.
        option: the option that the assignments were given with.

    Raises:
        InputError: a file cannot be read, or is not a mapping; an assignment is not one.
    """
    layered = LayeredSettings(_mapping(path))
    # Snakemake makes the names absolute.
    shown = [Path(file).relative_to(Path.cwd()) if Path(file).is_relative_to(Path.cwd()) else file for file in files]
    parts = [(str(file), _mapping(file)) for file in shown]
    parts += [(f"{option} {assignment}", _assigned(assignment, option)) for assignment in assignments]
    for origin, values in parts:
        for key, value in values.items():
            target = layered.raw if key in STRUCTURE else layered.overrides
            below = target.get(key, layered.raw.get(key))
            target[key] = _merged(below, value) if isinstance(value, Mapping) else value
            inner = value if key == "overrides" and isinstance(value, Mapping) else [key]
            layered.origins |= dict.fromkeys(map(str, inner), origin)
    return layered


def _mapping(path: str | Path) -> dict[str, Any]:
    values = read(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a mapping of keys to values, not {type(values).__name__}")
    return values


def _assigned(assignment: str, option: str) -> dict[str, Any]:
    key, equals, value = assignment.partition("=")
    if not equals:
        raise InputError(f"{option} {assignment}: write it as KEY=VALUE, for example {option} epochs=100")
    try:
        return {key.strip(): parse(value)}
    except InputError as error:
        raise InputError(f"{option} {assignment}: {error}") from None


def _merged(below: Any, value: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below) if isinstance(below, Mapping) else {}
    for key, part in value.items():
        merged[key] = _merged(merged.get(key), part) if isinstance(part, Mapping) else part
    return merged
