"""Which parameters a method gets."""

from collections.abc import Mapping

from fdl.core.errors import InputError
from fdl.core.method_sources import MethodSource


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
    known = {**weights, **({} if source.strength is None else {"strength": source.strength}), **given}
    for name in sorted(source.required):
        if name not in known:
            raise InputError(f"method_params: {method} needs a value for {name!r}: {{{method}: {{{name}: ...}}}}")
    # A default of the function is part of its text, and so of its digest.
    wanted = source.required | given.keys()
    return {name: known[name] for name in source.parameters if name in wanted}
