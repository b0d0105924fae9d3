"""How far the members' class activation maps overlap, from a cell's `cam.npz`; without torch, which takes seconds.

The measure of claim C4 (docs/claims.md): the mean cosine between the members' maps of the true class.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def left_out(record: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """The pairs (P, N) of a `cam.npz` in which a map is empty; their cosine means nothing."""
    empty = np.unpackbits(record["empty"], axis=-1, count=record["cosines"].shape[1]).astype(bool)
    first, second = np.triu_indices(len(empty), k=1)
    return np.asarray(empty[first] | empty[second])


def overlap(
    cosines: NDArray[np.floating], left_out: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    """Mean over pairs of each image's cosines.

    To compare two methods, leave out what either of them leaves out:
    `overlap(a["cosines"], left_out(a) | left_out(b))`, and the same for b.

    Args:
        cosines: (P, N), in any precision.
        left_out: (P, N), see the function of this name.

    Returns:
        Per image the mean (N,), 0 where no pair is left, and the number of pairs (N,) that it is over;
        and the share of all pairs and images that is left out, 1 where there is none at all.
    """
    counted = ~left_out
    pairs = counted.sum(axis=0)
    mean = np.where(counted, cosines.astype(np.float64), 0).sum(axis=0) / np.maximum(pairs, 1)
    return mean, pairs, 1 - float(counted.sum()) / max(counted.size, 1)
