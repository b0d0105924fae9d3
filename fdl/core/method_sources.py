"""Where a method's function is written and what its text says, without importing it.

Snakemake asks for digests and parameters every time it parses the workflow, where torch must not be
imported and a user's module must not run. A method is one of `fdl/methods/registry.py`, or the
user's own, `module.function`: a module of the project folder, or an installed one.
"""

import ast
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fdl.core.errors import InputError, did_you_mean
from fdl.core.method_digest import Stamp, method_digest, module_file, read_module, stamp_of

_METHODS = Path(__file__).parents[1] / "methods" / "registry.py"
_SIGNATURE = "(maps, logits, inputs, labels, *, epoch, ...)"


@dataclass(frozen=True)
class MethodSource:
    """What the text of a method's function says."""

    file: Path
    digest: str  # of the function and of all that it uses, see `method_digest`; prose does not count
    parameters: tuple[str, ...]  # keyword parameters besides `epoch`
    required: frozenset[str]  # those without a default
    summary: str  # first line of its docstring
    strength: float | None = None  # default of the parameter of this name, of a method of the package


@dataclass(frozen=True)
class Registered:
    """A method of the package, as its entry in the registry says."""

    function: str
    title: str
    strength: float | None = None


def registered() -> dict[str, Registered]:
    """The methods of the package by name."""
    return _registry(_METHODS, stamp_of(_METHODS))


def method_source(name: str) -> MethodSource:
    """Read a method's function.

    Raises:
        InputError: there is no such method, module or function, or it cannot be called as a method.
    """
    if "." in name:
        module, _, function = name.rpartition(".")
        strength = None
        file = module_file(module)
    else:
        module, file = "fdl.methods.registry", _METHODS
        registry = registered()
        if name not in registry:
            raise InputError(f"methods: unknown {name!r}; {did_you_mean(name, registry)}")
        function, strength = registry[name].function, registry[name].strength
    try:
        parameters, required, summary = _signature(file, stamp_of(file), function)
        return MethodSource(file, method_digest(file, module, function), parameters, required, summary, strength)
    except InputError as error:
        raise InputError(f"methods: {name}: {error}") from None


@lru_cache
def _registry(file: Path, stamp: Stamp) -> dict[str, Registered]:
    [assignment] = read_module(file).definitions["ENTRIES"]
    methods = next(node for node in ast.walk(assignment) if isinstance(node, ast.Dict))
    entries = {}
    for key, value in zip(methods.keys, methods.values, strict=True):
        assert key is not None
        assert isinstance(value, ast.Call)
        function, *others = value.args
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in value.keywords if keyword.arg}
        entries[ast.literal_eval(key)] = Registered(ast.unparse(function), *map(ast.literal_eval, others), **named)
    return entries


@lru_cache
def _signature(file: Path, stamp: Stamp, function: str) -> tuple[tuple[str, ...], frozenset[str], str]:
    """The keyword parameters of a method's function besides `epoch`, those without a default, and its summary."""
    definitions = read_module(file).definitions
    node = definitions.get(function, [None])[-1]
    if not isinstance(node, ast.FunctionDef):
        functions = [name for name, nodes in definitions.items() if isinstance(nodes[-1], ast.FunctionDef)]
        raise InputError(f"{file.name} has no function {function!r}; {did_you_mean(function, functions)}")
    arguments = node.args
    keywords = [argument.arg for argument in arguments.kwonlyargs]
    if (
        len(arguments.posonlyargs + arguments.args) != 4
        or arguments.vararg
        or arguments.kwarg
        or "epoch" not in keywords
    ):
        raise InputError(f"{file.name}, line {node.lineno}: write it as def {function}{_SIGNATURE}")
    required = {name for name, default in zip(keywords, arguments.kw_defaults, strict=True) if default is None}
    summary = (ast.get_docstring(node) or "").partition("\n")[0]
    return tuple(name for name in keywords if name != "epoch"), frozenset(required - {"epoch"}), summary
