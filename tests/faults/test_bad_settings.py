"""params.yaml as it looks after a slip of the hand: settings that are used, or one line that says what is wrong."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.conftest import Call
from tests.projects import ROOT

TEXT = (ROOT / "params.yaml").read_text()
FILE = yaml.safe_load(TEXT)
WORDS = [
    "neu",
    "fdl",
    "null",
    "~",
    "true",
    "-",
    ":",
    "{",
    "]",
    "#",
    "\t",
    "\n",
    " ",
    "0",
    "-1",
    "1e999",
    ".nan",
    "'",
    "&a",
    "*a",
]
VALUES: st.SearchStrategy[object] = st.sampled_from(
    [None, True, -1, 0, 3, 1e30, float("nan"), "", "neu", "; rm -rf /", [], {}, [[]], {"a": 1}, ["neu", "neu"]]
)


@st.composite
def misspelt(draw: st.DrawFn) -> str:
    """The file with a few letters deleted, doubled or replaced."""
    text = TEXT
    for _ in range(draw(st.integers(1, 3))):
        place, length = draw(st.integers(0, len(text) - 1)), draw(st.integers(0, 12))
        text = text[:place] + draw(st.sampled_from(["", *WORDS])) + text[place + length :]
    return text


@st.composite
def misunderstood(draw: st.DrawFn) -> str:
    """The file with a key deleted, renamed, moved to another block, or of another value."""
    content: dict[str, Any] = copy.deepcopy(FILE)
    blocks = [content, content["overrides"], *content["presets"].values()]
    for _ in range(draw(st.integers(1, 3))):
        block = draw(st.sampled_from(blocks))
        key = draw(st.sampled_from(sorted(block) or ["epochs"]))
        match draw(st.sampled_from(["delete", "rename", "move", "change"])):
            case "delete":
                block.pop(key, None)
            case "rename":
                block[key[:-1]] = block.pop(key, None)
            case "move":
                draw(st.sampled_from(blocks))[key] = copy.deepcopy(block.get(key))
            case _:
                block[key] = draw(VALUES)
    return str(yaml.safe_dump(content))


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(misspelt() | misunderstood())
def test_any_slip_is_one_line_or_settings(fdl: Call, text: str) -> None:
    Path("params.yaml").write_text(text)
    code, out, err = fdl("split")
    assert code == 2  # nothing is prepared here: settings that are right end there
    assert out == ""
    assert err.startswith("fdl: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "slip", [("epochs: null", "epoch: null"), ("preset: demo", "preset: demo:"), ("batch_size: 10", "batch_size: ten")]
)
def test_the_same_in_a_process_of_its_own(project: Path, slip: tuple[str, str]) -> None:
    Path("params.yaml").write_text(TEXT.replace(*slip, 1))
    done = subprocess.run(
        [sys.executable, "-m", "fdl", "run"], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fdl: params.yaml: ")
    assert len(done.stderr.splitlines()) == 1
