"""What the claims of docs/claims.md compare: quantities of the frozen grid's cells, from `collect` and the records.

All are of the test images, at the first selection rule of their dataset. Here stands what both versions of the rules
share; `claim_rules_1` and `claim_rules_2` hold the rest.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.core.settings import Bundle, Cell, Params, digest
from fdl.core.titles import BASELINE, METHOD, backbone_title, method_title
from fdl.evaluation import statistics
from fdl.evaluation.overlap import on_same_images
from fdl.evaluation.statistics import Array, Bounded, Estimate, Statistic
from fdl.evaluation.voting import COMBINERS
from fdl.reporting.results import Results, baseline_pairs, read_arrays, read_record
from fdl.results.collect import CellState

COMBINER = "soft"
FLOOR = 0.05  # above chance: C3 takes only cells that reach it
_MEASURES = ("disagreement", "error_correlation", "mutual_information", "cosine_sum", "gaussian_sum")

Values = Mapping[tuple[Bundle, int], Array]  # by bundle and seed; (N,) by test image, or what the estimator takes
Estimator = Callable[[Values], Estimate | Bounded]
Correct = dict[str, NDArray[np.float32]]  # combiner, or `mean` or `best` member → (N,), in [0, 1]


@dataclass(frozen=True)
class Frozen:
    """The frozen grid, and what was found of it."""

    states: dict[Cell, CellState]
    correct: dict[Cell, Correct]
    measures: Mapping[str, Mapping[Cell, float]]  # of whole ensembles, by metric; empty where it was not measured
    chance: dict[str, float]  # by dataset
    titles: dict[str, str]  # of the datasets, as they are printed
    precisions: tuple[str, ...]  # that the cells were computed in
    synthetic: bool
    hash: str

    def of(self, *methods: str) -> list[Cell]:
        """The cells of these methods, as far as the grid has the same seed with all of them."""
        twins = {cell: [replace(cell, method=method) for method in methods] for cell in self.states}
        return [cell for cell in twins if cell in twins[cell] and all(twin in self.states for twin in twins[cell])]


@dataclass(frozen=True)
class Quantity:
    """What a claim is about, on the frozen grid or a slice of it."""

    claim: str
    slice: str
    cells: Sequence[Cell]  # of the frozen grid
    measured: frozenset[Cell]  # those with a value
    values: Values
    estimate: Estimator
    beside: str = ""  # what is printed beside the estimate
    problem: str = ""  # why there is no verdict, besides missing cells and seeds
    sensitivity: Estimator | None = None  # another estimate, which is printed beside the verdict
    gain: Array | None = None  # C3, rules 2: the estimate of C1, which must be above 0 too


@dataclass(frozen=True)
class Rules:
    """A version of the rules: which quantities there are, and what the claims are called."""

    number: int
    texts: Mapping[str, str]  # by claim
    units: Mapping[str, str]  # of the claims that are not in points of accuracy
    below: Collection[str]  # claims that values below 0 support
    families: Callable[[Params, Frozen], list[list[Quantity]]]  # those of one list are one family of tests
    activity: Callable[[Params, Frozen], Quantity]  # C7, which has no interval: of every pair, a ratio first
    inactive: Callable[[Array], bool]  # what C7 says of one pair
    active_text: str  # what holds of a pair whose loss is active
    intervals: str  # what the intervals are over, for the caption


def frozen_cells(params: Params) -> list[Cell]:
    """The cells of the frozen grid, sorted; none where the preset has no frozen grid."""
    blocks = params.claims.grid
    return sorted(set(params.model_copy(update={"grid": blocks}).cells())) if blocks else []


def read_frozen(results: Results) -> Frozen:
    """The frozen grid of a preset that has one.

    Raises:
        InputError: a record was changed since it was collected.
    """
    params, collected = results.params, results.collected
    cells = frozen_cells(params)
    known = {state.cell: state for state in collected.cells}
    # A frozen cell that the present lists leave out is missing, not forgotten.
    states = {cell: known.get(cell) or CellState(cell, "missing", params.settings_digest(cell)) for cell in cells}
    datasets = {cell.dataset for cell in cells}
    facts = {name: facts for name, facts in collected.datasets.items() if name in datasets}
    return Frozen(
        states,
        {cell: _read(params, state) for cell, state in states.items() if state.status == "done"},
        {name: results.values("ensemble", name) for name in _MEASURES},
        {name: known.chance for name, known in facts.items() if known.chance},
        {name: params.protocol(name).title for name in sorted(datasets)},
        tuple(sorted({precision for cell, precision in results.precisions.items() if cell in states})),
        any(params.source_of(name) == "synthetic" for name in datasets) or any(f.synthetic for f in facts.values()),
        digest([cell.key for cell in cells])[:12],
    )


def _read(params: Params, state: CellState) -> Correct:
    read_record(params, state)  # that it is the one collected
    rule = params.selections_of(state.cell.dataset)[0]
    packed = read_arrays(params, state.cell, "correct.npz")
    n = int(packed["n"])
    bits = {
        name.partition("/")[2]: np.unpackbits(values, count=n)
        for name, values in packed.items()
        if name.startswith(f"{rule}/")
    }
    correct = {name: values.astype(np.float32) for name, values in bits.items()}
    members = [correct.pop(name) for name in list(correct) if name.startswith("member")]
    return correct | {"mean": np.mean(members, axis=0)}


def points(frozen: Frozen, combiner: str) -> dict[Cell, Array]:
    """Correctness of a combiner on each test image, in points."""
    return {
        cell: 100.0 * correct[combiner].astype(float) for cell, correct in frozen.correct.items() if combiner in correct
    }


def paired(measured: Mapping[Cell, Array], cells: Sequence[Cell]) -> Values:
    """FDL minus classical, of every seed with both arms."""
    pairs = baseline_pairs(cells, measured)
    return {(cell.bundle, cell.seed): measured[cell] - measured[twin] for cell, twin in pairs}


def gain(
    claim: str, where: str, cells: Sequence[Cell], measured: Mapping[Cell, Array], estimator: Estimator
) -> Quantity:
    """FDL minus classical in these cells."""
    return Quantity(claim, where, cells, frozenset(measured), paired(measured, cells), estimator)


def slices(frozen: Frozen) -> list[tuple[str, str, list[Cell]]]:
    """C2: every combiner and, by soft vote, every dataset, backbone and number of shots; title, combiner, cells."""
    cells = frozen.of(METHOD, BASELINE)
    names = dict.fromkeys(name for correct in frozen.correct.values() for name in correct)
    combiners = [name for name in names if name in COMBINERS and COMBINERS[name].combines]
    family = [(COMBINERS[name].title, name, cells) for name in combiners]
    for key, title in (
        ("dataset", frozen.titles.__getitem__),
        ("backbone", backbone_title),
        ("shots", "{} per class".format),
    ):
        for value in sorted({getattr(cell, key) for cell in cells}):
            family.append((title(value), COMBINER, [cell for cell in cells if getattr(cell, key) == value]))
    return family


def against_members(params: Params, frozen: Frozen, estimator: Estimator) -> list[Quantity]:
    """C6: accuracy of each method's ensemble minus that of its mean member (a), of its best on validation (b).

    A control that is a single net has nothing to beat.
    """
    methods = dict.fromkeys(cell.method for cell in frozen.states if params.members_of(cell) > 1)
    quantities = []
    for claim, member in (("C6a", "mean"), ("C6b", "best")):
        ensemble, single = points(frozen, COMBINER), points(frozen, member)
        for method in methods:
            cells = frozen.of(method)
            values = {(cell.bundle, cell.seed): ensemble[cell] - single[cell] for cell in cells if cell in ensemble}
            quantities.append(Quantity(claim, method_title(method), cells, frozenset(ensemble), values, estimator))
    return quantities


def mean(values: Values, *, floored: bool = False) -> Estimate:
    """Mean of values (N,) by test image: the seeds vary, and the images unless a cell has a single value."""
    return statistics.clustered_mean([array for _, array in stacked(values)], floored=floored)


floored_mean = partial(mean, floored=True)  # rules 2


def stacked(values: Values) -> list[tuple[list[Bundle], Array]]:
    """Per dataset its bundles and the values (bundles, seeds, N); NaN where a seed is missing."""
    arrays = []
    for dataset in sorted({bundle.dataset for bundle, _ in values}):
        here = {key: value for key, value in values.items() if key[0].dataset == dataset}
        bundles, seeds = (sorted(set(labels)) for labels in zip(*here, strict=True))
        array = np.full((len(bundles), len(seeds), len(next(iter(here.values())))), np.nan)
        for (bundle, seed), value in here.items():
            array[bundles.index(bundle), seeds.index(seed)] = value
        arrays.append((bundles, array))
    return arrays


def median(values: Values) -> Estimate:
    """Median over the pairs of the first value of each, without an interval."""
    unknown = np.array(np.nan)
    return Estimate(np.median([value[0] for value in values.values()]), unknown, unknown, unknown)


def jackknife(statistic: Statistic, values: Values, rows: Sequence[Sequence[float] | Array]) -> Estimate:
    """A statistic of a row per pair, the test images held fixed; see `statistics.jackknife`."""
    datasets, seeds = [bundle.dataset for bundle, _ in values], [seed for _, seed in values]
    return statistics.jackknife(statistic, np.array(rows), datasets, seeds)


def arrays_of(
    params: Params, frozen: Frozen, *names: str, optional: Sequence[str] = ()
) -> dict[Cell, dict[str, NDArray[Any]]]:
    """Arrays of `cam.npz` of the finished cells of both methods, where the record has all of `names`."""
    cells = [cell for cell in frozen.of(METHOD, BASELINE) if cell in frozen.correct]
    arrays = {cell: read_arrays(params, cell, "cam.npz", optional=[*names, *optional]) for cell in cells}
    return {cell: record for cell, record in arrays.items() if record.keys() >= set(names)}


def overlaps_of(params: Params, frozen: Frozen) -> dict[Cell, dict[str, NDArray[Any]]]:
    """`cosines` and `empty` as in `arrays_of`, of the same test images in all cells of a dataset."""
    arrays = arrays_of(params, frozen, "cosines", "empty", optional=["signed_positions"])
    narrowed: dict[Cell, dict[str, NDArray[Any]]] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in arrays):
        cells = [cell for cell in arrays if cell.dataset == dataset]
        narrowed |= dict(zip(cells, on_same_images([arrays[cell] for cell in cells]), strict=True))
    return narrowed
