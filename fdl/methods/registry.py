"""The methods: what a training adds to the members' cross-entropies.

A method sees ONE ensemble and returns a 0-d loss; the engine adds it to the *sum* of the
cross-entropies. Its keyword parameters come from the settings (`fdl/core/method_parameters.py`).

Your own needs no line here: write a function of the same form in a module of the project folder and
name it in params.yaml, `methods: [classical, mymodule:function]`. It gets `cosine_weight` and
`gaussian_weight` of the cell if it asks for them, and the values of `method_params`. Its cells are
trained again when the function changes, or anything that it uses: in its own module, in `fdl`, or in
other modules of the project folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fdl.methods.losses import feature_distance
from fdl.methods.own import load_own

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


def fdl_cosine(
    maps: Sequence[Tensor],
    logits: Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    cosine_weight: float,
) -> Tensor:
    """Ablation: the cosine term of the distance loss alone, with its weight in the whole."""
    return feature_distance(maps, cosine_weight, 0).total


def fdl_gaussian(
    maps: Sequence[Tensor],
    logits: Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    gaussian_weight: float,
) -> Tensor:
    """Ablation: the Gaussian term of the distance loss alone, with its weight in the whole."""
    return feature_distance(maps, 0, gaussian_weight).total


def gncl(
    maps: Sequence[Tensor],
    logits: Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    strength: float,
) -> Tensor:
    """Generalised negative correlation learning: diversity of the outputs.

    With f̄ the mean of the members' logits h_m and ℓ the cross-entropy, GNCL minimises
    λ ℓ(f̄) + (1 − λ)/M Σ ℓ(h_m). The engine adds Σ ℓ(h_m); what is added here makes it M times that:
    λ (M ℓ(f̄) − Σ ℓ(h_m)), never positive since ℓ is convex. At λ = 1 only the ensemble is trained.

    Source: Buschjäger, Pfahler, Morik 2020 (2011.02952), equation 5 as numbered in the authors' code
    (sbuschjaeger/gncl, GNCLClassifier, mode "upper", which bounds their equation 4 and stays bounded itself).
    """
    mean = torch.stack(list(logits)).mean(dim=0)
    alone = torch.stack([functional.cross_entropy(member, labels) for member in logits])
    return strength * (len(logits) * functional.cross_entropy(mean, labels) - alone.sum())


def cka(
    maps: Sequence[Tensor],
    logits: Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    strength: float,
) -> Tensor:
    """Representational similarity between the members' feature maps, penalised.

    Per pair of members the linear centred kernel alignment |YᵀX|² / (|XᵀX| |YᵀY|) (Frobenius norms),
    where X and Y hold one row per image and cell and one column per channel, less the columns' means:
    0 … 1, whatever the order and scale of the channels; 0 for a constant map. The loss is λ M times the
    mean over pairs: for every member λ times its mean similarity to the others.

    Source: Wald et al. 2307.02516, their linear CKA variant with cells as samples, as in the authors'
    code (`rep_trans/losses/utils.py`; Kornblith et al. 1905.00414). There every new net is compared with
    frozen earlier ones at chosen depths; here all members are trained jointly, and the last map is compared.
    """
    x = torch.stack([m.to(torch.promote_types(m.dtype, torch.float32)) for m in maps])
    x = x.permute(0, 1, 3, 4, 2).flatten(1, 3)  # (M, B·H·W, C)
    x = x - x.mean(dim=1, keepdim=True)
    # Of norm 1 first: the squares of squares below would overflow float32.
    x = functional.normalize(x.flatten(1), dim=1, eps=1e-6).view_as(x)
    i, j = torch.triu_indices(len(maps), len(maps), offset=1, device=x.device)
    across = (x[i].mT @ x[j]).square().sum(dim=(-2, -1))
    within = (x.mT @ x).square().sum(dim=(-2, -1)).clamp(min=1e-12).rsqrt()
    return strength * len(maps) * (across * within[i] * within[j]).mean()


def smd(
    maps: Sequence[Tensor],
    logits: Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    strength: float,
) -> Tensor:
    """Saliency map diversity: members look at different places for the true class.

    With s_m a member's saliency map of an image, the loss is λ M times the mean over images of
    log Σ_{i<j} exp cos(s_i, s_j). The saliency is the Grad-CAM map of the true class's logit: the feature
    map weighted by its gradient's mean per channel, summed over channels, negative cells set to 0; a map
    without a positive cell has cosine 0. Training goes through that gradient, once more differentiated.
    In training mode batch norm in a head ties the images of a batch together, in this gradient too.

    Source: the aggregate is that of SMD, Bogun et al. 2112.03615, whose saliency is the gradient by the
    input, read from a re-implementation (corl-team/sdde, `exp_cosine_similarity`); the paper's equation
    was not available. The saliency is that of SDDE (2305.11616, same repository), without its cropping
    and standardisation of the maps.
    """
    saliencies = []
    for feature_map, scores in zip(maps, logits, strict=True):
        true_class = scores.gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(true_class, feature_map, create_graph=True)
        wide = torch.promote_types(feature_map.dtype, torch.float32)
        weights = gradient.to(wide).mean(dim=(-2, -1), keepdim=True)
        cam = functional.relu((weights * feature_map.to(wide)).sum(dim=1))  # (B, H, W)
        saliencies.append(functional.normalize(cam.flatten(1), dim=1, eps=1e-6))
    s = torch.stack(saliencies)  # (M, B, H·W)
    i, j = torch.triu_indices(len(maps), len(maps), offset=1, device=s.device)
    cosines = (s[i] * s[j]).sum(dim=-1)  # (pairs, B)
    return strength * len(maps) * cosines.logsumexp(dim=0).mean()


@dataclass(frozen=True)
class Entry:
    """A method of the package, and all that is known of it besides its function's docstring."""

    function: Method
    title: str  # as tables and figures print it
    strength: float | None = None  # default of its parameter of this name


class _Methods(dict[str, Method]):
    """The registered methods by name; a name with a dot is a user's own and imported when asked for."""

    def __missing__(self, name: str) -> Method:
        return load_own(name)


# `fdl.core.method_sources` reads this without running it: names of functions and plain values alone.
#
# The strength of a neighbour is its weight beside the *mean* cross-entropy of the members, as its source weights it.
# None is tuned on the benchmark.
ENTRIES = {
    "classical": Entry(classical, "classical"),
    "fdl": Entry(fdl, "FDL"),
    "fdl-cosine": Entry(fdl_cosine, "FDL, cosine term"),
    "fdl-gaussian": Entry(fdl_gaussian, "FDL, Gaussian term"),
    # λ of 0 … 1. Inside the authors' sweep 0, 0.1 … 0.9 (sbuschjaeger/gncl, CIFAR100/run.py), which names no best.
    "gncl": Entry(gncl, "GNCL", strength=0.5),
    # λ of the similarity term. No source: the text of 2307.02516 with its value was not available. Untuned.
    "cka": Entry(cka, "CKA", strength=1.0),
    # λ of SDDE's own runs on CIFAR-10 and CIFAR-100 (corl-team/sdde, scripts/uni/gradcam), there on the mean of
    # the same cosines. SMD's own value was not available. Untuned.
    "smd": Entry(smd, "SMD", strength=0.005),
    # The controls (`fdl/core/controls.py`): what differs is how they are trained.
    "deep-ensemble": Entry(classical, "deep ensemble"),
    "wide": Entry(classical, "one wide net"),
    "tuned": Entry(classical, "classical, tuned rate"),
}
METHODS = _Methods({name: entry.function for name, entry in ENTRIES.items()})
