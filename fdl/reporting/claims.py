"""The paper's claims as tests, on the frozen grid (`claims.grid`) of a preset; decided beforehand in docs/claims.md.

`claim_quantities` says what each of them compares, `statistics` how sure that is, `claim_tables` writes them; here
stand the verdicts.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from fdl import layout, records
from fdl.params import Params
from fdl.reporting import claim_tables, statistics
from fdl.reporting.claim_quantities import INACTIVE, Frozen, Quantity, activity, families, read_frozen
from fdl.reporting.claim_tables import Claim, interval_text
from fdl.reporting.results import Results, read_results
from fdl.reporting.statistics import ALPHA, LEVEL, MARGIN, Array, Estimate, holm
from fdl.reporting.titles import SYNTHETIC

SCHEMA_VERSION = 1
SEEDS_NEEDED = 5

CLAIMS = {
    "C1": "FDL beats the classical ensemble",
    "C2": "FDL beats the classical ensemble, by slice",
    "C3": "The gain is larger with fewer shots",
    "C4": "Members look at different places",
    "C5": "Members differ in what they predict",
    "C6a": "The ensemble beats its mean member",
    "C6b": "The ensemble beats the member best on validation",
    "C7": "The distance loss is active",
}
_UNITS = {"C3": "logit per ln shots", "C4": "cosine", "C7": "ratio"}  # of the others: percentage points
_BELOW = ("C3", "C4")  # values below 0 are in favour of these
_LEVEL = f"{100 * LEVEL:.0f} %"
_NAMED = 5  # cells that a reason names


def evaluate(params: Params, results: Results | None = None) -> list[Claim]:
    """Every claim; none where the preset has no frozen grid.

    Args:
        params: the settings.
        results: what `collect` gathered, where that is read already.

    Raises:
        InputError: `collect` has not run for these settings, or a record was changed since.
    """
    if params.claims.grid is None:
        return []
    frozen = read_frozen(results or read_results(params))
    return [claim for family in [*families(params, frozen), [activity(frozen)]] for claim in _judge(frozen, family)]


def write_claims(params: Params, claims: Sequence[Claim]) -> list[Path]:
    """Write `claims.json` and the table of claims in every format below `reports/<preset>/`; return the files.

    Args:
        params: the settings.
        claims: as `evaluate` gave them.
    """
    folder = layout.report_folder(params)
    caption = claims_caption(params, claims)
    # Of the whole grid there is always a verdict, unless the images are synthetic.
    banner = SYNTHETIC if claims and claims[0].verdict is None else None
    content = {
        "schema_version": SCHEMA_VERSION,
        "preset": params.preset,
        "grid": claims[0].grid if claims else None,
        "caption": caption,
        "claims": [asdict(claim) | {"reading": claim.reading} for claim in claims],
    }
    texts = {
        "claims.json": records.to_json(content).decode(),
        "tables/claims.csv": claim_tables.to_csv(claims),
        "tables/claims.md": claim_tables.to_markdown(claims, caption),
        "tables/claims.tex": claim_tables.to_latex(claims, caption),
        "tables/claims.html": claim_tables.to_html(claims, caption, banner=banner),
    }
    for name, text in texts.items():
        records.write_atomically(folder / name, text.encode())
    return [folder / name for name in texts]


def claims_caption(params: Params, claims: Sequence[Claim]) -> str:
    """What the table shows; without a frozen grid, that there are no verdicts."""
    if not claims:
        return f"No verdicts: preset {params.preset} names no frozen grid (claims.grid in params.yaml)."
    return (
        f"The claims on the frozen grid {claims[0].grid} of preset {params.preset}: estimates with {_LEVEL} t "
        "intervals, of C1, C2 and C6 by seed and test image, of C3 to C5 by seed with the test images held fixed. "
        "Without a dataset: the smallest and the largest estimate that is left, and which dataset was left out. "
        "C2: verdicts by Holm's method over all slices; one that is the whole grid, as that of its only backbone, "
        "repeats C1 under this correction."
    )


def _judge(frozen: Frozen, family: Sequence[Quantity]) -> list[Claim]:
    """The claims of one family of tests; a slice of a single bundle is none of it."""
    estimates = [_estimate(quantity) for quantity in family]
    tested = [position for position, quantity in enumerate(family) if not _single_bundle(quantity)]
    differs, equivalent = np.full(len(family), np.nan), np.full(len(family), np.nan)
    differs[tested] = holm([_p(estimates[position], Estimate.p_difference) for position in tested])
    equivalent[tested] = holm([_p(estimates[position], Estimate.p_equivalence) for position in tested])
    return [
        _claim(frozen, quantity, estimate, p, p_equivalence)
        for quantity, estimate, p, p_equivalence in zip(family, estimates, differs, equivalent, strict=True)
    ]


def _estimate(quantity: Quantity, without: str | None = None) -> Estimate | None:
    """The estimate, without a dataset if one is named; None where the values found do not give any."""
    values = {key: value for key, value in quantity.values.items() if key[0].dataset != without}
    estimate = quantity.estimate(values) if values else None
    return None if estimate is None or not np.isfinite(estimate.value) else estimate


def _p(estimate: Estimate | None, test: Callable[[Estimate], Array]) -> float:
    return np.nan if estimate is None else float(test(estimate))


def _single_bundle(quantity: Quantity) -> bool:
    return quantity.claim == "C2" and len({cell.bundle for cell in quantity.cells}) == 1


def _claim(
    frozen: Frozen, quantity: Quantity, estimate: Estimate | None, p_difference: float, p_equivalence: float
) -> Claim:
    seeds, unit = _seeds(quantity), _UNITS.get(quantity.claim, "points")
    if unit != "points":
        p_equivalence = np.nan  # ± 2 points mean nothing
    low, high = estimate.interval() if estimate else (np.nan, np.nan)
    inside = estimate.interval(1 - 2 * ALPHA) if estimate and unit == "points" else (np.nan, np.nan)
    datasets = sorted({cell.dataset for cell in quantity.cells})
    without = {name: _estimate(quantity, name) for name in datasets if len(datasets) > 1}
    claim = Claim(
        id=quantity.claim,
        text=CLAIMS[quantity.claim],
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
        found=sum(cell in quantity.measured for cell in quantity.cells),
        cells=len(quantity.cells),
        failed=tuple(cell.key for cell in quantity.cells if frozen.states[cell].status == "failed"),
        without={name: _number(other.value) if other else None for name, other in without.items()},
        seeds_for_equivalence=(
            estimate.seeds_for_equivalence(seeds)
            if estimate and unit == "points" and quantity.claim != "C2"  # of slices: not at their adjusted level
            else None
        ),
        beside=quantity.beside,
        verdict=None,
        reason="",
        grid=frozen.hash,
    )
    if frozen.synthetic:
        return replace(claim, reason="synthetic images")
    if _single_bundle(quantity):
        return replace(claim, reason="a slice of one dataset, backbone and number of shots")
    hindrance = quantity.problem or _incomplete(frozen, claim) or ("" if estimate else "the cells give no estimate")
    if hindrance or estimate is None:
        return replace(claim, verdict="undecided", reason=hindrance)
    if claim.id == "C7":
        verdict, reason = _activity(quantity)
    else:
        favour = -estimate.value if claim.id in _BELOW else estimate.value
        verdict = str(statistics.verdict(favour, p_difference, p_equivalence))
        reason = _reason(claim, verdict)
    return replace(claim, verdict=verdict, reason=reason)


def _seeds(quantity: Quantity) -> int:
    """The fewest seeds with a value in all methods that any bundle has."""
    asked = {(cell.bundle, cell.seed) for cell in quantity.cells}
    lacking = {(cell.bundle, cell.seed) for cell in quantity.cells if cell not in quantity.measured}
    found = Counter(bundle for bundle, _ in asked - lacking)
    return min((found[bundle] for bundle, _ in asked), default=0)


def _incomplete(frozen: Frozen, claim: Claim) -> str:
    """How many seeds and cells there are, and which diverged; empty where they suffice."""
    if claim.seeds >= SEEDS_NEEDED and claim.found == claim.cells:
        # A slice that happens to be complete waits for the rest: else the order of the runs would pick the verdicts.
        done, asked = len(frozen.correct), len(frozen.states)
        return f"{done} of {asked} cells of the frozen grid" if done < asked else ""
    failed = f"; diverged: {_some(claim.failed)}" if claim.failed else ""
    return f"{claim.seeds} seeds, {claim.found} of {claim.cells} cells{failed}"


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _reason(claim: Claim, verdict: str) -> str:
    """What the verdict rests on."""
    side = "above" if claim.estimate is not None and claim.estimate > 0 else "below"
    family = f", adjusted p = {claim.p:.3f}" if claim.id == "C2" else ""
    equivalent = (
        f"90 % interval {interval_text(claim.low_equivalence, claim.high_equivalence)} inside ± {MARGIN:g} points"
    )
    if verdict.startswith(("supported", "contradicted")):
        inside = f", the {equivalent}" if "," in verdict else ""
        return f"{_LEVEL} interval {side} 0{inside}{family}"
    if verdict == "equivalent":
        adjusted = f", adjusted p of equivalence = {claim.p_equivalence:.3f}" if claim.id == "C2" else ""
        return equivalent + adjusted
    if claim.unit != "points":
        return f"{_LEVEL} interval holds 0"
    if claim.id == "C2":  # how many seeds equivalence takes depends on the other slices too
        return f"neither a difference nor equivalence{family}"
    needed = f"about {claim.seeds_for_equivalence}" if claim.seeds_for_equivalence else "no number of"
    return f"neither a difference nor equivalence; at an estimate of 0 equivalence takes {needed} seeds"


def _activity(quantity: Quantity) -> tuple[str, str]:
    """C7 has no interval: every cell counts."""
    inactive = [f"{bundle.key}/seed{seed}" for (bundle, seed), ratio in quantity.values.items() if ratio[0] >= INACTIVE]
    if not inactive:
        return "supported", f"ratio below {INACTIVE:g} in all {len(quantity.values)} pairs"
    verdict = "contradicted" if len(inactive) == len(quantity.values) else "undecided"
    return verdict, f"loss inactive in {len(inactive)} of {len(quantity.values)} pairs: {_some(inactive)}"


def _number(value: float | Array) -> float | None:
    """Rounded, so that equal records give equal bytes on every machine; None where it is not known."""
    return round(float(value), 6) + 0.0 if np.isfinite(value) else None
