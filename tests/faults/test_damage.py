"""One flipped bit in a file that others rest on: the file is named, and what the message says to do repairs it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.faults.conftest import Call

RECORD = Path("results/demo/bsd/alexnet/3shot/fdl/seed0")
WEIGHTS, PREDICTIONS = RECORD / "weights-last.safetensors", RECORD / "predictions.npz"
SPLIT = Path("data/splits/local/bsd-32/3shot/draw0.json")
PREPARED = Path("data/prepared/local/bsd-32")


def flip(path: Path, position: int = -1) -> bytes:
    """Flip a bit of one byte; what the file was."""
    good = path.read_bytes()
    bad = bytearray(good)
    bad[position] ^= 1
    path.write_bytes(bad)
    return good


@pytest.mark.parametrize("path", [WEIGHTS, PREDICTIONS], ids=lambda path: path.name)
def test_a_damaged_record_is_not_collected_and_is_trained_again(drawn: Call, path: Path) -> None:
    drawn("run")
    good = flip(path)
    code, _, err = drawn("collect")
    assert code == 2
    assert "1 damaged (bsd/alexnet/3shot/fdl/seed0)" in err
    assert "`python -m fdl run --preset demo` trains just these" in err
    code, out, _ = drawn("run")
    assert code == 0
    assert f"{path}: differs from its hash in run.json" in out
    assert "cell 2 of 2" in out
    assert "cell 1 of 2" not in out
    assert path.read_bytes() == good
    assert drawn("collect")[0] == 0


def test_a_damaged_draw_is_named_and_drawn_again(drawn: Call) -> None:
    good = flip(SPLIT, len(SPLIT.read_bytes()) // 2)
    code, _, err = drawn("run")
    assert code == 2
    assert err.startswith(f"fdl: {SPLIT}: damaged")
    assert "delete it and run `python -m fdl split`" in err
    SPLIT.unlink()
    drawn("split")
    assert SPLIT.read_bytes() == good
    assert drawn("run")[0] == 0


@pytest.mark.parametrize("name", ["images.npy", "index.npz"])
def test_damaged_prepared_images_are_named_and_prepared_again(drawn: Call, name: str) -> None:
    drawn("run")
    expected = json.loads((RECORD / "run.json").read_bytes())["data"]["hash"]
    shutil.rmtree("results")
    path = PREPARED / name
    flip(path, path.stat().st_size // 2)
    code, _, err = drawn("run")
    assert code == 2
    assert str(PREPARED) in err
    assert len(err.splitlines()) == 1
    assert "python -m fdl data prepare" in err
    shutil.rmtree(PREPARED)
    assert drawn("data", "prepare")[0] == 0
    assert drawn("run")[0] == 0
    assert json.loads((RECORD / "run.json").read_bytes())["data"]["hash"] == expected
