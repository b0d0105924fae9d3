"""Killed trainings: they go on, and end with the same bits."""

import itertools
import os
import random
import signal
import subprocess
import sys

import pytest
import torch

from fdl.training import checkpoint as module
from fdl.training.checkpoint import Checkpoint, Interrupted, signals_wait_for_the_epoch
from fdl.training.engine import train
from tests.projects import ROOT
from tests.training import cells

SETTINGS = {"epochs": 6, "evaluate_every": 1, "selections": ["sum", "own", "last"], "bn_statistics": "reestimate"}


class Killed(BaseException):
    """A stand-in for SIGKILL: no code catches it."""


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0)


def run(settings, data, checkpoint=None, kill_after=None):
    """Train; raise `Killed` after the given number of epochs of this attempt."""
    lines = []

    def progress(line):
        lines.append(line)
        if kill_after is not None and len(lines) > kill_after:
            raise Killed

    return train(settings, data, device="cpu", progress=progress, checkpoint=checkpoint)


def same(first, second):
    """Whether two trainings left the same bits."""
    if (first.history, first.selected, first.validated) != (second.history, second.selected, second.validated):
        return False
    pairs = [
        (a[name], b[name])
        for rule in first.states
        for a, b in zip(first.states[rule], second.states[rule], strict=True)
        for name in a
    ]
    pairs += zip(first.validation_correct, second.validation_correct, strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("backbone", "method"), [("alexnet", "fdl"), ("vgg", "classical"), ("resnet", "fdl")])
def test_a_training_killed_in_every_epoch_ends_with_the_same_bits(tmp_path, backbone, method):
    settings, data = cells.settings(backbone=backbone, method=method, **SETTINGS), cells.data()
    undisturbed = run(settings, data)
    checkpoint, kills = Checkpoint(tmp_path / "cell", say=lambda line: None), 0
    while True:
        try:
            resumed = run(settings, data, checkpoint, kill_after=2 if kills else 1)
            break
        except Killed:
            kills += 1
    assert kills >= 3
    assert same(undisturbed, resumed)


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "other": lambda _: b"x",
    "a flipped bit": lambda content: flipped(content, len(content) // 2, 3),
    "without its hash": lambda content: content[:-32],
}


def flipped(content, byte, bit):
    """The content with one bit flipped."""
    return content[:byte] + bytes([content[byte] ^ (1 << bit)]) + content[byte + 1 :]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_costs_the_cell_a_fresh_start(tmp_path, damage):
    settings, data = cells.settings(**SETTINGS), cells.data()
    said = []
    checkpoint = Checkpoint(tmp_path, say=said.append)
    with pytest.raises(Killed):
        run(settings, data, checkpoint, kill_after=3)
    file = checkpoint.folder / "checkpoint.pt"
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    assert same(run(settings, data, checkpoint), run(settings, data))
    assert "damaged" in said[0]


@pytest.mark.parametrize("corruptions", [60])
def test_no_corrupted_checkpoint_is_loaded(tmp_path, corruptions):
    """One flipped bit, a byte of another value, or a stretch of zeros, anywhere in the file."""
    said, chance = [], random.Random(0)
    checkpoint = Checkpoint(tmp_path, say=said.append)
    checkpoint.save({"weights": torch.rand(64, 8), "epoch": 3, "history": [{"loss": 1.5}]})
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    assert checkpoint.load()["epoch"] == 3
    for number in range(corruptions):
        place = chance.randrange(len(whole))
        content = flipped(whole, place, chance.randrange(8))
        if number % 3 == 1:
            content = flipped(content, place, chance.randrange(8))
        if number % 3 == 2:
            content = whole[:place] + bytes(len(whole[place : place + 40])) + whole[place + 40 :]
        if content == whole:
            continue
        (tmp_path / "checkpoint.pt").write_bytes(content)
        said.clear()
        assert checkpoint.load() is None
        assert "damaged" in said[0]


def test_a_checkpoint_constructs_nothing_but_tensors(tmp_path):
    """A file that runs code when it is unpickled is refused, even with the hash that belongs to it."""

    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'bomb'}",))

    said = []
    checkpoint = Checkpoint(tmp_path, say=said.append)
    checkpoint.save({"epoch": Bomb()})
    assert checkpoint.load() is None
    assert "UnpicklingError" in said[0]
    assert not (tmp_path / "bomb").exists()


def test_a_full_disk_is_said_once_and_stops_no_training(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    settings, data = cells.settings(**SETTINGS), cells.data()
    said = []
    monkeypatch.setattr(module.os, "replace", full)
    assert same(run(settings, data, Checkpoint(tmp_path, say=said.append)), run(settings, data))
    assert len(said) == 1
    assert "going on without checkpoints" in said[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("seconds", "next_after"), [(1.0, 60), (3.0, 150)])
def test_a_large_checkpoint_is_written_so_seldom_that_it_takes_two_percent(tmp_path, monkeypatch, seconds, next_after):
    now, saved = [0.0], []
    monkeypatch.setattr(module, "SECONDS", 60.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path)

    def save(state, stage):
        saved.append(now[0])
        now[0] += seconds

    monkeypatch.setattr(checkpoint, "save", save)
    for _ in range(400):
        checkpoint.epoch_end(dict)
        now[0] += 1
    assert saved[0] == 60
    waited = [after - before - seconds for before, after in itertools.pairwise(saved)]
    assert waited == [next_after] * len(waited)
    assert seconds / (seconds + next_after) < 0.02


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_epoch_and_its_checkpoint(tmp_path, monkeypatch, number):
    monkeypatch.setattr(module, "SECONDS", 3600)
    settings, data = cells.settings(**SETTINGS), cells.data()
    checkpoint, before = Checkpoint(tmp_path), signal.getsignal(number)
    epochs = []

    def progress(line):
        epochs.append(line)
        if len(epochs) == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=number.name), signals_wait_for_the_epoch():
        train(settings, data, device="cpu", progress=progress, checkpoint=checkpoint)
    assert len(epochs) == 2
    assert signal.getsignal(number) is before
    assert same(run(settings, data, checkpoint), run(settings, data))


def test_sigkill_of_the_whole_process(tmp_path):
    """The real thing: the process is killed from outside, twice, while it trains."""
    code = """
import sys, torch
from pathlib import Path
from fdl.training import checkpoint
from fdl.training.engine import train
from tests.training import cells
torch.set_num_threads(1)
checkpoint.SECONDS = 0
settings = cells.settings(epochs=40, method="fdl")
trained = train(settings, cells.data(), device="cpu", progress=lambda line: print(line, flush=True),
                checkpoint=checkpoint.Checkpoint(Path("cell")))
torch.save([trained.history, trained.states["last"]], "trained.pt")
"""
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for lines in (4, 9):
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(lines):
                assert process.stdout.readline()
            process.kill()
        assert process.returncode == -signal.SIGKILL
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    history, states = torch.load(tmp_path / "trained.pt", weights_only=True)
    undisturbed = run(cells.settings(epochs=40, method="fdl"), cells.data())
    assert history == undisturbed.history
    for a, b in zip(states, undisturbed.states["last"], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
