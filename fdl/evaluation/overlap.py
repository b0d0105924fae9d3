"""How far the members' class activation maps overlap, from a cell's `cam.npz`; without torch, which takes seconds.

The measures of claim C4 (docs/claims.md). Rules 1: the mean cosine between the members' maps of the true class.
Rules 2: the share of these maps that are empty, and the mean correlation between the members' signed maps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.evaluation.metrics import SHARE, Metric

Maps = Mapping[str, NDArray[Any]]  # a `cam.npz`
# The maps of claim C4 are made of at most so many test images: without kept feature maps each costs as much as a
# training step, and a record of 7,500 images has ten times the size.
COMPARED = 1000


def empty_maps(record: Maps) -> NDArray[np.bool_]:
    """Which maps (M, N) of a `cam.npz` are empty: the map of the true class has no positive place."""
    return np.unpackbits(record["empty"], axis=-1, count=record["cosines"].shape[1]).astype(bool)


def left_out(record: Maps) -> NDArray[np.bool_]:
    """The pairs (P, N) of a `cam.npz` in which a map is empty; their cosine means nothing."""
    empty = empty_maps(record)
    first, second = np.triu_indices(len(empty), k=1)
    return np.asarray(empty[first] | empty[second])


def on_same_images(records: Sequence[Maps]) -> list[dict[str, NDArray[Any]]]:
    """Narrow the `cosines` and `empty` of several `cam.npz` of one dataset to the test images that all of them hold.

    Newer records hold the images of `signed_positions` (`fdl.evaluation.cam.compared_positions`), older ones all
    test images.
    """
    fewest = min((record["cosines"].shape[1] for record in records), default=0)
    narrowed = []
    for record in records:
        arrays = dict(record)
        if record["cosines"].shape[1] > fewest:
            short = next(other for other in records if other["cosines"].shape[1] == fewest)
            positions = short["signed_positions"]
            arrays["cosines"] = record["cosines"][:, positions]
            arrays["empty"] = np.packbits(empty_maps(record)[:, positions], axis=-1)
        narrowed.append(arrays)
    return narrowed


def overlap(
    cosines: NDArray[np.floating], left_out: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    """Mean over pairs of each image's cosines.

    To compare two methods, leave out of both what either of them leaves out:
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


def signed_overlap(correlations: NDArray[np.floating]) -> tuple[float | None, float]:
    """Mean of the correlations (P, N) that are defined, None where none is; and the share that is not."""
    defined = np.isfinite(correlations)
    share = 1 - float(defined.mean()) if correlations.size else 1.0
    return (float(correlations[defined].mean(dtype=np.float64)) if defined.any() else None), share


def signed_bounds(
    correlations: NDArray[np.floating], other: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the difference of two methods' mean correlations lies between, whatever the undefined ones would be.

    A correlation that is not defined could have been anything from −1 to 1.

    Args:
        correlations, other: (P, N), of the same images.

    Returns:
        The lowest and the highest possible difference of each image, (N,) each: equal where all are defined.
    """
    low, high = (_filled(correlations, value) for value in (-1.0, 1.0))
    other_low, other_high = (_filled(other, value) for value in (-1.0, 1.0))
    return low - other_high, high - other_low


def _filled(correlations: NDArray[np.floating], value: float) -> NDArray[np.float64]:
    """Mean over the pairs of each image, with a value in place of those that are not defined."""
    return np.asarray(np.nan_to_num(correlations.astype(np.float64), nan=value).mean(axis=0))


def _overlap(cam: Maps) -> float | None:
    mean, pairs, _ = overlap(cam["cosines"], left_out(cam))
    return float(mean[pairs > 0].mean()) if pairs.any() else None


def _left_out(cam: Maps) -> float:
    return overlap(cam["cosines"], left_out(cam))[2]


def _empty(cam: Maps) -> float:
    return float(empty_maps(cam).mean())


# Records made before there were signed maps have none.
def _signed(cam: Maps) -> float | None:
    return signed_overlap(cam["signed_correlations"])[0] if "signed_correlations" in cam else None


def _signed_left_out(cam: Maps) -> float | None:
    return signed_overlap(cam["signed_correlations"])[1] if "signed_correlations" in cam else None


OVERLAP: dict[str, Metric] = {  # in the order of columns; all of test images
    "cam_overlap": Metric(
        "overlap of maps",
        _overlap,
        "maps",
        (-1, 1),
        meaning="mean cosine of two members' class activation maps of the true class, of pairs without an empty one",
        remark="Overlap of maps: mean cosine of two members' class activation maps of the true class, without pairs of "
        "which one is empty (pairs left out: % of them). They are left out ensemble by ensemble: claim C4 compares "
        "methods.",
        kept_empty=True,
    ),
    "cam_left_out": Metric(
        "pairs left out",
        _left_out,
        "maps",
        SHARE,
        meaning="% of the pairs of maps of which one is empty",
        remark="",
        kept_empty=True,
    ),
    "cam_empty": Metric(
        "empty maps",
        _empty,
        "maps",
        SHARE,
        meaning="% of the members' maps of the true class that have no positive place",
    ),
    "cam_signed_correlation": Metric(
        "correlation of signed maps",
        _signed,
        "maps",
        (-1, 1),
        meaning="of the logit of the class that each member predicts, on at most 1,000 test images, mean over pairs, "
        "without those of which one map is the same everywhere (signed pairs left out: % of them)",
    ),
    "cam_signed_left_out": Metric(
        "signed pairs left out",
        _signed_left_out,
        "maps",
        SHARE,
        meaning="% of the pairs of signed maps of which one is the same everywhere",
        remark="",
    ),
}
