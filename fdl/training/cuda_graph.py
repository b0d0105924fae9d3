"""A CUDA graph around a function of tensors at fixed places."""

import os
from collections.abc import Callable

import torch

from fdl.core.console import Say

WARM_UP = 3  # calls before the capture, in which libraries choose their kernels and take their memory


class Replay:
    """Calls a function; on a GPU its kernels are captured after a few calls, and then replayed.

    Call it inside one `torch.cuda.stream` that is not the default one. Without CUDA, or with `FDL_EAGER=1` in the
    environment, every call is a plain call, and so it is where the capture fails, which is said.

    Args:
        function: reads and writes tensors that stay where they are; returns nothing.
        device: "cpu" or "cuda".
        say: takes the warning.
    """

    def __init__(self, function: Callable[[], None], device: str, say: Say) -> None:
        self.function, self.device, self.say = function, device, say
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.eager = device == "cpu" or os.environ.get("FDL_EAGER") == "1"

    def __call__(self) -> None:
        """Do what the function does."""
        self.calls += 1
        if self.graph is None and not self.eager and self.calls > WARM_UP:
            self._capture()
        if self.graph is None:
            self.function()
        else:
            self.graph.replay()

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self.function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.eager = True
            self.say(f"no CUDA graph ({' '.join(str(error).split())[:200]}); going on without, slower")
            return
        self.graph = graph
