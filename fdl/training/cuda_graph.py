"""CUDA graphs of functions whose input and output tensors stay at the same memory addresses."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fdl.core.console import Say

WARM_UP = 3  # plain calls before the capture, in which libraries choose their kernels and allocate workspace

# Graphs whose capture CUDA aborted are kept alive until the process ends. Torch's allocator goes on asking such a graph
# whether an allocation belongs to it. If it were freed, another graph at the same address would be taken for it, and
# its allocations would never be released.
_aborted_graphs: list[torch.cuda.CUDAGraph] = []


@contextmanager
def own_stream(device: str, stream: torch.cuda.Stream | None = None) -> Iterator[None]:
    """Work on a stream other than the default one, because CUDA cannot capture graphs on that.

    The stream first waits for the work queued on the current one, which in the end waits for that of this stream.

    Args:
        device: "cpu", where there are no streams, or "cuda".
        stream: the stream; None: a new one.
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
    """Calls functions by name; on a GPU a function's kernels are captured as a CUDA graph, which is then replayed.

    All calls must be made on one stream, which must not be the default one (`own_stream`). A function is called
    `WARM_UP` times before it is captured. All calls remain plain calls on a CPU and with `FDL_EAGER=1` in the
    environment, as do those of a function whose capture fails, of which `say` is told.

    All graphs share one memory pool. This is safe because they never run at the same time and leave their results in
    tensors that were allocated outside. The functions themselves are not stored: they may belong to an object that
    holds this one, and such a reference cycle would delay the release of the graphs' memory.

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
        """Call the function, or replay its graph.

        Args:
            name: identifies the function; calls with the same name must do the same.
            function: reads and writes tensors that keep their memory addresses; returns nothing.

        Raises:
            torch.OutOfMemoryError: the GPU's memory is exhausted, by the function, its capture or its graph.
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
            if not _capture_was_ended(graph):
                _aborted_graphs.append(graph)
            _raise_if_out_of_memory(error)
            self.say(f"no CUDA graph ({' '.join(str(error).split())[:200]}); going on without, slower")
            self.say(f"{name}: {traceback.format_exc()}")
            return None
        return graph


def _capture_was_ended(graph: torch.cuda.CUDAGraph) -> bool:
    """Whether a failed capture was ended properly (the function raised), so that the graph can be freed.

    Of a graph whose capture CUDA aborted, even the memory pool cannot be asked for.
    """
    try:
        graph.pool()
    except RuntimeError:
        return False
    return True


def _raise_if_out_of_memory(error: RuntimeError) -> None:
    """Raise `torch.OutOfMemoryError` if an error, or one that it was raised from, means that memory is exhausted.

    An aborted capture raises an error of its own when it is ended, which hides the one that aborted it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError) or "out of memory" in str(cause):
            raise torch.OutOfMemoryError(str(cause)) from error
        cause = cause.__cause__ or cause.__context__
