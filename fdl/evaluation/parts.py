"""Processing many images in parts, in smaller ones after the memory of a GPU is exhausted."""

import gc
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def in_parts(work: Callable[[Tensor], Result], values: Tensor, size: int) -> Iterator[Result]:
    """Apply a function to consecutive parts of the values; yields its results in order.

    Args:
        work: takes some rows of `values`. It must leave no trace if it runs out of memory, because it is called again.
        values: (N, ...), N ≥ 1.
        size: rows per part. If a part does not fit into the memory, the size is halved for it and for all later ones.

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
        # This is outside the handler, because the exception would keep the tensors of the failed attempt alive.
        size = (len(part) + 1) // 2
        release_gpu_memory()


def release_gpu_memory() -> None:
    """Return memory that no tensor or graph uses to the GPU, because another size may need it in one piece."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
