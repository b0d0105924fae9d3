"""The quantities that the claims of docs/claims.md compare, read from what `collect` wrote and from the records.

They are measured on the cells of the frozen grid, which the preset fixed before its first training (`claims.grid`), on
test images, at the epoch picked by the first selection rule of the dataset. This module holds what both versions of the
rules share; `claim_rules_1` and `claim_rules_2` hold the rest.

A bundle is a dataset, a backbone and a number of shots. A pair is FDL and classical with the same bundle and seed.
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
FLOOR = 0.05  # of accuracy above chance; C3 uses only bundles that reach it
_MEASURES = ("disagreement", "error_correlation", "mutual_information", "cosine_sum", "gaussian_sum")

# By bundle and seed: a value per test image (N,), or whatever the estimator takes.
Values = Mapping[tuple[Bundle, int], Array]
Estimator = Callable[[Values], Estimate | Bounded]
# By combiner, and for the `mean` and the `best` member: correctness on each test image (N,), in [0, 1].
Correct = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Frozen:
    """The frozen grid and the results of its cells."""

    states: dict[Cell, CellState]
    correct: dict[Cell, Correct]
    measures: Mapping[str, Mapping[Cell, float]]  # by metric, a value per ensemble; empty if it was not measured
    chance: dict[str, float]  # accuracy of guessing, in [0, 1], by dataset
    titles: dict[str, str]  # printed name of each dataset
    precisions: tuple[str, ...]  # number formats in which the cells were trained
    synthetic: bool  # whether any image is synthetic
    hash: str  # identifies the grid

    def of(self, *methods: str) -> list[Cell]:
        """The cells of these methods whose counterparts, equal except for the method, are all in the grid."""
        twins = {cell: [replace(cell, method=method) for method in methods] for cell in self.states}
        return [cell for cell in twins if cell in twins[cell] and all(twin in self.states for twin in twins[cell])]


@dataclass(frozen=True)
class Quantity:
    """The quantity that decides a claim, on the frozen grid or a slice of it."""

    claim: str  # for example "C1"
    slice: str  # printed name of the part of the grid
    cells: Sequence[Cell]  # the cells of that part
    measured: frozenset[Cell]  # the cells that have a value
    values: Values
    estimate: Estimator
    beside: str = ""  # text that is printed after the estimate
    problem: str = ""  # a reason for giving no verdict, other than missing cells or seeds
    sensitivity: Estimator | None = None  # an alternative estimator, whose result is printed after the verdict
    gain: Array | None = None  # only C3 of rules 2: the estimate of C1, which must be above 0, too


@dataclass(frozen=True)
class Rules:
    """A version of the rules: its quantities, and the texts and units of its claims."""

    number: int
    texts: Mapping[str, str]  # by claim
    units: Mapping[str, str]  # by claim; a claim that is not listed is in percentage points of accuracy
    below: Collection[str]  # the claims that are supported by values below 0
    families: Callable[[Params, Frozen], list[list[Quantity]]]  # each inner list is a family of tests
    # C7, which has no interval. The first value of each pair is the ratio that decides it.
    activity: Callable[[Params, Frozen], Quantity]
    inactive: Callable[[Array], bool]  # whether the distance loss of a pair with these C7 values counts as inactive
    active_text: str  # says what holds for a pair whose distance loss is active
    intervals: str  # says for the caption what varies in the intervals


def frozen_cells(params: Params) -> list[Cell]:
    """The cells of the frozen grid, sorted; empty if the preset has no frozen grid."""
    blocks = params.claims.grid
    return sorted(set(params.model_copy(update={"grid": blocks}).cells())) if blocks else []


def read_frozen(results: Results) -> Frozen:
    """Read the frozen grid of a preset that has one.

    Raises:
        InputError: a record was changed after it had been collected.
    """
    params, collected = results.params, results.collected
    cells = frozen_cells(params)
    known = {state.cell: state for state in collected.cells}
    # A frozen cell that is not in the present grid counts as missing, so that leaving it out cannot change a verdict.
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
    read_record(params, state)  # raises if the record is not the one that was collected
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
    """Correctness of a combiner on each test image (N,), 0 or 100, so that its mean is the accuracy in percent."""
    return {
        cell: 100.0 * correct[combiner].astype(float) for cell, correct in frozen.correct.items() if combiner in correct
    }


def paired(measured: Mapping[Cell, Array], cells: Sequence[Cell]) -> Values:
    """FDL minus classical for every pair of which both cells have a value."""
    pairs = baseline_pairs(cells, measured)
    return {(cell.bundle, cell.seed): measured[cell] - measured[twin] for cell, twin in pairs}


def gain(
    claim: str, where: str, cells: Sequence[Cell], measured: Mapping[Cell, Array], estimator: Estimator
) -> Quantity:
    """The quantity FDL minus classical in these cells.

    Args:
        claim: its key.
        where: printed name of the slice.
        cells: the cells of the slice.
        measured: a value per test image (N,), or (1,), of every cell that has one.
        estimator: computes the estimate.
    """
    return Quantity(claim, where, cells, frozenset(measured), paired(measured, cells), estimator)


def slices(frozen: Frozen) -> list[tuple[str, str, list[Cell]]]:
    """The slices of C2 as (title, combiner, cells).

    They are the whole grid by every combiner and, by soft vote, every dataset, backbone and number of shots.
    """
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
    """C6: accuracy of each method's ensemble minus that of its mean member (C6a) or its best on validation (C6b).

    Methods that train a single net are left out.
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
    """Mean of values (N,) per test image, see `statistics.clustered_mean`.

    Seeds are random; test images are, too, unless each pair has a single value, N = 1.
    """
    return statistics.clustered_mean([array for _, array in stacked(values)], floored=floored)


floored_mean = partial(mean, floored=True)  # rules 2


def stacked(values: Values) -> list[tuple[list[Bundle], Array]]:
    """For each dataset its bundles and an array of their values (bundles, seeds, N); NaN for missing seeds."""
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
    """Median over pairs of the first value of each pair, without an interval."""
    unknown = np.array(np.nan)
    return Estimate(np.median([value[0] for value in values.values()]), unknown, unknown, unknown)


def jackknife(statistic: Statistic, values: Values, rows: Sequence[Sequence[float] | Array]) -> Estimate:
    """Apply `statistics.jackknife`, which holds the test images fixed.

    Args:
        statistic: function of the rows and their weights.
        values: gives the dataset and seed of each pair.
        rows: a row of q numbers for each pair, in the order of `values`.
    """
    datasets, seeds = [bundle.dataset for bundle, _ in values], [seed for _, seed in values]
    return statistics.jackknife(statistic, np.array(rows), datasets, seeds)


def arrays_of(
    params: Params, frozen: Frozen, *names: str, optional: Sequence[str] = ()
) -> dict[Cell, dict[str, NDArray[Any]]]:
    """Arrays from `cam.npz` of the finished FDL and classical cells.

    Args:
        params: the settings.
        frozen: the frozen grid.
        names: arrays to read; a record that lacks one of them is left out.
        optional: arrays to read if a record has them.

    Raises:
        InputError: a file is missing or damaged.
    """
    cells = [cell for cell in frozen.of(METHOD, BASELINE) if cell in frozen.correct]
    arrays = {cell: read_arrays(params, cell, "cam.npz", optional=[*names, *optional]) for cell in cells}
    return {cell: record for cell, record in arrays.items() if record.keys() >= set(names)}


def overlaps_of(params: Params, frozen: Frozen) -> dict[Cell, dict[str, NDArray[Any]]]:
    """`cosines` and `empty` as `arrays_of` reads them, restricted to the test images that a dataset's cells share."""
    arrays = arrays_of(params, frozen, "cosines", "empty", optional=["signed_positions"])
    narrowed: dict[Cell, dict[str, NDArray[Any]]] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in arrays):
        cells = [cell for cell in arrays if cell.dataset == dataset]
        narrowed |= dict(zip(cells, on_same_images([arrays[cell] for cell in cells]), strict=True))
    return narrowed
