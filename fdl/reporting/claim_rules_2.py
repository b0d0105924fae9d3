"""Rules 2 of docs/claims.md, which judge every new grid."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, median

import numpy as np

from fdl.core.settings import Bundle, Cell, Params
from fdl.core.titles import BASELINE, METHOD
from fdl.evaluation import statistics
from fdl.evaluation.overlap import empty_maps, signed_bounds
from fdl.evaluation.statistics import Array, Bounded, Estimate
from fdl.reporting import claim_quantities
from fdl.reporting.claim_quantities import (
    COMBINER,
    FLOOR,
    Frozen,
    Quantity,
    Rules,
    Values,
    against_members,
    arrays_of,
    floored_mean,
    gain,
    overlaps_of,
    paired,
    points,
    slices,
    stacked,
)
from fdl.reporting.results import baseline_pairs

_TERMS = {"cosine": "cosine_sum", "Gaussian": "gaussian_sum"}  # terms of the loss and the metrics that measure them


def _families(params: Params, frozen: Frozen) -> list[list[Quantity]]:
    both = frozen.of(METHOD, BASELINE)
    c1 = gain("C1", "all", both, points(frozen, COMBINER), floored_mean)
    return [
        [c1],
        [
            gain("C2", title, cells, points(frozen, name), floored_mean)
            for title, name, cells in slices(frozen)
            if name != COMBINER or len(cells) < len(both)  # the whole grid with the soft vote would repeat C1
        ],
        [_gain_over_shots(frozen, c1)],
        [_empty_maps(params, frozen), _signed_maps(params, frozen)],
        [_measure("C5a", "error_correlation", frozen), _measure("C5b", "mutual_information", frozen)],
        *([quantity] for quantity in against_members(params, frozen, floored_mean)),
    ]


def _activity(params: Params, frozen: Frozen) -> Quantity:
    """C7: for every pair, the ratios FDL / classical of the distance loss and of each of its terms, on test images.

    The loss is the sum of its terms, weighted as in the FDL cell. The ratio of a term whose weight is 0 is NaN.
    """
    cells = frozen.of(METHOD, BASELINE)
    sums = [frozen.measures[metric] for metric in _TERMS.values()]
    measured = frozenset(sums[0]) & frozenset(sums[1])
    values = {}
    for cell, twin in baseline_pairs(cells, measured):
        settings = params.training_settings(cell)["method_params"]
        weights = np.array([settings["cosine_weight"], settings["gaussian_weight"]])
        mine, other = (np.array([terms[arm] for terms in sums]) for arm in (cell, twin))
        terms = [_ratio(a, b) if weight else np.nan for a, b, weight in zip(mine, other, weights, strict=True)]
        values[cell.bundle, cell.seed] = np.array([_ratio(weights @ mine, weights @ other), *terms])
    shown = [
        f"{name} term {median(known):.2f}"
        for place, name in enumerate(_TERMS, start=1)
        if (known := [value[place] for value in values.values() if np.isfinite(value[place])])
    ]
    problem = "" if measured else "not measured"
    return Quantity("C7", "all", cells, measured, values, claim_quantities.median, ", ".join(shown), problem)


def _ratio(mine: float, other: float) -> float:
    """The quotient; 1 if the divisor is not positive, as for a loss of 0, which cannot fall."""
    return float(mine / other) if other > 0 else 1.0


def _gain_over_shots(frozen: Frozen, c1: Quantity) -> Quantity:
    """C3: slope of the gain over log2(shots), in points per doubling.

    The accuracy is corrected for chance, 100 (accuracy − chance) / (1 − chance), so that datasets with different
    numbers of classes are comparable. Only bundles whose classical ensembles are at least `FLOOR` above chance are
    used. A condition on the FDL ensembles as well could hide the bundles that the loss harms.
    """
    corrected: dict[Cell, Array] = {}
    classical: dict[Bundle, list[float]] = {}
    for cell, value in points(frozen, COMBINER).items():
        chance = frozen.chance[cell.dataset]
        corrected[cell] = (value - 100 * chance) / (1 - chance)
        if cell.method == BASELINE:
            classical.setdefault(cell.bundle, []).append(value.mean() / 100 - chance)
    high = {bundle for bundle, above in classical.items() if fmean(above) >= FLOOR}
    values = {key: value for key, value in paired(corrected, c1.cells).items() if key[0] in high}
    used, asked = len({bundle for bundle, _ in values}), len({cell.bundle for cell in c1.cells})
    beside = f"classical is {100 * FLOOR:g} points or more above chance in {used} of {asked} settings"
    overall = c1.estimate(c1.values).value if c1.values else None
    return Quantity("C3", "all", c1.cells, frozenset(corrected), values, _slope, beside, gain=overall)


def _slope(values: Values) -> Estimate:
    """Slope of values (N,) over log2(shots), with an intercept for each dataset and backbone."""
    arrays = stacked(values)
    weights = statistics.slope_weights(
        [np.array([bundle.backbone for bundle in bundles]) for bundles, _ in arrays],
        [np.log2([bundle.shots for bundle in bundles]) for bundles, _ in arrays],
        [(~np.isnan(array[..., 0])).sum(-1) for _, array in arrays],
    )
    return statistics.clustered_mean([array for _, array in arrays], weights=weights, floored=True)


def _empty_maps(params: Params, frozen: Frozen) -> Quantity:
    """C4a: share of the members' maps of the true class that are empty, in percentage points."""
    arrays = overlaps_of(params, frozen)
    shares = {cell: 100.0 * empty_maps(record).mean(axis=0) for cell, record in arrays.items()}
    c4 = gain("C4a", "all", frozen.of(METHOD, BASELINE), shares, floored_mean)
    return replace(c4, beside=_arms(shares, "{:.0f} %"))


def _signed_maps(params: Params, frozen: Frozen) -> Quantity:
    """C4b: mean correlation between the members' signed maps, pair by pair of members.

    The values are the lower and upper bound of the difference for each test image, (2, N), because some correlations
    are undefined.
    """
    arrays = {cell: record["signed_correlations"] for cell, record in _signed(params, frozen).items()}
    values = {
        (cell.bundle, cell.seed): np.stack(signed_bounds(arrays[cell], arrays[twin]))
        for cell, twin in baseline_pairs(arrays, arrays)
    }
    without = {cell: 100.0 * np.isnan(mine) for cell, mine in arrays.items()}
    beside = f"pairs without a correlation, {_arms(without, '{:.1f} %')}" if without else ""
    problem = "" if arrays or not frozen.correct else "not measured"
    return Quantity("C4b", "all", frozen.of(METHOD, BASELINE), frozenset(arrays), values, _bounded, beside, problem)


def _signed(params: Params, frozen: Frozen) -> Mapping[Cell, Mapping[str, Array]]:
    """The arrays of signed maps by cell, without ensembles of a single member, which has no pairs."""
    arrays = arrays_of(params, frozen, "signed_correlations")
    return {cell: record for cell, record in arrays.items() if len(record["signed_correlations"])}


def _bounded(values: Values) -> Bounded:
    lowest, highest = (floored_mean({key: value[place] for key, value in values.items()}) for place in (0, 1))
    return Bounded(lowest, highest)


def _measure(claim: str, metric: str, frozen: Frozen) -> Quantity:
    """C5: difference in a metric that has one value per ensemble; test images are held fixed."""
    cells = frozen.of(METHOD, BASELINE)
    known = frozen.measures[metric]
    measured = {cell: np.array([known[cell]]) for cell in cells if cell in known}
    quantity = gain(claim, "all", cells, measured, floored_mean)
    return replace(quantity, beside=_arms(measured, "{:.2f}"), problem="" if measured else "not measured")


def _arms(measured: Mapping[Cell, Array], style: str) -> str:
    """The means of both methods, `FDL 0.12, classical 0.34`."""
    means = []
    for method, title in ((METHOD, "FDL"), (BASELINE, "classical")):
        values = [float(value.mean()) for cell, value in measured.items() if cell.method == method]
        means += [f"{title} {style.format(fmean(values))}"] if values else []
    return ", ".join(means).replace("-", "−")


_TEXTS: Mapping[str, str] = {
    "C1": "FDL beats the classical ensemble",
    "C2": "FDL beats the classical ensemble, by slice",
    "C3": "The gain is larger with fewer shots",
    "C4a": "The members' maps are empty less often",
    "C4b": "Members look at different places",
    "C5a": "Members err on different images",
    "C5b": "Members differ in what they predict",
    "C6a": "The ensemble beats its mean member",
    "C6b": "The ensemble beats the member best on validation",
    "C7": "The distance loss is active",
}

RULES = Rules(
    number=2,
    texts=_TEXTS,
    units={
        "C3": "points per doubling of shots",
        "C4a": "points of the maps",
        "C4b": "correlation",
        "C5a": "correlation",
        "C5b": "nats",
        "C7": "ratio",
    },
    below=("C3", "C4a", "C4b", "C5a"),
    families=_families,
    activity=_activity,
    inactive=lambda ratio: bool(ratio[0] >= 1),
    active_text="the weighted loss on test images falls",
    intervals="over seeds and test images, for C5 over seeds with the test images held fixed; the variance "
    "between seeds counts as at least that of independent cells; C4b: the worst case of pairs without a correlation",
)
