"""Checkpoints: a training that is killed resumes, and ends with the same bits as one that never stopped.

Random numbers depend on the epoch but on no other state (`fdl.core.randomness`), so a checkpoint holds weights,
moments, the best states so far and the history. It ends with the SHA-256 of its content, so that a damaged file is
detected and never loaded.
"""

import hashlib
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import torch

from fdl.core.console import Say
from fdl.core.errors import one_line
from fdl.results.unfinished import ProgressFile

SECONDS = 60.0  # shortest interval between two checkpoints
_HASH = hashlib.sha256().digest_size  # bytes at the end of a checkpoint
CHEAP = 1.2  # seconds, 2 % of SECONDS; if writing takes n times as long, the interval is n times as long, too


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived; the checkpoint is written."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}; run the same command again to go on")
        self.number = number


class Checkpoint:
    """The state of one cell in training, and its finished parts, in files below `scratch/`.

    Each file holds a stage: "checkpoint" (the state between two epochs), "trained" or "diverged" (the finished
    training), and others for programs of several cells (`fdl.training.together`) and for heads.

    Args:
        folder: of this cell alone. Its name contains the training digest, so another training never resumes from it.
        say: takes lines for the log.
        progress: file that publishes the history to other processes; None: it is not published.
    """

    def __init__(self, folder: Path, say: Say = print, progress: ProgressFile | None = None) -> None:
        self.folder, self.say, self.progress = folder, say, progress
        self.written = time.monotonic()
        self.interval = SECONDS
        self.disabled = False

    def has(self, stage: str) -> bool:
        """Whether a stage was saved."""
        return self._file(stage).is_file()

    def load(self, stage: str = "checkpoint") -> dict[str, Any] | None:
        """The saved content of a stage, on the CPU; None if there is none or it is damaged."""
        path = self._file(stage)
        try:
            with path.open("rb") as file:
                if not _is_whole(file):
                    self.say(f"{path}: damaged (it differs from its hash); this cell starts that stage again")
                    return None
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            self.say(f"{path}: damaged ({type(error).__name__}); this cell starts that stage again")
            return None
        return state

    def epoch_end(self, state: Callable[[], dict[str, Any]], stage: str = "checkpoint") -> None:
        """Save the state if it is due: every minute, or less often if saving would take more than 2 % of the time.

        Args:
            state: returns the state; called only if it is saved.
            stage: name of the file.

        Raises:
            Interrupted: a signal arrived since the last call; the state is saved first.
        """
        number = _received[0] if _received else None
        begun = time.monotonic()
        if number is not None or begun - self.written >= self.interval:
            self.save(state(), stage)
            self.written = time.monotonic()
            self.interval = SECONDS * max(1.0, (self.written - begun) / CHEAP)
        if number is not None:
            raise Interrupted(number)

    def show(self, history: Sequence[Mapping[str, float]], epochs: int) -> None:
        """Publish the history so far to other processes; `epochs`: how many there will be in all."""
        if self.progress:
            self.progress.write(history, epochs)

    def save(self, state: dict[str, Any], stage: str = "checkpoint") -> None:
        """Write a stage, replacing the previous file at once: tensors, numbers, text, lists and mappings of them.

        If it cannot be written, this and all later calls do nothing but say so once.
        """
        if self.disabled:
            return
        target = self._file(stage)
        temporary = target.with_suffix(".new")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("w+b") as file:
                torch.save(state, file)
                file.seek(0)
                file.write(hashlib.file_digest(file, "sha256").digest())  # appended: the hash has read to the end
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            self.disabled = True
            temporary.unlink(missing_ok=True)
            self.say(f"{target}: cannot be written ({one_line(error)}); going on without checkpoints")

    def _file(self, stage: str) -> Path:
        return self.folder / f"{stage}.pt"

    def remove(self) -> None:
        """Delete the folder, once the cell's record is published."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_whole(file: BinaryIO) -> bool:
    """Whether a file ends with the hash of the bytes before; leaves the file positioned at its start.

    This is needed because torch does not verify the checksums of its archives and loads flipped bits silently.
    """
    end = file.seek(0, os.SEEK_END) - _HASH
    if end < 0:
        return False
    file.seek(end)
    recorded = file.read()
    file.seek(0)
    actual = hashlib.sha256()
    while end:
        block = file.read(min(end, 2**20))
        if not block:
            return False
        actual.update(block)
        end -= len(block)
    file.seek(0)
    return actual.digest() == recorded


_received: list[int] = []


def stop_if_asked() -> None:
    """Raise `Interrupted` if a signal arrived; for work that keeps no state between its steps."""
    if _received:
        raise Interrupted(_received[0])


@contextmanager
def signals_wait_for_the_epoch() -> Iterator[None]:
    """Defer SIGTERM and SIGINT until the epoch ends and its checkpoint is written; a second signal acts at once."""

    def remember(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    _received.clear()
    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
        if _received:  # it arrived after the last epoch
            raise Interrupted(_received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()
