"""Grad-CAM at the feature map of the distance loss (docs/reference.md 7), and what a record keeps of the maps.

How far they overlap is computed from that, in `fdl.evaluation.overlap`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fdl.evaluation.kept_maps import nets_after_maps, row_numbers
from fdl.evaluation.overlap import COMPARED
from fdl.evaluation.parts import in_parts
from fdl.methods.losses import descriptor

# A net's graph is kept for one batch at a time, so this costs no more memory than a training step, which
# keeps the graphs of five nets for batches of ten.
BATCH = 50
# A record holds maps of the first test images of this many classes, in label order, and of this many of each, so
# that a figure can pick the first one that both methods get right.
CLASSES, OF_EACH = 10, 4
Score = Literal["probability", "logit"]


def grad_cam(nets: Sequence[nn.Module], images: Tensor, classes: Tensor, *, score: Score = "probability") -> Tensor:
    """Signed Grad-CAM maps of all members, not normalised: Σₖ αₖ Fₖ, αₖ the spatial mean of ∂score/∂Fₖ.

    The authors' score is the softmax probability p of the class. Its gradient is p (1 - p) times that of
    the margin z - log Σ exp(other logits), which does not vanish when the softmax saturates: the margin
    is differentiated, and the factor put on in float64, so that a confident net's map is small, not zero
    (up to margins of 700).

    Args:
        nets: M members in evaluation mode, each returning (logits (B, C), feature map (B, K, H', W')).
        images: (B, 3, H, W), as the nets take them.
        classes: whose score, (B,) for all members or (M, B) for each its own.
        score: "probability", as the authors, or "logit".

    Returns:
        (M, B, H', W') in float64.

    Raises:
        ValueError: a net is in training mode; its map would depend on the other images of the batch.
    """
    if any(net.training for net in nets):
        raise ValueError("grad_cam needs nets in evaluation mode")
    by_member = zip(nets, classes.expand(len(nets), len(images)), strict=True)
    return torch.stack([_grad_cam(*_forward(net, images), chosen, score) for net, chosen in by_member])


def _forward(net: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, C) and feature map with a graph between them."""
    with torch.enable_grad():
        # The images ask for a gradient so that there is a graph even where no weight does.
        logits, feature_map = net(images.detach().requires_grad_())
    return logits, feature_map


def _grad_cam(logits: Tensor, feature_map: Tensor, classes: Tensor, score: Score) -> Tensor:
    """One member's maps (B, H', W')."""
    with torch.enable_grad():
        target = logits.gather(1, classes[:, None])[:, 0]
        if score == "probability":
            target = target - logits.scatter(1, classes[:, None], -torch.inf).logsumexp(1)
        (gradient,) = torch.autograd.grad(target.sum(), feature_map)
    maps = (gradient.mean(dim=(-2, -1), keepdim=True) * feature_map.detach()).sum(dim=1).double()
    if score == "probability":
        margin = target.detach().double()
        maps *= (margin.sigmoid() * (-margin).sigmoid())[:, None, None]
    return maps


def normalise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The positive part of each map, divided by its maximum.

    Args:
        maps: (..., H', W'), signed.

    Returns:
        (..., H', W') in [0, 1], float32; and (...) booleans of the empty maps: without a positive cell,
        all zero.
    """
    positive = maps.clamp(min=0)
    peak = positive.amax(dim=(-2, -1), keepdim=True)
    empty = peak == 0
    return (positive / peak.where(~empty, 1)).float(), empty[..., 0, 0]


def pair_cosines(normalised: Tensor) -> Tensor:
    """Cosine of the maps of each pair of members, 0 where one is empty.

    Args:
        normalised: (M, B, H', W'), see `normalise`.

    Returns:
        (P, B), the P = M (M - 1) / 2 pairs in the order 01, 02, …, 12, …
    """
    flat = normalised.flatten(2)
    norm = flat.norm(dim=-1, keepdim=True)
    unit = flat / norm.where(norm > 0, 1)
    first, second = torch.triu_indices(len(flat), len(flat), offset=1, device=flat.device)
    cosines: Tensor = (unit[first] * unit[second]).sum(dim=-1)
    return cosines


def pair_correlations(maps: Tensor) -> Tensor:
    """Pearson's correlation, over the places of a map, between the signed maps of each pair of members.

    Args:
        maps: (M, B, H', W'), signed, see `grad_cam`.

    Returns:
        (P, B), the pairs as in `pair_cosines`; NaN where a map has the same value everywhere, and so no correlation.
    """
    flat = maps.flatten(2).double()
    constant = flat.amax(-1) == flat.amin(-1)
    # Scaled first: the squares of a map near 1e-200 would vanish.
    scaled = flat / flat.abs().amax(-1, keepdim=True).where(~constant[..., None], 1)
    centred = scaled - scaled.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).where(~constant[..., None], torch.nan)
    first, second = torch.triu_indices(len(flat), len(flat), offset=1, device=flat.device)
    correlations: Tensor = (unit[first] * unit[second]).sum(dim=-1).clamp(-1, 1)
    return correlations


def compared_positions(labels: Tensor, most: int = COMPARED) -> Tensor:
    """Which test images the maps of claim C4 are made of, (N,) in rising order.

    The first image of every class, then the second of every class, and so on, until there are `most` or no more:
    a rule that looks at no prediction, so that all methods and seeds have the same ones.

    Args:
        labels: (N,), of all test images.
        most: images at most.
    """
    ranks = torch.empty_like(labels)
    for label in labels.unique():
        of_class = (labels == label).nonzero()[:, 0]
        ranks[of_class] = torch.arange(len(of_class), device=labels.device, dtype=labels.dtype)
    order = torch.argsort(ranks * (int(labels.max()) + 1) + labels, stable=True)
    return order[:most].sort().values


def signed_record(
    nets: Sequence[nn.Module],
    pixels: Tensor,
    labels: Tensor,
    logits: Tensor,
    *,
    to_input: Callable[[Tensor], Tensor],
    batch: int = BATCH,
) -> dict[str, NDArray[Any]]:
    """The part of a cell's `cam.npz` that claim C4 compares: how the members' signed maps correlate.

    A member's map is that of the logit of the class that it predicts itself. Signed and of the logit, because the
    positive part of a map is empty for most answers that are wrong, and the probability's gradient vanishes.

    Args:
        nets, pixels, labels, to_input, batch: as in `overlap_record`.
        logits: (M, N, C), what was predicted for the test images.

    Returns:
        `signed_correlations` (P, n) float16, see `pair_correlations`, and `signed_positions` (n,) int64, see
        `compared_positions`.
    """
    positions = compared_positions(labels)
    predicted = logits.argmax(-1)

    def correlations_of(part: Tensor) -> Tensor:
        return pair_correlations(grad_cam(nets, to_input(pixels[part]), predicted[:, part], score="logit"))

    correlations = torch.cat(list(in_parts(correlations_of, positions, batch)), dim=1).half().cpu().numpy()
    return {"signed_correlations": np.ascontiguousarray(correlations), "signed_positions": positions.cpu().numpy()}


def overlap_record(
    nets: Sequence[nn.Module],
    pixels: Tensor,
    labels: Tensor,
    *,
    to_input: Callable[[Tensor], Tensor],
    batch: int = BATCH,
) -> dict[str, NDArray[Any]]:
    """The part of a cell's `cam.npz` that says how far the members' maps overlap.

    Args:
        nets: M members in evaluation mode.
        pixels: (N, 3, H, W) uint8, the test images.
        labels: (N,).
        to_input: makes of pixels what the nets take.
        batch: images at a time.

    Returns:
        `cosines` (P, n) float16: of the pairs' maps of the true class, see `pair_cosines`;
        `empty` (M, ⌈n / 8⌉) uint8: packed bits, which of these maps are empty. Both of the n images that
        `compared_positions` picks.
    """

    def of_part(part: Tensor) -> tuple[Tensor, Tensor]:
        normalised, empty = normalise(grad_cam(nets, to_input(pixels[part]), labels[part]))
        return pair_cosines(normalised).half(), empty

    cosines, empty = zip(*in_parts(of_part, compared_positions(labels), batch), strict=True)
    packed = np.packbits(torch.cat(empty, dim=1).cpu().numpy(), axis=-1)
    return {"cosines": np.ascontiguousarray(torch.cat(cosines, dim=1).cpu().numpy()), "empty": packed}


def shown_record(
    nets: Sequence[nn.Module],
    pixels: Tensor,
    labels: Tensor,
    logits: Tensor,
    *,
    to_input: Callable[[Tensor], Tensor],
    score: Score = "probability",
) -> dict[str, NDArray[Any]]:
    """The part of a cell's `cam.npz` that is looked at: whole maps of some test images.

    These are the first `OF_EACH` test images of the first `CLASSES` classes: a rule that looks at no prediction, so
    that all methods hold the same ones, class by class in test order.

    Args:
        nets, pixels, labels, to_input: as in `overlap_record`.
        logits: (M, N, C), what was predicted for the test images: in another precision, maybe, than that of the maps.
        score: see `grad_cam`.

    Returns:
        `maps_true`, `maps_predicted` (M, n, H', W') float16: normalised maps of the images, of their class and of the
        one that each member predicts;
        `descriptors` (M, n, H', W') float16: channel means of the feature maps;
        `descriptor_mask` (M, n, H', W') bool: the cells of them that the distance loss keeps;
        `predicted` (M, n), `voted` (n,), `labels` (n,), `positions` (n,) int64, `pixels` (n, H, W, 3) uint8: of the
        same images; `voted` is the class of the soft vote; `score` (): whose gradient the maps are made of.
    """
    positions = torch.cat([(labels == label).nonzero()[:OF_EACH, 0] for label in labels.unique()[:CLASSES]])
    predicted = logits.argmax(-1)
    vote = logits[:, positions].double().softmax(-1).mean(0)

    def maps_of(part: Tensor) -> dict[str, Tensor]:
        shown = to_input(pixels[part])
        with torch.no_grad():
            maps = [net(shown)[1] for net in nets]
        after_maps = nets_after_maps(nets, maps)
        mapped, inputs = (after_maps, row_numbers(len(part), shown.device)) if after_maps else (nets, shown)
        descriptors, masked = (torch.stack([descriptor(f, mask=mask) for f in maps]) for mask in (False, True))
        maps_true, _ = normalise(grad_cam(mapped, inputs, labels[part], score=score))
        maps_predicted, _ = normalise(grad_cam(mapped, inputs, predicted[:, part], score=score))
        return {
            "maps_true": maps_true.half(),
            "maps_predicted": maps_predicted.half(),
            "descriptors": descriptors.half(),
            # A cell of 0 that is kept looks as if it were not; it counts for nothing either way.
            "descriptor_mask": masked != 0,
        }

    parts = list(in_parts(maps_of, positions, BATCH))
    record = {
        **{name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]},
        "predicted": predicted[:, positions],
        "voted": vote.argmax(-1),
        "labels": labels[positions],
        "positions": positions,
        "pixels": pixels[positions].permute(0, 2, 3, 1),
    }
    arrays = {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in record.items()}
    return arrays | {"score": np.array(score)}
