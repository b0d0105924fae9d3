"""Rules 1 of docs/claims.md, fixed before preset `lite` was trained. They judge only this preset and never change."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

import numpy as np

from fdl.core.settings import Bundle, Cell, Params
from fdl.core.titles import BASELINE, METHOD
from fdl.evaluation import statistics
from fdl.evaluation.overlap import left_out, overlap
from fdl.evaluation.statistics import Array, Estimate
from fdl.reporting.claim_quantities import (
    COMBINER,
    FLOOR,
    Frozen,
    Quantity,
    Rules,
    Values,
    against_members,
    floored_mean,
    gain,
    jackknife,
    mean,
    median,
    overlaps_of,
    paired,
    points,
    slices,
)
from fdl.reporting.results import baseline_pairs

LEFT_OUT_MOST = 0.1  # C4 is undecided if a larger share of the pairs of members is left out because of an empty map
INACTIVE = 0.5  # C7: from this ratio of the cosine sums on, the distance loss counts as inactive


def _families(params: Params, frozen: Frozen) -> list[list[Quantity]]:
    c1 = gain("C1", "all", frozen.of(METHOD, BASELINE), points(frozen, COMBINER), mean)
    return [
        [replace(c1, sensitivity=floored_mean)],
        [gain("C2", title, cells, points(frozen, name), mean) for title, name, cells in slices(frozen)],
        [_gain_over_shots(frozen)],
        [_overlap(params, frozen)],
        [_predictions(frozen)],
        *([quantity] for quantity in against_members(params, frozen, mean)),
    ]


def _activity(params: Params, frozen: Frozen) -> Quantity:
    """C7: for every pair, the ratio FDL / classical of the cosine sums on test images."""
    cells, sums = frozen.of(METHOD, BASELINE), frozen.measures["cosine_sum"]
    pairs = baseline_pairs(cells, sums)
    values = {(cell.bundle, cell.seed): np.array([sums[cell] / sums[twin]]) for cell, twin in pairs}
    return Quantity("C7", "all", cells, frozenset(sums), values, median, problem="" if sums else "not measured")


def _gain_over_shots(frozen: Frozen) -> Quantity:
    """C3: slope over ln(shots) of the difference between the logits of accuracy.

    Only bundles in which both methods are at least `FLOOR` above chance are used.
    """
    cells = frozen.of(METHOD, BASELINE)
    logits: dict[Cell, Array] = {}
    accuracies: dict[tuple[Bundle, str], list[float]] = defaultdict(list)
    for cell in cells:
        if cell in frozen.correct:
            correct = frozen.correct[cell][COMBINER].astype(float)
            # Half an image is added to both counts, so that the logit of an accuracy of 0 or 1 is finite.
            logits[cell] = np.log([(correct.sum() + 0.5) / ((1 - correct).sum() + 0.5)])
            accuracies[cell.bundle, cell.method].append(correct.mean())
    low = {bundle for (bundle, _), each in accuracies.items() if fmean(each) < frozen.chance[bundle.dataset] + FLOOR}
    values = {key: value for key, value in paired(logits, cells).items() if key[0] not in low}
    used, asked = len({bundle for bundle, _ in values}), len({cell.bundle for cell in cells})
    beside = f"{used} of {asked} settings are {100 * FLOOR:g} points or more above chance"
    return Quantity("C3", "all", cells, frozenset(logits), values, _slope, beside)


def _overlap(params: Params, frozen: Frozen) -> Quantity:
    """C4: difference in mean overlap of the members' class activation maps, image by image.

    If a map of two members is empty in one method, these two members are left out of both methods for this image.
    """
    arrays = overlaps_of(params, frozen)
    values, shares = {}, []
    for cell, twin in baseline_pairs(arrays, arrays):
        mine, other = arrays[cell], arrays[twin]
        without = left_out(mine) | left_out(other)
        (overlap_here, pairs, share), (overlap_there, _, _) = (
            overlap(arm["cosines"], without) for arm in (mine, other)
        )
        shares.append(share)
        if pairs.any():
            values[cell.bundle, cell.seed] = np.array([(overlap_here - overlap_there)[pairs > 0].mean()])
    problem = ""
    if shares and fmean(shares) > LEFT_OUT_MOST:
        problem = f"{100 * fmean(shares):.0f} % of the pairs of members are left out because a map is empty"
    cells = frozen.of(METHOD, BASELINE)
    return Quantity("C4", "all", cells, frozenset(arrays), values, _mean_of_cells, problem=problem)


def _predictions(frozen: Frozen) -> Quantity:
    """C5: difference in the members' disagreement, in points, if the mean accuracy of the members did not differ."""
    disagreement, information = frozen.measures["disagreement"], frozen.measures["mutual_information"]
    cells = frozen.of(METHOD, BASELINE)
    measured = {
        cell: np.array([100 * correct["mean"].mean(), 100 * disagreement[cell], information[cell]])
        for cell, correct in frozen.correct.items()
        if cell in disagreement and cell in information
    }
    values = paired(measured, cells)
    beside = f"difference of mutual information {fmean(v[2] for v in values.values()):+.4f} nats" if values else ""
    return Quantity("C5", "all", cells, frozenset(measured), values, _intercept, beside.replace("-", "−"))


def _mean_of_cells(values: Values) -> Estimate:
    """Mean of values (1,); seeds are random, test images are held fixed."""
    return jackknife(statistics.weighted_mean, values, list(values.values()))


def _slope(values: Values) -> Estimate:
    """Slope of values (1,) over ln(shots), with an intercept for each dataset and backbone."""
    lines = sorted({(bundle.dataset, bundle.backbone) for bundle, _ in values})
    rows = [[lines.index((b.dataset, b.backbone)), np.log(b.shots), value[0]] for (b, _), value in values.items()]
    return jackknife(statistics.common_slope, values, rows)


def _intercept(values: Values) -> Estimate:
    """Intercept of the line of the second value of each pair over the first."""
    return jackknife(statistics.intercept, values, [value[:2] for value in values.values()])


_TEXTS: Mapping[str, str] = {
    "C1": "FDL beats the classical ensemble",
    "C2": "FDL beats the classical ensemble, by slice",
    "C3": "The gain is larger with fewer shots",
    "C4": "Members look at different places",
    "C5": "Members differ in what they predict",
    "C6a": "The ensemble beats its mean member",
    "C6b": "The ensemble beats the member best on validation",
    "C7": "The distance loss is active",
}

RULES = Rules(
    number=1,
    texts=_TEXTS,
    units={"C3": "log-odds per unit of ln(shots)", "C4": "cosine similarity", "C7": "ratio"},
    below=("C3", "C4"),
    families=_families,
    activity=_activity,
    inactive=lambda ratio: bool(ratio[0] >= INACTIVE),
    active_text=f"ratio below {INACTIVE:g}",
    intervals="for C1, C2 and C6 over seeds and test images, for C3 to C5 over seeds with the test images held fixed",
)
