"""How far the members' feature maps lie apart, by the terms of the distance loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fdl.methods.losses import feature_distance


class FeatureDistanceMeter:
    """The two terms of the distance loss over a split, added up batch by batch.

    The terms are unweighted sums over pairs of members, as in the loss (docs/reference.md 2.1), and means
    over images, whatever the sizes of the batches.
    """

    def __init__(self) -> None:
        self._images = 0
        self._sums: Tensor | None = None  # of (cosine, Gaussian) over images, in float64, where the maps are

    def add(self, maps: Sequence[Tensor]) -> None:
        """Count a batch: M feature maps (B, C, H, W). Fewer than two have no distance and are not counted."""
        if len(maps) < 2:
            return
        with torch.no_grad():
            distance = feature_distance(maps, 0, 0)
            sums = len(maps[0]) * torch.stack([distance.cosine, distance.gaussian]).double()
        self._sums = sums if self._sums is None else self._sums + sums
        self._images += len(maps[0])

    def values(self) -> dict[str, float]:
        """`cosine_sum` and `gaussian_sum`; empty if nothing was counted."""
        if self._sums is None:
            return {}
        cosine, gaussian = (self._sums / self._images).tolist()
        return {"cosine_sum": cosine, "gaussian_sum": gaussian}
