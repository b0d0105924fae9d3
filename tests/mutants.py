"""Breaks the code once in each of many places and counts how often the nearest tests notice: `make mutants`.

A mutant is a copy of the code in which one number, one operator, one comparison or one function name of the kind
min/max is another one. The modules below are those that compute a number of the report. tests/README.md says how
to read the output, and explains the mutants that no test can notice.

Every mutant is a fork of one process that has imported the libraries, because importing torch takes ten times as
long as the tests of a module. The working tree is copied first and is never touched.
"""

import argparse
import ast
import compileall
import contextlib
import gc
import importlib.util
import os
import py_compile
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md")
COPIED = ("fdl", "tests", "workflow", "params.yaml", "pyproject.toml")
SLOWEST = 3.0  # times as long as the tests of the unchanged module, and 20 seconds: an endless loop is noticed, too

# Each module and the tests nearest to it, quick ones first: the first failure ends a mutant.
TARGETS: dict[str, tuple[str, ...]] = {
    "fdl/methods/losses.py": ("tests/methods/test_losses.py",),
    "fdl/training/selection.py": ("tests/training/test_selection.py",),
    "fdl/training/augment.py": ("tests/training/test_augment.py",),
    "fdl/training/batchnorm.py": ("tests/training/test_batchnorm.py",),
    "fdl/training/adam.py": ("tests/training/test_adam.py",),
    "fdl/core/randomness.py": ("tests/core/test_randomness.py",),
    "fdl/models/layers.py": ("tests/models/test_models.py",),
    "fdl/models/alexnet.py": ("tests/models/test_models.py",),
    "fdl/models/vgg.py": ("tests/models/test_models.py",),
    "fdl/models/resnet.py": ("tests/models/test_models.py",),
    "fdl/training/heads.py": ("tests/training/test_heads.py",),
    "fdl/evaluation/voting.py": ("tests/evaluation/test_voting.py",),
    "fdl/results/scoring.py": (
        *("tests/results/test_scoring.py", "tests/evaluation/test_voting.py", "tests/results/test_rescoring.py"),
    ),
    "fdl/data/splits.py": ("tests/data/test_splits.py",),
    "fdl/data/pools.py": ("tests/data/test_pools.py",),
    "fdl/evaluation/metrics.py": (
        *("tests/evaluation/test_metrics.py", "tests/results/test_measures.py", "tests/results/test_scoring.py"),
        "tests/reporting/test_tables.py",
    ),
    "fdl/evaluation/diversity.py": (
        *("tests/evaluation/test_diversity.py", "tests/results/test_measures.py", "tests/results/test_scoring.py"),
        "tests/reporting/test_diversity_table.py",
    ),
    "fdl/evaluation/distance_meter.py": ("tests/evaluation/test_diversity.py",),
    "fdl/evaluation/overlap.py": ("tests/evaluation/test_cam.py", "tests/results/test_measures.py"),
    "fdl/evaluation/cam.py": ("tests/evaluation/test_cam.py",),
    "fdl/evaluation/statistics.py": ("tests/evaluation/test_statistics.py",),
    "fdl/results/measures.py": ("tests/results/test_measures.py",),
    "fdl/results/collect.py": ("tests/results/test_collect.py",),
    "fdl/core/protocol.py": ("tests/core/test_protocol.py",),
    "fdl/core/head_settings.py": ("tests/core/test_head_settings.py", "tests/core/test_protocol.py"),
}
# What these tests import, once for all mutants.
LIBRARIES = (
    *("numpy", "scipy.special", "pandas", "pyarrow.parquet", "sklearn.metrics", "sklearn.model_selection", "h5py"),
    *("torch", "torch._dynamo", "torch.testing", "torchvision", "torchmetrics.functional.classification"),
    *("captum.attr", "cv2", "PIL.Image", "hypothesis.strategies", "pydantic", "yaml", "filelock", "pytest", "rich"),
)


@dataclass(frozen=True)
class Mutant:
    """One change to one module."""

    path: str
    place: str  # function or class around it; "" at the top of the module
    line: int
    old: str  # the line as it stands, without indentation
    new: str  # the same line with the change, or the start of the lines that take its place
    source: bytes  # of the whole changed module

    @property
    def name(self) -> str:
        """How lists and tests/README.md call it: no line number, which would change with every edit."""
        return f"`{self.path}` {self.place or 'module'}: `{self.old}` → `{self.new}`"


_OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_PAIRS = ("min max", "amin amax", "argmin argmax", "floor ceil", "any all", "sin cos", "minimum maximum", "sum mean")
_NAMES = {a: b for pair in _PAIRS for a, b in (pair.split(), pair.split()[::-1])}


def mutants_of(path: str, root: Path = ROOT) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    source = (root / path).read_bytes()
    mutants = []
    for node, text, place in _replacements(ast.parse(source)):
        changed = _replaced(source, node, text)
        ast.parse(changed)
        line = node.lineno - 1
        old, new = (lines.splitlines()[line].decode().strip() for lines in (source, changed))
        mutants.append(Mutant(path, place, line + 1, old, new, changed))
    return mutants


def _replaced(source: bytes, node: ast.expr | ast.stmt, text: str) -> bytes:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
    return source[:start] + text.encode() + source[end:]


def _replacements(node: ast.AST, place: str = "") -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    """Nodes of a tree, what takes their place, and the function around them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            continue  # messages, and what mypy is told
        if isinstance(child, ast.keyword) and child.arg in ("strict", "frozen", "inplace"):
            continue  # guards against mistakes of who writes the code, and what saves memory
        inside = place
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inside = f"{place}.{child.name}".lstrip(".")
        if isinstance(child, ast.expr | ast.stmt):
            yield from ((child, text, inside) for text in _changes(child))
        if isinstance(child, ast.UnaryOp) and isinstance(child.operand, ast.Constant):
            continue  # a negative number is one number
        for part in _without_annotations(child):
            yield from _replacements(part, inside)


def _without_annotations(node: ast.AST) -> list[ast.AST]:
    """The node, or its parts that are not types."""
    if isinstance(node, ast.AnnAssign):
        return [ast.Expr(node.value)] if node.value else []
    if isinstance(node, ast.FunctionDef):
        defaults = [default for default in (*node.args.defaults, *node.args.kw_defaults) if default]
        return [*map(ast.Expr, [*defaults, *node.decorator_list]), ast.Module(node.body, [])]
    return [node]


def _changes(node: ast.AST) -> Iterator[str]:
    """Texts that may stand for a node instead of its own."""
    match node:
        case ast.Constant(bool() as value):
            yield str(not value)
        case ast.Constant(int() | float() as value):
            yield repr(_other(value))
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            yield f"-{_other(value)!r}"
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert(), operand):
            yield f"({ast.unparse(operand)})"
        case ast.BinOp(left, operator, right):
            yield f"({ast.unparse(ast.BinOp(left, _OPERATORS[type(operator)](), right))})"
        case ast.AugAssign(target, operator, value):
            yield ast.unparse(ast.AugAssign(target, _OPERATORS[type(operator)](), value))
        case ast.BoolOp(operator, values):
            yield f"({ast.unparse(ast.BoolOp(_OPERATORS[type(operator)](), values))})"
        case ast.Compare(left, operators, others):
            for index, comparison in enumerate(operators):
                changed = [*operators[:index], _OPERATORS[type(comparison)](), *operators[index + 1 :]]
                yield f"({ast.unparse(ast.Compare(left, changed, others))})"
        case ast.Call(ast.Name("min" | "max" | "any" | "all" as name), arguments, keywords):
            yield ast.unparse(ast.Call(ast.Name(_NAMES[name]), arguments, keywords))
        case ast.Call(ast.Attribute(value, name), arguments, keywords) if name in _NAMES:
            yield ast.unparse(ast.Call(ast.Attribute(value, _NAMES[name]), arguments, keywords))


def _other(value: float) -> float:
    """A number close to this one: the next integer, a tenth more, or of a very small one a thousand times as much."""
    if isinstance(value, int) or value == 0:
        return value + 1
    return float(f"{value * (1000 if 0 < abs(value) < 1e-4 else 1.1):.6g}")


def main() -> int:
    """Run the mutants; 1 if one survives without an explanation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="such as fdl/methods/losses.py; none: all that stand in TARGETS")
    parser.add_argument("--most", type=int, default=40, help="mutants per module, drawn; 0: all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default %(default)s)")
    parser.add_argument("--list", action="store_true", help="only show the mutants")
    options = parser.parse_args()
    if unknown := [module for module in options.modules if module not in TARGETS]:
        parser.error(f"no tests stand in TARGETS for {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the copy is deleted and the fork ended as after Ctrl-C
    explained = README.read_text(encoding="utf-8")
    total = noticed = unexplained = 0
    with tempfile.TemporaryDirectory(prefix="fdl-mutants-") as folder:
        copy = Path(folder)
        for path in options.modules or TARGETS:
            mutants = mutants_of(path)
            if 0 < options.most < len(mutants):
                places = sorted(random.Random(f"{options.seed} {path}").sample(range(len(mutants)), options.most))
                mutants = [mutants[place] for place in places]
            total += len(mutants)
            if options.list:
                print(*(f"{mutant.line}: {mutant.name}" for mutant in mutants), sep="\n")
                continue
            if not (copy / "fdl").exists():
                _prepare(copy)
            survivors = _survivors(path, mutants, copy)
            new = [mutant for mutant in survivors if mutant.name not in explained]
            for mutant in new:
                print(f"  survived, line {mutant.line}: {mutant.name}", flush=True)
            noticed, unexplained = noticed + len(mutants) - len(survivors), unexplained + len(new)
    if not options.list:
        rest = f"{total - noticed - unexplained} survived as {README.name} explains, {unexplained} survived"
        print(f"{total} mutants: {noticed} noticed, {rest}")
    return 1 if unexplained else 0


def _prepare(copy: Path) -> None:
    """A copy of the code, and the libraries imported."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    # Known by their content: the mutants of a module may have one size and one second of writing.
    compileall.compile_dir(copy, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # half of a mutant's time
    sys.path[0] = str(copy)  # instead of the working tree
    sys.modules.pop("tests", None)
    os.chdir(copy)
    fdl = importlib.util.find_spec("fdl")
    assert fdl is not None
    assert fdl.origin == str(copy / "fdl" / "__init__.py")
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # pytest collects garbage three times per run: not that of the libraries


def _survivors(path: str, mutants: list[Mutant], copy: Path) -> list[Mutant]:
    """The mutants of one module that its tests do not notice."""
    original = (copy / path).read_bytes()
    started = time.monotonic()
    if not _passes(TARGETS[path], 600):
        print(Path("output.txt").read_text(), file=sys.stderr)
        raise SystemExit(f"{path}: its tests fail without any change: {' '.join(TARGETS[path])}")
    limit = SLOWEST * (time.monotonic() - started) + 20
    survivors = []
    for mutant in mutants:
        (copy / path).write_bytes(mutant.source)
        if _passes(TARGETS[path], limit):
            survivors.append(mutant)
    (copy / path).write_bytes(original)
    seconds = time.monotonic() - started
    print(f"{path}: {len(mutants) - len(survivors)} of {len(mutants)} noticed, {seconds:.0f} s", flush=True)
    return survivors


def _passes(tests: tuple[str, ...], limit: float) -> bool:
    """Whether these tests pass, in a fork of this process and within `limit` seconds."""
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with open("output.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        import pytest

        # Hypothesis with the same examples every time; it was imported too early for pytest's liking.
        hypothesis = ["-p", "_hypothesis_pytestplugin", "--hypothesis-profile=ci"]
        quiet = ["-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
        status = pytest.main(["-x", *quiet, *hypothesis, *tests])
        sys.stdout.flush()
        os._exit(int(status))
    deadline = time.monotonic() + limit
    try:
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status == 0
            time.sleep(0.05)
        return False
    finally:
        _end(child)


def _end(child: int) -> None:
    """End a fork and what its tests have started, if they are not gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


if __name__ == "__main__":
    sys.exit(main())
