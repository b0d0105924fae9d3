"""CUDA graphs around functions of tensors at fixed places."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fdl.core.console import Say

WARM_UP = 3  # calls before the capture, in which libraries choose their kernels and take their memory

# Graphs whose capture CUDA cut off, for as long as the process lives: torch's allocator keeps asking such a graph
# whether it takes memory, and were it freed, another at its place would answer, with memory that no one gives back.
_cut_off: list[torch.cuda.CUDAGraph] = []


@contextmanager
def own_stream(device: str, stream: torch.cuda.Stream | None = None) -> Iterator[None]:
    """A stream that is not the default one, on which CUDA captures no graph. Each waits for what the other has begun.

    Args:
        device: "cpu", where there are no streams, or "cuda".
        stream: which; None: a new one.
    """
    if device == "cpu":
        yield
        return
    outside, stream = torch.cuda.current_stream(), stream or torch.cuda.Stream()
    stream.wait_stream(outside)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        outside.wait_stream(stream)


class Replays:
    """Calls the functions of a program; on a GPU their kernels are captured after a few calls, and then replayed.

    Call it inside one `torch.cuda.stream` that is not the default one. Without CUDA, or with `FDL_EAGER=1` in the
    environment, every call is a plain call, and so it is where a capture fails, which is said.

    All graphs take their memory from one pool, because they never run at the same time: a function leaves its
    results in tensors that were there before. No function is kept, for it may belong to an object that keeps this
    one, and the graphs' memory is to be free as soon as that object is.

    Args:
        device: "cpu" or "cuda".
        say: takes the warnings.
    """

    def __init__(self, device: str, say: Say) -> None:
        self.device, self.say = device, say
        self.eager = device == "cpu" or os.environ.get("FDL_EAGER") == "1"
        self._calls: dict[str, int] = {}
        self.graphs: dict[str, torch.cuda.CUDAGraph | None] = {}  # None: its capture failed

    def __call__(self, name: str, function: Callable[[], None]) -> None:
        """Do what the function does.

        Args:
            name: of the function: calls of the same name do the same.
            function: reads and writes tensors that stay where they are; returns nothing.

        Raises:
            torch.OutOfMemoryError: also where the memory ends during a capture, or for the graph itself.
        """
        self._calls[name] = self._calls.get(name, 0) + 1
        if not self.eager and self._calls[name] > WARM_UP and name not in self.graphs:
            self.graphs[name] = self._captured(name, function)
        graph = self.graphs.get(name)
        if graph is None:
            function()
            return
        try:
            graph.replay()
        except RuntimeError as error:
            _raise_if_out_of_memory(error)
            raise

    def _captured(self, name: str, function: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        pool = next((other.pool() for other in self.graphs.values() if other is not None), None)
        try:
            with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
                function()
        except RuntimeError as error:
            if not _has_ended(graph):
                _cut_off.append(graph)
            _raise_if_out_of_memory(error)
            self.say(f"no CUDA graph ({' '.join(str(error).split())[:200]}); going on without, slower")
            self.say(f"{name}: {traceback.format_exc()}")
            return None
        return graph


def _has_ended(graph: torch.cuda.CUDAGraph) -> bool:
    """Whether a capture came to its end, if only with an error of the function: the graph frees its memory itself."""
    try:
        graph.pool()
    except RuntimeError:
        return False
    return True


def _raise_if_out_of_memory(error: RuntimeError) -> None:
    """Say as torch's allocator does that the memory ended, if an error or one that it hides says so in another way.

    A capture that is cut off raises an error of its own when it ends, and hides the one that cut it off.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError) or "out of memory" in str(cause):
            raise torch.OutOfMemoryError(str(cause)) from error
        cause = cause.__cause__ or cause.__context__
