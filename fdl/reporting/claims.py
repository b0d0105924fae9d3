"""The verdicts on the paper's claims, on the frozen grid of a preset, by the rules of docs/claims.md.

The frozen grid (`claims.grid`) is the set of cells that the preset fixed before its first training. `claim_rules_1` and
`claim_rules_2` define the quantity that each claim compares, `fdl.evaluation.statistics` computes estimates and
p values, and `claim_tables` writes the claims to files.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fdl.core import files, layout
from fdl.core.settings import Bundle, Params
from fdl.core.titles import SYNTHETIC, backbone_title
from fdl.evaluation import statistics
from fdl.evaluation.statistics import ALPHA, LEVEL, MARGIN, Array, Bounded, Estimate, holm
from fdl.reporting import claim_rules_1, claim_rules_2, claim_tables
from fdl.reporting.claim_quantities import Frozen, Quantity, Rules, Values, read_frozen, stacked
from fdl.reporting.claim_tables import HARMS_LESS, INCOMPLETE, Claim, Part, interval_text, signed
from fdl.reporting.results import Results, read_results

SCHEMA_VERSION = 2
SEEDS_NEEDED = 5

RULES = {rules.number: rules for rules in (claim_rules_1.RULES, claim_rules_2.RULES)}
_PAIRS = ("C4a", "C4b", "C5a", "C5b")  # claims that form families of two
_LEVEL = f"{100 * LEVEL:.0f} %"
_NAMED = 5  # number of cells or settings that a reason names


def evaluate(params: Params, results: Results | None = None) -> list[Claim]:
    """Judge every claim.

    Args:
        params: the settings.
        results: what `collect` gathered; None: read it.

    Returns:
        The claims with their verdicts; empty if the preset has no frozen grid.

    Raises:
        InputError: `collect` has not run for these settings, or a record was changed after it ran.
    """
    if params.claims.grid is None:
        return []
    frozen, rules = read_frozen(results or read_results(params)), RULES[params.claims.rules]
    families = [*rules.families(params, frozen), [rules.activity(params, frozen)]]
    return [claim for family in families for claim in _judge(params, rules, frozen, family)]


def write_claims(params: Params, claims: Sequence[Claim]) -> list[Path]:
    """Write `claims.json` and the table of claims in every format below `reports/<preset>/`; return the files.

    Args:
        params: the settings.
        claims: as `evaluate` returned them.
    """
    folder = layout.report_folder(params)
    caption = claims_caption(params, claims)
    # The first claim is about the whole grid. It always has a verdict, unless the images are synthetic.
    banner = SYNTHETIC if claims and claims[0].verdict is None else None
    content = {
        "schema_version": SCHEMA_VERSION,
        "preset": params.preset,
        "grid": claims[0].grid if claims else None,
        "rules": params.claims.rules,
        "remark": params.claims.remark,
        "caption": caption,
        "claims": [claim_tables.as_written(claim) for claim in claims],
    }
    texts = {
        "claims.json": files.to_json(content).decode(),
        "tables/claims.csv": claim_tables.to_csv(claims),
        "tables/claims.md": claim_tables.to_markdown(claims, caption),
        "tables/claims.tex": claim_tables.to_latex(claims, caption),
        "tables/claims.html": claim_tables.to_html(claims, caption, banner=banner),
    }
    for name, text in texts.items():
        files.write_atomically(folder / name, text.encode())
    return [folder / name for name in texts]


def claims_caption(params: Params, claims: Sequence[Claim]) -> str:
    """What the table shows, or, if there is no frozen grid, that there are no verdicts."""
    if not claims:
        return f"No verdicts: preset {params.preset} names no frozen grid (claims.grid in params.yaml)."
    rules = RULES[params.claims.rules]
    repeats = "; a slice that is the whole grid, such as its only backbone, repeats C1 with this adjustment"
    caption = (
        f"The claims on the frozen grid {claims[0].grid} of preset {params.preset}, by rules {rules.number} of "
        f"docs/claims.md: estimates with {_LEVEL} t intervals, {rules.intervals}. "
        "Without a dataset: the range of the estimates when each dataset is left out in turn, and which one was left "
        "out. "
        f"C2: p values are adjusted by Holm's method over all slices{repeats * (rules.number == 1)}."
    )
    return f"{caption} Caveat: {params.claims.remark}" if params.claims.remark else caption


def _judge(params: Params, rules: Rules, frozen: Frozen, family: Sequence[Quantity]) -> list[Claim]:
    """Judge the claims of one family of tests; a slice that consists of a single bundle is not tested."""
    estimates = [_estimate(quantity) for quantity in family]
    tested = np.array([not _single_bundle(quantity) for quantity in family])
    unknown = np.nan, np.nan
    p = np.array([(known.p_difference(), known.p_equivalence()) if known else unknown for known in estimates])
    adjusted = np.full(p.shape, np.nan)
    adjusted[tested] = np.transpose([holm(of_test) for of_test in p[tested].T])
    return [
        _claim(params, rules, frozen, quantity, estimate, p_difference, p_equivalence)
        for quantity, estimate, (p_difference, p_equivalence) in zip(family, estimates, adjusted, strict=True)
    ]


def _estimate(quantity: Quantity, *, only: str = "", without: str = "") -> Estimate | Bounded | None:
    """The estimate, of the dataset `only` or without the dataset `without` if given; None if it is undefined."""
    values = {
        key: value
        for key, value in quantity.values.items()
        if key[0].dataset != without and only in ("", key[0].dataset)
    }
    estimate = quantity.estimate(values) if values else None
    return None if estimate is None or not np.isfinite(estimate.value) else estimate


def _single_bundle(quantity: Quantity) -> bool:
    return quantity.claim == "C2" and len({cell.bundle for cell in quantity.cells}) == 1


def _claim(
    params: Params,
    rules: Rules,
    frozen: Frozen,
    quantity: Quantity,
    estimate: Estimate | Bounded | None,
    p_difference: float,
    p_equivalence: float,
) -> Claim:
    """The claim with its verdict, if one can be given."""
    unit = rules.units.get(quantity.claim, "points")
    if unit != "points":
        p_equivalence = np.nan  # the margin of ± 2 points has no meaning in other units
    claim = _without_verdict(params, rules, frozen, quantity, estimate, p_difference, p_equivalence)
    if frozen.synthetic:
        return replace(claim, reason="synthetic images")
    if _single_bundle(quantity):
        return replace(claim, reason="a slice of one dataset, backbone and number of shots")
    hindrance = quantity.problem or _incomplete(frozen, claim) or ("" if estimate else "the cells give no estimate")
    if hindrance or estimate is None:
        return replace(claim, verdict="undecided", reason=hindrance)
    if claim.id == "C7":
        verdict, reason = _activity(rules, frozen, quantity)
    else:
        favour = -estimate.value if claim.id in rules.below else estimate.value
        verdict = str(statistics.verdict(favour, p_difference, p_equivalence))
        reason = _reason(claim, verdict)
        if verdict == "supported" and quantity.gain is not None and quantity.gain <= 0:
            verdict, reason = HARMS_LESS, f"{reason}, but the estimate of C1 is {signed(float(quantity.gain))} points"
    if rules.number > 1 and claim.id != "C2":  # C2 has many rows, and these numbers would be those of C1
        reason = f"{reason}; {_rests_on(params, claim)}"
    return replace(claim, verdict=verdict, reason=reason, sensitivity=_sensitivity(frozen, quantity))


def _without_verdict(
    params: Params,
    rules: Rules,
    frozen: Frozen,
    quantity: Quantity,
    estimate: Estimate | Bounded | None,
    p_difference: float,
    p_equivalence: float,
) -> Claim:
    """The claim before it is judged: all fields but the verdict and its reason."""
    (seeds, most), unit = _seeds(quantity), rules.units.get(quantity.claim, "points")
    low, high = estimate.interval() if estimate else (np.nan, np.nan)
    inside = estimate.interval(1 - 2 * ALPHA) if estimate and unit == "points" else (np.nan, np.nan)
    datasets = sorted({cell.dataset for cell in quantity.cells})
    several = datasets if len(datasets) > 1 else []
    without = {name: _estimate(quantity, without=name) for name in several}
    return Claim(
        id=quantity.claim,
        text=rules.texts[quantity.claim],
        slice=quantity.slice,
        unit=unit,
        estimate=_number(estimate.value) if estimate else None,
        low=_number(low),
        high=_number(high),
        level=LEVEL,
        df=_number(estimate.df) if estimate else None,
        p=_number(p_difference) if estimate else None,
        p_equivalence=_number(p_equivalence) if estimate else None,
        low_equivalence=_number(inside[0]),
        high_equivalence=_number(inside[1]),
        seeds=seeds,
        most_seeds=most,
        found=sum(cell in quantity.measured for cell in quantity.cells),
        cells=len(quantity.cells),
        failed=tuple(cell.key for cell in quantity.cells if frozen.states[cell].status == "failed"),
        by_dataset={name: _part(_estimate(quantity, only=name)) for name in several},
        without={name: _number(other.value) if other else None for name, other in without.items()},
        spread=_spreads(quantity) if rules.number > 1 and quantity.claim != "C7" else {},
        precision=", ".join(frozen.precisions),
        seeds_for_equivalence=(
            estimate.seeds_for_equivalence(seeds)
            if estimate and unit == "points" and quantity.claim != "C2"  # it ignores the adjustment of slices
            else None
        ),
        beside=quantity.beside,
        verdict=None,
        reason="",
        sensitivity="",
        remark=params.claims.remark or "",
        rules=rules.number,
        grid=frozen.hash,
        titles=frozen.titles,
    )


def _part(estimate: Estimate | Bounded | None) -> Part:
    if estimate is None:
        return {"estimate": None, "low": None, "high": None}
    low, high = estimate.interval()
    return {"estimate": _number(estimate.value), "low": _number(low), "high": _number(high)}


def _cell_values(values: Values) -> Values:
    """A single value per pair: the mean over test images, and over both bounds if the values are bounds."""
    return {key: np.array([value.mean()]) for key, value in values.items()}


def _spreads(quantity: Quantity) -> Part:
    """By dataset, the standard deviation of a pair between seeds, within its bundle; None if a pair is missing."""
    arrays = stacked(_cell_values(quantity.values)) if quantity.values else []
    return {bundles[0].dataset: _number(statistics.seed_spreads(array)[0]) for bundles, array in arrays}


def _rests_on(params: Params, claim: Claim) -> str:
    """The number of seeds, the precision, and how much a pair varies between seeds and, for C1, between reruns."""
    seeds = f"{claim.seeds} to {claim.most_seeds}" if claim.most_seeds > claim.seeds else str(claim.seeds)
    parts = [f"{seeds} seeds", claim.precision]
    if known := _by_dataset(claim, claim.spread):
        parts.append(f"s.d. of a pair between seeds {known}")
    if claim.id == "C1":  # the spread between reruns is measured for its difference only
        reruns = {name: value for name, value in sorted((params.claims.reruns or {}).items()) if name in claim.spread}
        parts.append(f"between reruns {_by_dataset(claim, reruns) or 'not measured'}")
    return ", ".join(parts)


def _by_dataset(claim: Claim, values: Mapping[str, float | None]) -> str:
    """`CIFAR-10 0.7, NEU 5.5`, to two digits."""
    return ", ".join(f"{claim.titles[name]} {value:.2g}" for name, value in values.items() if value is not None)


def _sensitivity(frozen: Frozen, quantity: Quantity) -> str:
    """The interval by the alternative estimator, and the datasets that explain why it differs.

    In these the seeds' means vary less than they would if the cells were independent.
    """
    other = quantity.sensitivity(quantity.values) if quantity.sensitivity else None
    low, high = map(_number, other.interval()) if other else (None, None)
    if low is None or high is None:
        return ""
    small = []
    for bundles, array in stacked(_cell_values(quantity.values)):
        _, seen, independent = statistics.seed_spreads(array)
        if seen < independent:
            small.append(f"{frozen.titles[bundles[0].dataset]} {seen:.2f} instead of {independent:.2f}")
    holds = "includes" if low <= 0 <= high else "excludes"
    because = f" (standard deviation of the seeds' means: {', '.join(small)})" if small else ""
    return (
        f"Sensitivity: if seeds vary at least as much as independent cells would{because}, the {_LEVEL} interval is "
        f"{interval_text(low, high)} and {holds} 0"
    )


def _seeds(quantity: Quantity) -> tuple[int, int]:
    """The smallest and the largest number of seeds per bundle; only seeds whose cells all have a value count."""
    asked = {(cell.bundle, cell.seed) for cell in quantity.cells}
    lacking = {(cell.bundle, cell.seed) for cell in quantity.cells if cell not in quantity.measured}
    complete = Counter(bundle for bundle, _ in asked - lacking)
    counts = [complete[bundle] for bundle, _ in asked]
    return min(counts, default=0), max(counts, default=0)


def _incomplete(frozen: Frozen, claim: Claim) -> str:
    """What the grid lacks for a verdict; empty if it lacks nothing."""
    failed = f"; diverged: {_some(claim.failed)}" if claim.failed else ""
    if claim.found + len(claim.failed) < claim.cells:
        return f"{INCOMPLETE}: {claim.found:,} of {claim.cells:,} cells done{failed}"
    if failed:
        return f"{claim.found:,} of {claim.cells:,} cells have a result{failed}"
    # A complete slice must wait for the rest of the grid. Otherwise the order of the runs would decide which verdicts
    # are given first.
    if (done := len(frozen.correct)) < (asked := len(frozen.states)):
        return f"{INCOMPLETE}: {done:,} of {asked:,} cells of the frozen grid done"
    return f"{claim.seeds} seeds; a verdict needs {SEEDS_NEEDED}" if claim.seeds < SEEDS_NEEDED else ""


def _some(names: Sequence[str]) -> str:
    """The first few names, and the number of the others."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _reason(claim: Claim, verdict: str) -> str:
    """The reason for the verdict: the interval and, in a family of tests, the adjusted p value."""
    side = "above" if claim.estimate is not None and claim.estimate > 0 else "below"
    family = f", adjusted p {_p_text(claim.p)}" if claim.id in ("C2", *_PAIRS) else ""
    equivalent = (
        f"90 % interval {interval_text(claim.low_equivalence, claim.high_equivalence)} inside ± {MARGIN:g} points"
    )
    if verdict.startswith(("supported", "contradicted")):
        inside = f", the {equivalent}" if "," in verdict else ""
        return f"{_LEVEL} interval {side} 0{inside}{family}"
    if verdict == "equivalent":
        adjusted = f", adjusted p of equivalence {_p_text(claim.p_equivalence)}" if claim.id == "C2" else ""
        return equivalent + adjusted
    if claim.unit != "points":
        holds = claim.low is not None and claim.high is not None and claim.low <= 0 <= claim.high
        return f"{_LEVEL} interval {'includes' if holds else 'excludes'} 0{family}"
    if claim.id == "C2":  # the number of seeds needed for equivalence depends on the other slices, too
        return f"neither a difference nor equivalence{family}"
    needed = f"about {claim.seeds_for_equivalence}" if claim.seeds_for_equivalence else "no number of"
    return f"neither a difference nor equivalence; were the difference 0, equivalence would take {needed} seeds"


def _p_text(p: float | None) -> str:
    return "< 0.001" if p is not None and p < 0.001 else f"= {p:.3f}"


def _activity(rules: Rules, frozen: Frozen, quantity: Quantity) -> tuple[str, str]:
    """Verdict and reason for C7, which has no interval: it is supported if the loss is active in every pair."""
    inactive = Counter(bundle for (bundle, _), ratio in quantity.values.items() if rules.inactive(ratio))
    if not inactive:
        return "supported", f"{rules.active_text} in all {len(quantity.values):,} pairs"
    asked, count = Counter(bundle for bundle, _ in quantity.values), inactive.total()
    named = [f"{_setting(frozen, bundle)} ({seeds} of {asked[bundle]} seeds)" for bundle, seeds in inactive.items()]
    verdict = "contradicted" if count == len(quantity.values) else "undecided"
    return verdict, f"loss inactive in {count:,} of {len(quantity.values):,} pairs: {_some(named)}"


def _setting(frozen: Frozen, bundle: Bundle) -> str:
    return f"{frozen.titles[bundle.dataset]} {backbone_title(bundle.backbone)} {bundle.shots} per class"


def _number(value: float | Array) -> float | None:
    """The number, rounded so that equal records give equal files on every machine; None if it is not finite."""
    return round(float(value), 6) + 0.0 if np.isfinite(value) else None
