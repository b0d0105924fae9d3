"""Where a method's function is written and what its text says, without importing it.

Snakemake asks for digests and parameters every time it parses the workflow, where torch must not be
imported and a user's module must not run. A method is one of the registry of `methods.py`, or the
user's own, `module.function`: a module of the project folder, or an installed one.
"""

import ast
import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

from fdl.errors import InputError

_METHODS = Path(__file__).with_name("methods.py")
_SIGNATURE = "(maps, logits, inputs, labels, *, epoch, ...)"


@dataclass(frozen=True)
class MethodSource:
    """What the text of a method's function says."""

    file: Path
    digest: str  # of the function and what it uses of its module; prose does not count
    parameters: tuple[str, ...]  # keyword parameters besides `epoch`
    required: frozenset[str]  # those without a default


def method_source(name: str) -> MethodSource:
    """Read a method's function.

    Raises:
        InputError: there is no such method, module or function, or it cannot be called as a method.
    """
    if "." in name:
        module, _, function = name.rpartition(".")
        file = _module_file(module)
    else:
        file = _METHODS
        registry = _registry(file, _stamp(file))
        if name not in registry:
            raise InputError(f"methods: unknown {name!r}; {_hint(name, registry)}")
        function = registry[name]
    try:
        return _read(file, _stamp(file), function)
    except InputError as error:
        raise InputError(f"methods: {name}: {error}") from None


def _module_file(module: str) -> Path:
    """The file that importing a module would read, found without running any of its packages."""
    path = [os.getcwd(), *sys.path]
    for part in module.split("."):
        spec = PathFinder.find_spec(part, path)
        if spec is None:
            file = module.replace(".", "/") + ".py"
            raise InputError(f"methods: no module {module!r}: put {file} into {os.getcwd()}")
        path = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError(f"methods: module {module!r} has no Python source to read; name a .py file")
    return Path(spec.origin)


def _stamp(file: Path) -> tuple[int, int]:
    """Changes when a file is edited: what was read of it is kept until then."""
    try:
        status = file.stat()
    except OSError as error:
        raise InputError(f"methods: {file} cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_size


@lru_cache
def _definitions(file: Path, stamp: tuple[int, int]) -> dict[str, list[ast.stmt]]:
    """The statements of a module's top level that define each name; what it imports is no part of it."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise InputError(f"{file.name} is not Python: line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file.name} cannot be read: {' '.join(str(error).split())}") from None
    definitions: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _defined(statement):
            definitions.setdefault(name, []).append(statement)
    return definitions


def _defined(statement: ast.stmt) -> set[str]:
    named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    if isinstance(statement, named):
        return {statement.name}
    parts = list(ast.walk(statement))  # an assignment, or a block with some inside
    stored = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return stored | {part.name for part in parts if isinstance(part, named)}


@lru_cache
def _registry(file: Path, stamp: tuple[int, int]) -> dict[str, str]:
    """Method → function, as the dictionary `METHODS` of methods.py says."""
    [assignment] = _definitions(file, stamp)["METHODS"]
    methods = next(node for node in ast.walk(assignment) if isinstance(node, ast.Dict))
    return {
        ast.literal_eval(key): ast.unparse(value)
        for key, value in zip(methods.keys, methods.values, strict=True)
        if key is not None
    }


@lru_cache
def _read(file: Path, stamp: tuple[int, int], function: str) -> MethodSource:
    definitions = _definitions(file, stamp)
    node = definitions.get(function, [None])[-1]
    if not isinstance(node, ast.FunctionDef):
        functions = [name for name, found in definitions.items() if isinstance(found[-1], ast.FunctionDef)]
        raise InputError(f"{file.name} has no function {function!r}; {_hint(function, functions)}")
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
    return MethodSource(
        file,
        _digest(definitions, function),
        tuple(name for name in keywords if name != "epoch"),
        frozenset(required - {"epoch"}),
    )


def _digest(definitions: dict[str, list[ast.stmt]], function: str) -> str:
    """Digest of a function and of the functions, classes and values of its module that it uses, at any depth.

    Docstrings and comments do not count: editing prose retrains nothing.
    """
    used = [function]
    for name in used:  # grows while it is walked
        parts = [part for statement in definitions[name] for part in ast.walk(statement)]
        names = {part.id for part in parts if isinstance(part, ast.Name)}
        used += sorted(names & definitions.keys() - set(used))
    statements = dict.fromkeys(statement for name in used for statement in definitions[name])
    text = "".join(_text(statement) for statement in statements)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(statement: ast.stmt) -> str:
    if not isinstance(statement, ast.FunctionDef):
        return _dump(statement)
    body = statement.body[1:] if ast.get_docstring(statement) else statement.body
    return "".join(_dump(part) for part in [statement.args, *body, *statement.decorator_list])


def _dump(node: ast.AST) -> str:
    if sys.version_info >= (3, 13):  # where empty lists are left out unless asked for: other digests
        return ast.dump(node, show_empty=True)
    return ast.dump(node)


def _hint(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}"
