"""Which parameters a method gets, and the default strengths."""

from collections.abc import Mapping

from fdl.core.errors import InputError
from fdl.core.method_sources import MethodSource

# The strength of a neighbour is its weight beside the *mean* cross-entropy of the members, as its
# source weights it. None is tuned on the benchmark.
STRENGTHS: dict[str, float] = {
    # λ of 0 … 1. Inside the authors' sweep 0, 0.1 … 0.9 (sbuschjaeger/gncl, CIFAR100/run.py), which names no best.
    "gncl": 0.5,
    # λ of the similarity term. No source: the text of 2307.02516 with its value was not available. Untuned.
    "cka": 1.0,
    # λ of SDDE's own runs on CIFAR-10 and CIFAR-100 (corl-team/sdde, scripts/uni/gradcam), there on the mean of
    # the same cosines. SMD's own value was not available. Untuned.
    "smd": 0.005,
}


def method_params(
    method: str, source: MethodSource, weights: Mapping[str, float], given: Mapping[str, float]
) -> dict[str, float]:
    """Values of a method's keyword parameters: what the settings give, else the default.

    Args:
        method: its name.
        source: what its function asks for.
        weights: `cosine_weight` and `gaussian_weight` of the cell; every method that asks gets them.
        given: its entry in the settings' `method_params`.

    Raises:
        InputError: a parameter is given that the function does not take, or none for one that it needs.
    """
    for name in given:
        if name not in source.parameters:
            takes = ", ".join(source.parameters) or "none"
            raise InputError(f"method_params: {method} takes no parameter {name!r}; it takes: {takes}")
    known = {**weights, **({"strength": STRENGTHS[method]} if method in STRENGTHS else {}), **given}
    for name in sorted(source.required):
        if name not in known:
            raise InputError(f"method_params: {method} needs a value for {name!r}: {{{method}: {{{name}: ...}}}}")
    # A default of the function is part of its text, and so of its digest.
    wanted = source.required | given.keys()
    return {name: known[name] for name in source.parameters if name in wanted}
