"""The terms of the distance loss, measured on a whole split of a dataset (its training or test images)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fdl.methods.losses import feature_distance


class FeatureDistanceMeter:
    """Accumulates the two terms of the distance loss over a split, batch by batch.

    As in the loss (docs/reference.md 2.1), each term is a sum over pairs of members and a mean over images; it is not
    multiplied by its weight. Every image counts equally, whatever the sizes of the batches.
    """

    def __init__(self) -> None:
        self._images = 0
        self._sums: Tensor | None = None  # (2,) float64: both terms summed over images, on the maps' device

    def add(self, maps: Sequence[Tensor]) -> None:
        """Add the M feature maps (B, C, H, W) of a batch. A single net has no distance, so M < 2 adds nothing."""
        if len(maps) < 2:
            return
        with torch.no_grad():
            distance = feature_distance(maps, 0, 0)
            sums = len(maps[0]) * torch.stack([distance.cosine, distance.gaussian]).double()
        self._sums = sums if self._sums is None else self._sums + sums
        self._images += len(maps[0])

    def values(self) -> dict[str, float]:
        """The means over images, `cosine_sum` and `gaussian_sum`; empty if nothing was added."""
        if self._sums is None:
            return {}
        cosine, gaussian = (self._sums / self._images).tolist()
        return {"cosine_sum": cosine, "gaussian_sum": gaussian}
