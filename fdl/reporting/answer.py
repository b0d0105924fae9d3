"""The question that a preset's report answers, and its answer in one sentence, for the page and the terminal.

A preset is a block of settings in params.yaml. Its grid consists of cells: a cell is one ensemble, trained for a
dataset, backbone, number of shots (training images per class), method and seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from fdl.core.settings import Cell
from fdl.core.titles import BASELINE, METHOD, method_title, signed
from fdl.evaluation import statistics
from fdl.evaluation.statistics import LEVEL, MARGIN, Bounded, Estimate
from fdl.reporting.claim_quantities import Quantity, read_frozen
from fdl.reporting.claim_tables import Claim
from fdl.reporting.drawing import net_title
from fdl.reporting.results import SEEDS_FOR_INTERVAL, Results, differences
from fdl.results.collect import Collected

AT_CHANCE = 2.0  # percentage points; an ensemble closer to chance has learned next to nothing (docs/faq.md)
_SAYS = {
    "supported": "Yes, on this grid",
    "contradicted": "No, on this grid",
    "equivalent": f"It makes no difference of more than {MARGIN:g} points on this grid",
    "undecided": "Undecided on this grid",
}


@dataclass(frozen=True)
class Gain:
    """Mean difference from the classical ensemble in test accuracy of the soft vote, in percentage points."""

    mean: float
    interval: tuple[float, float] | None  # 95 %; None: too few seeds
    pairs: int  # number of pairs: the cells of both methods with the same dataset, backbone, shots and seed


def question(method: str | None) -> str:
    """The question that the report answers about a method; None: no method is compared with the classical ensemble."""
    if method is None:
        return "How accurate are the ensembles?"
    return f"Does {'the feature distance loss' if method == METHOD else method_title(method)} help?"


def compared_method(collected: Collected) -> str | None:
    """The method that the answer is about: `fdl`, or else the first that is not the baseline.

    None if the grid lacks the baseline or has no other method.
    """
    methods = list(dict.fromkeys(state.cell.method for state in collected.cells))
    others = [method for method in methods if method != BASELINE]
    if BASELINE not in methods or not others:
        return None
    return METHOD if METHOD in others else others[0]


def compared(method: str | None, members: int) -> str:
    """Explain the two ensembles that the answer compares; empty if nothing is compared."""
    if method is None:
        return ""
    classical = f"Classical is an ensemble of {members} nets trained jointly on the same batches"
    votes = "Unless stated otherwise, accuracies are those of the soft vote, the mean of the nets' probabilities."
    if method == METHOD:
        return f"{classical}, FDL the same ensemble trained with the feature distance loss. {votes}"
    return f"{classical}, with nothing added to their cross-entropies. {votes}"


def answer(results: Results, verdicts: Sequence[Claim]) -> str:
    """The verdict on claim C1 if there is one, or else the mean difference with its interval; one or two sentences.

    Args:
        results: results of the preset.
        verdicts: as `claims.evaluate` returned them. Empty if the preset has no frozen grid, that is, none that was
            fixed before its first training (`claims.grid`).
    """
    collected, accuracy = results.collected, results.accuracy
    method = compared_method(collected)
    if method is None:
        done = len(collected.of("done"))
        return f"No comparison: the grid has no method beside another; {done:,} of {len(collected.cells):,} cells done."
    name = f"{method_title(method)} − classical"
    overall = next((claim for claim in verdicts if claim.id == "C1" and claim.verdict is not None), None)
    if overall is not None and overall.estimate is not None:
        interval = (overall.low, overall.high) if overall.low is not None and overall.high is not None else None
        gain = Gain(overall.estimate, interval, overall.found // 2)
        if overall.verdict == "undecided" and collected.left_out:
            so_far = f"{overall.found:,} of {overall.cells:,} ensembles are done"
            begun, nets = len({(cell.dataset, cell.backbone) for cell in accuracy}), len(results.nets)
            part = (
                f" That is not a sample of the grid: only {begun} of {nets} combinations of dataset and backbone have "
                "results."
            ) * (begun < nets)
            return f"Not decided yet, {so_far}: until now {name} is {gain_text(gain)}.{part}"
        says = _SAYS.get((overall.verdict or "").partition(",")[0], overall.verdict)
        return f"{says}: {name} is {gain_text(gain)}."
    measured = pooled_gain(differences(accuracy, method))
    if measured is None:
        return "No answer yet: no pair of cells is done."
    text = f"{name} is {gain_text(measured)} over {measured.pairs:,} pairs"
    if collected.synthetic:
        return f"No answer: the images are synthetic ({text})."
    return f"No verdict, because this preset has no frozen grid: {text}."


def at_chance(results: Results) -> str:
    """Name the settings in which the classical ensemble is hardly better than chance, and suggest what to try.

    The measure is the soft vote's test accuracy, or its balanced accuracy if the classes are unequal. Empty if there is
    no such setting.
    """
    collected = results.collected
    scores = {**results.accuracy, **results.values("soft", "accuracy_balanced")}
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for cell, score in scores.items():
        if cell.method == BASELINE:
            values.setdefault((cell.dataset, cell.backbone), {}).setdefault(cell.shots, []).append(100 * score)
    named = []
    for net, by_shots in values.items():
        chance = 100 * (collected.datasets[net[0]].chance or 0)
        low = [shots for shots in sorted(by_shots) if chance and fmean(by_shots[shots]) < chance + AT_CHANCE]
        if low:
            counts = ", ".join(map(str, low))
            mean = fmean(score for shots in low for score in by_shots[shots])
            named.append(f"{net_title(collected, net)} with {counts} per class ({mean:.1f} %, chance {chance:.1f} %)")
    if not named:
        return ""
    return (
        f"Some classical ensembles are less than {AT_CHANCE:g} points better than guessing: {'; '.join(named)}. They "
        "have learned next to nothing, so a comparison there says little about the loss, and more seeds do not help. "
        "Try more epochs, the whole width, larger images, more images per class, or an easier division of the images "
        "(docs/faq.md)."
    )


def gain_text(gain: Gain) -> str:
    """`−1.7 points of test accuracy (95 % interval −2.8 to −0.5)`."""
    if gain.interval is None:
        return f"{signed(gain.mean)} points of test accuracy (too few seeds for an interval)"
    low, high = gain.interval
    interval = f"{100 * LEVEL:.0f} % interval {signed(low)} to {signed(high)}"
    return f"{signed(gain.mean)} points of test accuracy ({interval})"


def first_sentence(text: str) -> tuple[str, str]:
    """The first sentence of a text, and the rest."""
    head, stop, rest = text.partition(". ")
    return head + "." * bool(stop), rest


def pooled_gain(gains: Mapping[Cell, float]) -> Gain | None:
    """Mean over pairs, with an interval by jackknife over the seeds of every dataset; test images are held fixed.

    Args:
        gains: by cell of the method, its difference from classical in points. Any other number per cell works, too.

    Returns:
        None without a pair. The interval is None below `SEEDS_FOR_INTERVAL` seeds.
    """
    if not gains:
        return None
    datasets, seeds = ([getattr(cell, name) for cell in gains] for name in ("dataset", "seed"))
    rows = np.array(list(gains.values()))[:, None]
    estimate = statistics.jackknife(statistics.weighted_mean, rows, datasets, seeds)
    interval = _interval(estimate) if len(set(seeds)) >= SEEDS_FOR_INTERVAL else None
    return Gain(float(estimate.value), interval, len(gains))


def _interval(estimate: Estimate | Bounded) -> tuple[float, float] | None:
    """The 95 % interval; None if the spread between seeds is unknown."""
    low, high = (float(bound) for bound in estimate.interval())
    return (low, high) if np.isfinite([low, high]).all() else None


def gains(results: Results, method: str) -> list[tuple[str, Gain | None]]:
    """The gain over the baseline for every dataset and backbone in the grid's order, and at the end for all of them.

    The forest plot draws them. If the preset has a frozen grid and the method is `fdl`, the gains are estimated from
    the cells of that grid by the rules of the verdicts, with the same intervals; otherwise by `pooled_gain`.

    Returns:
        Pairs of a title and a gain, which is None if it cannot be estimated. With a single dataset and backbone there
        is no row for all.
    """
    titles = {net: net_title(results.collected, net) for net in results.nets}
    if results.params.claims.grid is not None and method == METHOD:
        quantity = _first_claim(results)
        rows = [(title, _of_claim(quantity, net)) for net, title in titles.items()]
        rows.append(("all", _of_claim(quantity, None)))
    else:
        by_cell = differences(results.accuracy, method)
        rows = [
            (title, pooled_gain({cell: gain for cell, gain in by_cell.items() if (cell.dataset, cell.backbone) == net}))
            for net, title in titles.items()
        ]
        rows.append(("all", pooled_gain(by_cell)))
    return rows if len(titles) > 1 else rows[:1]


def _first_claim(results: Results) -> Quantity:
    from fdl.reporting.claims import RULES

    frozen = read_frozen(results)
    families = RULES[results.params.claims.rules].families(results.params, frozen)
    return next(quantity for family in families for quantity in family if quantity.claim == "C1")


def _of_claim(quantity: Quantity, net: tuple[str, str] | None) -> Gain | None:
    values = {key: value for key, value in quantity.values.items() if net in (None, (key[0].dataset, key[0].backbone))}
    estimate = quantity.estimate(values) if values else None
    if estimate is None or not np.isfinite(estimate.value):
        return None
    return Gain(float(estimate.value), _interval(estimate), len(values))
