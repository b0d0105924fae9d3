"""A training that is killed goes on where it was, and ends with the same bits as one that was not.

The epoch is all the state that randomness has (fdl.core.randomness), so a checkpoint is weights,
moments, the best states so far and the history. Its last bytes are the SHA-256 of the others: a file that
was damaged is not believed.
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

SECONDS = 60.0  # at most this often
_HASH = hashlib.sha256().digest_size  # bytes at the end of a checkpoint
CHEAP = 1.2  # seconds, 2 % of these; a checkpoint that takes longer is written so much more seldom


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived; the checkpoint is written."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}; run the same command again to go on")
        self.number = number


class Checkpoint:
    """The state of one cell in training, and what of it is finished, in files below `scratch/`.

    Args:
        folder: of this cell and no other; its name holds the training digest, so that a checkpoint is
            never taken up by another training.
        say: takes a line for the log.
        progress: where the history is shown to others; None: nowhere.
    """

    def __init__(self, folder: Path, say: Say = print, progress: ProgressFile | None = None) -> None:
        self.folder, self.say, self.progress = folder, say, progress
        self.written = time.monotonic()
        self.interval = SECONDS
        self.disabled = False

    def has(self, stage: str) -> bool:
        """Whether there is a file of a stage."""
        return self._file(stage).is_file()

    def load(self, stage: str = "checkpoint") -> dict[str, Any] | None:
        """What was saved last of a stage, on the CPU; None where there is nothing that can be read."""
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
        """Save the state if it is time to: every minute, or so seldom that saving takes 2 % of the time.

        Args:
            state: makes it; called only if it is saved.
            stage: its name.

        Raises:
            Interrupted: a signal arrived since the last epoch; the state is saved.
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
        """Let others see how far the training is; `epochs`: how many there will be."""
        if self.progress:
            self.progress.write(history, epochs)

    def save(self, state: dict[str, Any], stage: str = "checkpoint") -> None:
        """Write what there is of a stage: tensors, numbers, text, lists and mappings of them."""
        if self.disabled:
            return
        target = self._file(stage)
        temporary = target.with_suffix(".new")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("w+b") as file:
                torch.save(state, file)
                file.seek(0)
                file.write(hashlib.file_digest(file, "sha256").digest())  # which left off at the end
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
        """The cell is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_whole(file: BinaryIO) -> bool:
    """Whether a checkpoint ends with the hash of what comes before; the file is back at its start.

    torch reads a file with a flipped bit without noticing: it does not compare the checksums of its archive.
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
    """Between checkpoints: raise `Interrupted` if a signal arrived."""
    if _received:
        raise Interrupted(_received[0])


@contextmanager
def signals_wait_for_the_epoch() -> Iterator[None]:
    """Keep SIGTERM and SIGINT until the epoch ends and its checkpoint is written; a second one ends at once."""

    def remember(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    _received.clear()
    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
        if _received:  # after the last epoch: what it waited for is done
            raise Interrupted(_received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()
