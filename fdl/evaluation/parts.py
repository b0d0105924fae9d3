"""Works through many images some at a time, and fewer at a time where the memory of a GPU ends."""

import gc
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def in_parts(work: Callable[[Tensor], Result], values: Tensor, size: int) -> Iterator[Result]:
    """What the work makes of each part of some values.

    Args:
        work: of some rows of `values`. It leaves nothing behind where it fails.
        values: (N, ...), N at least 1.
        size: rows at a time. Where these are too many, they and the rest are done in halves.

    Raises:
        torch.OutOfMemoryError: not even one row fits into the memory.
    """
    start = 0
    while start < len(values):
        part = values[start : start + size]
        try:
            result = work(part)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
        else:
            yield result
            del result
            start += len(part)
            continue
        # Outside the handler, where nothing holds the tensors of the attempt any more.
        size = (len(part) + 1) // 2
        release_gpu_memory()


def release_gpu_memory() -> None:
    """Give what no tensor and no graph uses any more back to the card: another size may need it in one piece."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
