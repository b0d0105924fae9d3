"""Grad-CAM at the feature map on which the distance loss acts (docs/reference.md 7).

This module computes the class activation maps and the arrays that a cell's record stores about them in `cam.npz`. A
cell is one trained ensemble. `fdl.evaluation.overlap` computes from `cam.npz` how far the members' maps overlap.

Letters in the shapes: M members, P = M (M - 1) / 2 pairs of members, N test images, n of them that are chosen, B images
of a batch, C classes, K channels.
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

# Only one net's graph for one batch exists at a time. With 50 images it takes no more memory than a training step,
# which keeps the graphs of five nets for batches of ten.
BATCH = 50
# A record holds maps of the first `OF_EACH` test images of each of the first `CLASSES` classes, in label order. Several
# images per class let a figure pick the first one that both methods classify correctly.
CLASSES, OF_EACH = 10, 4
Score = Literal["probability", "logit"]


def grad_cam(nets: Sequence[nn.Module], images: Tensor, classes: Tensor, *, score: Score = "probability") -> Tensor:
    """Signed Grad-CAM maps of all members: Σₖ αₖ Fₖ, where αₖ is the spatial mean of ∂score/∂Fₖ; not normalised.

    The authors' score is the softmax probability p of the class. Its gradient is p (1 - p) times the gradient of the
    margin z - log Σ exp(other logits), where z is the logit of the class. The gradient of the margin does not vanish
    when the softmax saturates. So we differentiate the margin and multiply by p (1 - p) in float64: the map of a
    confident net is then small but not zero, for margins up to 700.

    Args:
        nets: M members in evaluation mode, each returning (logits (B, C), feature map (B, K, H', W')).
        images: (B, 3, H, W), as the nets take them.
        classes: the class whose score is differentiated: (B,) for all members, or (M, B) for each member its own.
        score: "probability", which the authors use, or "logit".

    Returns:
        (M, B, H', W') in float64.

    Raises:
        ValueError: a net is in training mode, in which its map would depend on the other images of the batch.
    """
    if any(net.training for net in nets):
        raise ValueError("grad_cam needs nets in evaluation mode")
    by_member = zip(nets, classes.expand(len(nets), len(images)), strict=True)
    return torch.stack([_grad_cam(*_forward(net, images), chosen, score) for net, chosen in by_member])


def _forward(net: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, C) and feature map (B, K, H', W'), connected by a graph."""
    with torch.enable_grad():
        # The images require a gradient, so that a graph is built even if no weight requires one.
        logits, feature_map = net(images.detach().requires_grad_())
    return logits, feature_map


def _grad_cam(logits: Tensor, feature_map: Tensor, classes: Tensor, score: Score) -> Tensor:
    """The maps (B, H', W') of one member."""
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
    """Divide the positive part of each map by its maximum.

    Args:
        maps: (..., H', W'), signed.

    Returns:
        The normalised maps (..., H', W') in [0, 1], float32; and booleans (...), true for each map that is empty. A map
        is empty if no value of it is positive; its normalised map is all zeros.
    """
    positive = maps.clamp(min=0)
    peak = positive.amax(dim=(-2, -1), keepdim=True)
    empty = peak == 0
    return (positive / peak.where(~empty, 1)).float(), empty[..., 0, 0]


def pair_cosines(normalised: Tensor) -> Tensor:
    """Cosine similarity of the maps of each pair of members; 0 if one of the two maps is empty.

    Args:
        normalised: (M, B, H', W'), see `normalise`.

    Returns:
        (P, B), the pairs in the order 01, 02, …, 12, …
    """
    flat = normalised.flatten(2)
    norm = flat.norm(dim=-1, keepdim=True)
    unit = flat / norm.where(norm > 0, 1)
    first, second = torch.triu_indices(len(flat), len(flat), offset=1, device=flat.device)
    cosines: Tensor = (unit[first] * unit[second]).sum(dim=-1)
    return cosines


def pair_correlations(maps: Tensor) -> Tensor:
    """Pearson's correlation between the signed maps of each pair of members, over the positions of a map.

    Args:
        maps: (M, B, H', W'), signed, see `grad_cam`.

    Returns:
        (P, B), the pairs as in `pair_cosines`; NaN if one of the two maps is constant, which leaves it undefined.
    """
    flat = maps.flatten(2).double()
    constant = flat.amax(-1) == flat.amin(-1)
    # Each map is scaled first, because the squares of values near 1e-200 would underflow.
    scaled = flat / flat.abs().amax(-1, keepdim=True).where(~constant[..., None], 1)
    centred = scaled - scaled.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).where(~constant[..., None], torch.nan)
    first, second = torch.triu_indices(len(flat), len(flat), offset=1, device=flat.device)
    correlations: Tensor = (unit[first] * unit[second]).sum(dim=-1).clamp(-1, 1)
    return correlations


def compared_positions(labels: Tensor, most: int = COMPARED) -> Tensor:
    """Choose the test images on which claim C4 (docs/claims.md) compares the members' maps.

    The rule takes the first image of every class, then the second of every class, and so on, up to `most` images. It
    does not depend on predictions, so it chooses the same images for all methods and seeds.

    Args:
        labels: (N,), of all test images.
        most: the largest number of images to choose.

    Returns:
        (n,), positions of the chosen images in ascending order, n = min(N, `most`).
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
    """The correlations of the members' signed maps: the part of `cam.npz` that claim C4b compares.

    Each member's map is that of the logit of the class that this member predicts. The maps are signed, because the
    positive part of a map is empty for most wrong predictions; they are of the logit, because the gradient of the
    probability vanishes for confident ones.

    Args:
        nets, pixels, labels, to_input, batch: as in `overlap_record`.
        logits: (M, N, C), the members' predictions for the test images.

    Returns:
        `signed_correlations` (P, n) float16, see `pair_correlations`;
        `signed_positions` (n,) int64, see `compared_positions`.
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
    """The part of a cell's `cam.npz` that says how far the members' maps of the true class overlap.

    Args:
        nets: M members in evaluation mode.
        pixels: (N, 3, H, W) uint8, the test images.
        labels: (N,).
        to_input: converts pixels to the input of the nets.
        batch: number of images per pass.

    Returns:
        Two arrays about the n images that `compared_positions` chooses:
        `cosines` (P, n) float16, see `pair_cosines`;
        `empty` (M, ⌈n / 8⌉) uint8, packed bits that say which maps are empty.
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
    """The part of a cell's `cam.npz` that figures show: whole maps of some test images.

    The images are the first `OF_EACH` test images of each of the first `CLASSES` classes, class by class in test order.
    This rule does not depend on predictions, so the records of all methods hold maps of the same images.

    Args:
        nets, pixels, labels, to_input: as in `overlap_record`.
        logits: (M, N, C), the members' predictions for the test images. Their precision may differ from that of the
            maps.
        score: see `grad_cam`.

    Returns:
        Arrays about the n images:
        `maps_true`, `maps_predicted` (M, n, H', W') float16, normalised maps of the true class and of the class that
        each member predicts;
        `descriptors` (M, n, H', W') float16, channel means of the feature maps;
        `descriptor_mask` (M, n, H', W') bool, true where the distance loss keeps the descriptor;
        `predicted` (M, n) int64, the class that each member predicts;
        `voted` (n,) int64, the class of the soft vote;
        `labels` (n,), the true classes;
        `positions` (n,) int64, positions among the test images;
        `pixels` (n, H, W, 3) uint8;
        `score` (), the argument.
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
            # A value of 0 that the mask keeps is stored as masked. It contributes nothing to the loss either way.
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
