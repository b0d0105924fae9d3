"""The methods: what a training adds to the members' cross-entropies.

A method sees ONE ensemble and returns a 0-d loss; the engine adds it to the sum of the
cross-entropies. Its keyword parameters come from the settings (the authors' weights for `fdl`).
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from fdl.losses import feature_distance

# (maps: M × (B, C, H, W), logits: M × (B, K), inputs: (B, 3, H, W), labels: (B,), *, epoch, **params) → 0-d loss
Method = Callable[..., Tensor]


def classical(
    maps: Sequence[Tensor], logits: Sequence[Tensor], inputs: Tensor, labels: Tensor, *, epoch: int
) -> Tensor:
    """The paper's baseline: the same five nets on the same batches, nothing added."""
    # No zero-weighted distance: a NaN in one member's map must not reach the others.
    return maps[0].new_zeros(())


def fdl(
    maps: Sequence[Tensor],
    logits: Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    cosine_weight: float,
    gaussian_weight: float,
) -> Tensor:
    """The feature distance loss of the paper."""
    return feature_distance(maps, cosine_weight, gaussian_weight).total


METHODS: dict[str, Method] = {
    "classical": classical,
    "fdl": fdl,
}
