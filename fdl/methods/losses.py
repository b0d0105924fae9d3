"""The feature distance loss (docs/reference.md 2.1; the paper, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureDistance:
    """The loss and its two terms, 0-d tensors; the terms are unweighted sums over all pairs of members."""

    total: Tensor
    cosine: Tensor
    gaussian: Tensor


def descriptor(feature_map: Tensor, *, mask: bool = True, max_norm: bool = False) -> Tensor:
    """Channel mean of a feature map, with the cells at or below its spatial mean set to 0.

    Args:
        feature_map: (..., C, H, W).
        mask: keep only the cells strictly above the spatial mean; the mask passes no gradient.
        max_norm: divide by the spatial maximum, 0/0 = 0 (defined by the authors, never used by them).

    Returns:
        (..., H, W), in float32 at least, whatever the precision of the map: a threshold in bfloat16
        would keep other cells.
    """
    mean = feature_map.to(torch.promote_types(feature_map.dtype, torch.float32)).mean(dim=-3)
    if mask:
        threshold = mean.detach().mean(dim=(-2, -1), keepdim=True)
        # `where`, not a product: a masked infinite cell must not become NaN.
        mean = torch.where(mean.detach() > threshold, mean, torch.zeros_like(mean))
    if max_norm:
        peak = mean.amax(dim=(-2, -1), keepdim=True)
        mean = torch.where(peak == 0, torch.zeros_like(mean), mean / torch.where(peak == 0, 1, peak))
    return mean


def feature_distance(
    maps: Sequence[Tensor], cosine_weight: float, gaussian_weight: float, *, mask: bool = True, max_norm: bool = False
) -> FeatureDistance:
    """The authors' distance loss: weighted similarities of the members' descriptors, to be minimised.

    Per pair of members, averaged over the batch: the cosine of the flattened descriptors (the squared
    norm floored at 1e-12, so a dead map gives 0), and the mean over cells of exp(-(difference)²), which
    the paper calls the Euclidean distance. Both are summed over all pairs, not averaged
    (docs/reference.md 2.1).

    Args:
        maps: M ≥ 2 feature maps, each (B, C, H, W).
        cosine_weight: weight of the cosine term.
        gaussian_weight: weight of the Gaussian term.
        mask, max_norm: see `descriptor`.

    Raises:
        ValueError: fewer than two maps, or maps that are not all (B, C, H, W) of one shape.
    """
    if len(maps) < 2 or maps[0].dim() != 4 or any(m.shape != maps[0].shape for m in maps):
        shapes = [tuple(m.shape) for m in maps]
        raise ValueError(f"feature_distance needs two or more maps of one shape (B, C, H, W), got {shapes}")
    d = torch.stack([descriptor(m, mask=mask, max_norm=max_norm).flatten(1) for m in maps])  # (M, B, H·W)
    cosines, gaussians = pair_similarities(d)
    cosine, gaussian = cosines.mean(dim=-1).sum(), gaussians.mean(dim=(-2, -1)).sum()
    total = d.new_zeros(())
    # A term of weight 0 stays out of the graph: 0 · NaN would poison the others.
    if cosine_weight:
        total = total + cosine_weight * cosine
    if gaussian_weight:
        total = total + gaussian_weight * gaussian
    return FeatureDistance(total, cosine, gaussian)


def pair_similarities(d: Tensor) -> tuple[Tensor, Tensor]:
    """Both similarities of every pair of members.

    Args:
        d: flattened descriptors (M, ..., H·W), M ≥ 2.

    Returns:
        Cosines (pairs, ...), and the Gaussian similarity of every cell (pairs, ..., H·W).
    """
    i, j = torch.triu_indices(len(d), len(d), offset=1, device=d.device)
    unit = d * d.square().sum(dim=-1, keepdim=True).clamp(min=1e-12).rsqrt()
    return (unit[i] * unit[j]).sum(dim=-1), torch.exp(-(d[i] - d[j]).square())
