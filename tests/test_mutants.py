"""The runner of mutants: what it changes, and that its lists are of files and lines that exist."""

import re

import pytest

from tests.mutants import README, ROOT, TARGETS, mutants_of

MODULE = '''"""Words and 3 numbers."""
import math
RATE, TINY = 0.5, 1e-12

def share(a: int | None, b: float = -2, *, whole: bool = True) -> float:
    """1 + 1."""
    if a is None or b < 0:
        raise ValueError(f"{a + 1}")
    scores: list[int] = [max(a, 1)] * 2
    return not whole and math.floor(a / b**2)
'''


def test_numbers_operators_comparisons_and_pairs_are_changed_one_at_a_time(tmp_path):
    (tmp_path / "share.py").write_text(MODULE)
    mutants = mutants_of("share.py", tmp_path)
    changes = [
        ("RATE, TINY = 0.5, 1e-12", ["RATE, TINY = 0.55, 1e-12", "RATE, TINY = 0.5, 1e-09"]),
        (
            "def share(a: int | None, b: float = -2, *, whole: bool = True) -> float:",
            [
                "def share(a: int | None, b: float = -3, *, whole: bool = True) -> float:",
                "def share(a: int | None, b: float = -2, *, whole: bool = False) -> float:",
            ],
        ),
        (
            "if a is None or b < 0:",
            [
                "if (a is None and b < 0):",
                "if (a is not None) or b < 0:",
                "if a is None or (b <= 0):",
                "if a is None or b < 1:",
            ],
        ),
        (
            "scores: list[int] = [max(a, 1)] * 2",
            [
                "scores: list[int] = ([max(a, 1)] / 2)",
                "scores: list[int] = [min(a, 1)] * 2",
                "scores: list[int] = [max(a, 2)] * 2",
                "scores: list[int] = [max(a, 1)] * 3",
            ],
        ),
        (
            "return not whole and math.floor(a / b**2)",
            [
                "return (not whole or math.floor(a / b ** 2))",
                "return (whole) and math.floor(a / b**2)",
                "return not whole and math.ceil(a / b ** 2)",
                "return not whole and math.floor((a * b ** 2))",
                "return not whole and math.floor(a / (b * 2))",
                "return not whole and math.floor(a / b**3)",
            ],
        ),
    ]
    assert [(mutant.old, mutant.new) for mutant in mutants] == [(old, new) for old, news in changes for new in news]
    lines = MODULE.encode().splitlines()
    for mutant in mutants:
        changed = [number for number, line in enumerate(mutant.source.splitlines(), 1) if line != lines[number - 1]]
        assert changed == [mutant.line]
    assert [mutant.place for mutant in mutants[:3]] == ["", "", "share"]


@pytest.mark.parametrize("module", TARGETS)
def test_every_module_and_its_tests_exist(module):
    assert (ROOT / module).is_file()
    tests = [argument for argument in TARGETS[module] if argument.startswith("tests/")]
    assert tests
    assert all((ROOT / test).is_file() for test in tests)


def test_every_explained_mutant_is_still_one():
    explained = re.findall(r"(`(fdl/[\w/]+\.py)` [\w.]+: `[^`]+` → `[^`]+`)", README.read_text(encoding="utf-8"))
    names = {mutant.name for module in {path for _, path in explained} for mutant in mutants_of(module)}
    assert explained
    assert [name for name, _ in explained if name not in names] == []
