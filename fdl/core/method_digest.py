"""Digest of a method: of its function and of all that it uses in its module, in `fdl`, and in the project folder.

Nothing is imported or run: a module is read as a syntax tree. Prose does not count (comments, docstrings), nor do
installed packages, whose versions are in a record's provenance. What a module looks up by a name that is made
at run time (`importlib.import_module(name)`, `getattr`) cannot be seen.
"""

import ast
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

from fdl.core.errors import InputError, one_line

_PACKAGE = Path(__file__).parents[1]
# Records of the registered methods that use the distance loss were written when the digest covered the method's
# own module alone. Their loss is the one that has this digest: as long as it has, the method keeps the digest that
# the records name. An edited loss has another digest, which is used as it is.
_AS_RECORDED = {
    "cbe67ef4793acb6a": "f88aa08321b88543",  # fdl
    "0efb2499e6db9543": "e1270a4d1dcac794",  # fdl-cosine
    "ae6ec89193a63919": "ee22940003a3bad8",  # fdl-gaussian
}
Stamp = tuple[int, int]


@dataclass(frozen=True)
class Module:
    """The text of a module."""

    file: Path
    definitions: dict[str, list[ast.stmt]]  # the statements of its top level that define each name
    imports: dict[str, tuple[str, str | None]]  # local name → module, and what of it; None: the module itself
    stars: tuple[str, ...]  # modules of which everything is imported
    statements: tuple[ast.stmt, ...]  # all of its top level


def module_file(module: str) -> Path:
    """The file that importing a module would read, found without running any of its packages.

    Raises:
        InputError: there is none, or it is not written in Python.
    """
    ours = module.partition(".")[0] == _PACKAGE.name  # the package that runs, wherever it was started
    path = [str(_PACKAGE.parent)] if ours else [os.getcwd(), *sys.path]
    for part in module.split("."):
        spec = PathFinder.find_spec(part, path)
        if spec is None:
            file = module.replace(".", "/") + ".py"
            raise InputError(f"methods: no module {module!r}: put {file} into {os.getcwd()}")
        path = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError(f"methods: module {module!r} has no Python source to read; name a .py file")
    return Path(spec.origin)


def stamp_of(file: Path) -> Stamp:
    """Changes when a file is edited: what was read of it is kept until then."""
    try:
        status = file.stat()
    except OSError as error:
        raise InputError(f"methods: {file} cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_size


def read_module(file: Path, name: str = "") -> Module:
    """Read a module.

    Args:
        file: its file.
        name: its dotted name, to which its relative imports refer.

    Raises:
        InputError: the file cannot be read, or is not Python.
    """
    return _read_module(file, stamp_of(file), name)


@lru_cache
def _read_module(file: Path, stamp: Stamp, name: str) -> Module:
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise InputError(f"{file.name} is not Python: line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file.name} cannot be read: {one_line(error)}") from None
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    definitions: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for defined in _defined(statement):
            definitions.setdefault(defined, []).append(statement)
    outside = [statement for statement in tree.body if not isinstance(statement, ast.FunctionDef | ast.ClassDef)]
    imports, stars = _imports(outside, package)
    return Module(file, definitions, imports, tuple(stars), tuple(tree.body))


def _defined(statement: ast.stmt) -> set[str]:
    named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    if isinstance(statement, named):
        return {statement.name}
    parts = list(ast.walk(statement))  # an assignment, or a block with some inside
    stored = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return stored | {part.name for part in parts if isinstance(part, named)}


def _imports(statements: Iterable[ast.stmt], package: str) -> tuple[dict[str, tuple[str, str | None]], list[str]]:
    """What statements import, also inside blocks and functions: by local name, and the modules taken whole."""
    names: dict[str, tuple[str, str | None]] = {}
    stars: list[str] = []
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds `a`; what is used of it is `a.b`.
                names[alias.asname or alias.name.partition(".")[0]] = alias.name, None
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                if alias.name == "*":
                    stars.append(module)
                else:
                    names[alias.asname or alias.name] = module, alias.name
    return names, stars


_DIGESTS: dict[tuple[object, ...], tuple[dict[Path, Stamp], str]] = {}


def method_digest(file: Path, module: str, function: str) -> str:
    """Digest of a method.

    Args:
        file, module: where its function is written.
        function: its name there.

    Raises:
        InputError: a module that it uses cannot be read.
    """
    # Kept until one of the files changes: the settings of a large grid ask thousands of times.
    key = (file, module, function, os.getcwd(), tuple(sys.path))
    stamps, digest = _DIGESTS.get(key, ({}, ""))
    if not stamps or any(stamp_of(read) != stamp for read, stamp in stamps.items()):
        reader = _Reader()
        digest = reader.digest(read_module(file, module), function)
        _DIGESTS[key] = {read: stamp_of(read) for read in reader.files}, digest
    return digest


class _Reader:
    """Walks from a function through all that it uses."""

    def __init__(self) -> None:
        self.files: dict[Path, None] = {}
        self._seen: set[tuple[Path, str]] = set()

    def digest(self, module: Module, function: str) -> str:
        own = self._used(module, [function])
        text = "".join(_text(statement) for statement in own)
        others = "".join(_plain(statement) for statement in self._elsewhere(module, own))
        if not others:
            return hashlib.sha256(text.encode()).hexdigest()[:16]
        digest = hashlib.sha256(f"{text}\n{others}".encode()).hexdigest()[:16]
        return _AS_RECORDED.get(digest, digest)

    def _used(self, module: Module, names: list[str]) -> list[ast.stmt]:
        """The statements of a module that define these names and what they use of it, at any depth."""
        self.files[module.file] = None
        used = list(names)
        for name in used:  # grows while it is walked
            self._seen.add((module.file, name))
            nodes = [part for statement in module.definitions[name] for part in ast.walk(statement)]
            ids = {part.id for part in nodes if isinstance(part, ast.Name)}
            used += sorted(ids & module.definitions.keys() - set(used))
        return list(dict.fromkeys(statement for name in used for statement in module.definitions[name]))

    def _elsewhere(self, module: Module, statements: list[ast.stmt]) -> Iterator[ast.stmt]:
        """The statements of other modules of the project that these of a module use, at any depth."""
        package = _package(module)
        inside, inner_stars = _imports(statements, package)
        imports = module.imports | inside
        ids = {part.id for statement in statements for part in ast.walk(statement) if isinstance(part, ast.Name)}
        for name in sorted(ids & imports.keys()):
            yield from self._imported(*imports[name])
        for star in dict.fromkeys((*module.stars, *inner_stars)):
            yield from self._imported(star, None)

    def _imported(self, name: str, attribute: str | None) -> Iterator[ast.stmt]:
        file = _project_file(name)
        if file is None:
            return
        module = read_module(file, name)
        if attribute is None:
            yield from self._whole(module)
        elif attribute in module.definitions:
            if (file, attribute) not in self._seen:
                statements = self._used(module, [attribute])
                yield from statements
                yield from self._elsewhere(module, statements)
        elif attribute in module.imports:  # passed on
            self.files[file] = None
            yield from self._imported(*module.imports[attribute])
        elif _project_file(f"{name}.{attribute}"):
            yield from self._imported(f"{name}.{attribute}", None)
        else:  # made when it is asked for
            yield from self._whole(module)

    def _whole(self, module: Module) -> Iterator[ast.stmt]:
        if (module.file, "") in self._seen:
            return
        self._seen.add((module.file, ""))
        self.files[module.file] = None
        statements = [s for s in module.statements if not isinstance(s, ast.Import | ast.ImportFrom)]
        yield from statements
        yield from self._elsewhere(module, statements)


def _package(module: Module) -> str:
    """What relative imports inside functions refer to: the dotted path of the module's folder below the project."""
    for root in (Path.cwd(), _PACKAGE.parent):
        if module.file.is_relative_to(root):
            return ".".join(module.file.parent.relative_to(root).parts)
    return ""


def _project_file(module: str) -> Path | None:
    """The file of a module of `fdl` or of the project folder; None for installed ones and what is not Python."""
    try:
        file = module_file(module)
    except InputError:
        return None
    if file.is_relative_to(_PACKAGE):
        return file
    installed = file.is_relative_to(sys.prefix) or file.is_relative_to(sys.base_prefix) or "site-packages" in file.parts
    return file if file.is_relative_to(Path.cwd()) and not installed else None


def _text(statement: ast.stmt) -> str:
    """A statement of the method's own module."""
    if not isinstance(statement, ast.FunctionDef):
        return _dump(statement)
    body = statement.body[1:] if ast.get_docstring(statement) else statement.body
    return "".join(_dump(part) for part in [statement.args, *body, *statement.decorator_list])


def _dump(node: ast.AST) -> str:
    if sys.version_info >= (3, 13):  # where empty lists are left out unless asked for: other digests
        return ast.dump(node, show_empty=True)
    return ast.dump(node)


def _plain(node: object) -> str:
    """A statement of another module: the same text in every version of Python, without docstrings."""
    if isinstance(node, list):
        return f"[{','.join(map(_plain, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    fields = dict(ast.iter_fields(node))
    if isinstance(node, documented) and ast.get_docstring(node) is not None:
        fields["body"] = fields["body"][1:]
    inner = ",".join(f"{name}={_plain(value)}" for name, value in fields.items() if value is not None and value != [])
    return f"{type(node).__name__}({inner})"
