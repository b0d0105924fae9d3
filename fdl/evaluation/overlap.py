"""How far the members' class activation maps overlap, computed from the `cam.npz` of a cell (one trained ensemble).

These are the measures of claim C4 (docs/claims.md). Rules 1 use the mean cosine between the members' maps of the true
class. Rules 2 use the share of these maps that are empty, and the mean correlation between the members' signed maps.
`fdl.evaluation.cam` computes the maps. This module does not import torch, which would take seconds.

Letters in the shapes: M members, P pairs of members, N test images in the `cam.npz`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.evaluation.metrics import SHARE, Metric

Maps = Mapping[str, NDArray[Any]]  # the arrays of a `cam.npz`
# Claim C4 compares maps of at most this many test images. Without kept feature maps, each map costs as much as a
# training step, and the record of 7,500 images has ten times the size.
COMPARED = 1000


def empty_maps(record: Maps) -> NDArray[np.bool_]:
    """Whether each member's map of the true class is empty, that is, positive nowhere: booleans (M, N)."""
    return np.unpackbits(record["empty"], axis=-1, count=record["cosines"].shape[1]).astype(bool)


def left_out(record: Maps) -> NDArray[np.bool_]:
    """Whether a pair of maps has an empty one, so that its cosine is meaningless: booleans (P, N)."""
    empty = empty_maps(record)
    first, second = np.triu_indices(len(empty), k=1)
    return np.asarray(empty[first] | empty[second])


def on_same_images(records: Sequence[Maps]) -> list[dict[str, NDArray[Any]]]:
    """Restrict the `cosines` and `empty` of several `cam.npz` of one dataset to the test images they have in common.

    Newer records hold the images at `signed_positions` (`fdl.evaluation.cam.compared_positions`); older ones hold all
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
    """Mean cosine of each image over the pairs that are not left out.

    To compare two methods, leave out of both what either of them leaves out:
    `overlap(a["cosines"], left_out(a) | left_out(b))`, and the same for b.

    Args:
        cosines: (P, N), in any precision.
        left_out: (P, N) booleans, see the function of this name.

    Returns:
        The mean of each image (N,), 0 if no pair remains; the number of pairs that remain for each image (N,); and the
        share of the P · N values that is left out, 1 if P · N is 0.
    """
    counted = ~left_out
    pairs = counted.sum(axis=0)
    mean = np.where(counted, cosines.astype(np.float64), 0).sum(axis=0) / np.maximum(pairs, 1)
    return mean, pairs, 1 - float(counted.sum()) / max(counted.size, 1)


def signed_overlap(correlations: NDArray[np.floating]) -> tuple[float | None, float]:
    """Mean of the correlations (P, N) that are defined, or None if none is; and the share that is undefined."""
    defined = np.isfinite(correlations)
    share = 1 - float(defined.mean()) if correlations.size else 1.0
    return (float(correlations[defined].mean(dtype=np.float64)) if defined.any() else None), share


def signed_bounds(
    correlations: NDArray[np.floating], other: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds on the difference between two methods' mean correlations, for each image.

    An undefined correlation could have had any value from −1 to 1.

    Args:
        correlations, other: (P, N), of the same images, NaN where undefined; the difference is the first minus the
            second.

    Returns:
        The lowest and the highest possible difference of each image, (N,) each. They are equal if all correlations of
        the image are defined.
    """
    low, high = (_filled(correlations, value) for value in (-1.0, 1.0))
    other_low, other_high = (_filled(other, value) for value in (-1.0, 1.0))
    return low - other_high, high - other_low


def _filled(correlations: NDArray[np.floating], value: float) -> NDArray[np.float64]:
    """Mean over the pairs of each image (N,), with the value in place of undefined correlations."""
    return np.asarray(np.nan_to_num(correlations.astype(np.float64), nan=value).mean(axis=0))


def _overlap(cam: Maps) -> float | None:
    mean, pairs, _ = overlap(cam["cosines"], left_out(cam))
    return float(mean[pairs > 0].mean()) if pairs.any() else None


def _left_out(cam: Maps) -> float:
    return overlap(cam["cosines"], left_out(cam))[2]


def _empty(cam: Maps) -> float:
    return float(empty_maps(cam).mean())


# Old records have no correlations of signed maps.
def _signed(cam: Maps) -> float | None:
    return signed_overlap(cam["signed_correlations"])[0] if "signed_correlations" in cam else None


def _signed_left_out(cam: Maps) -> float | None:
    return signed_overlap(cam["signed_correlations"])[1] if "signed_correlations" in cam else None


OVERLAP: dict[str, Metric] = {  # in the order of columns; all measured on test images
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
