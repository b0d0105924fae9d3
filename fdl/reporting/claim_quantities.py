"""What the claims of docs/claims.md compare: quantities of the frozen grid's cells, from `collect` and the records.

All are of the test images, at the first selection rule of their dataset.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from fdl.params import Bundle, Cell, Params, digest
from fdl.reporting import statistics
from fdl.reporting.collect import CellState
from fdl.reporting.results import Results, read_arrays, read_record
from fdl.reporting.statistics import Array, Estimate, Statistic
from fdl.reporting.titles import BASELINE, METHOD, backbone_title, combiner_title, dataset_title, method_title

COMBINER = "soft"
FLOOR = 0.05  # above chance: C3 takes only cells of which both arms reach it
LEFT_OUT_MOST = 0.1  # C4: share of the member pairs with an all-zero map
_MEASURES = ("disagreement", "mutual_information", "cosine_sum")
INACTIVE = 0.5  # C7: ratio of the cosine sums from which the distance loss counts as inactive

Values = Mapping[tuple[Bundle, int], Array]  # by bundle and seed; (N,) by test image, or what the estimator takes
Estimator = Callable[[Values], Estimate]
Correct = dict[str, NDArray[np.float32]]  # combiner, or `mean` or `best` member → (N,), in [0, 1]


@dataclass(frozen=True)
class Frozen:
    """The frozen grid, and what was found of it."""

    states: dict[Cell, CellState]
    correct: dict[Cell, Correct]
    measures: Mapping[str, Mapping[Cell, float]]  # of whole ensembles, by metric; empty where it was not measured
    chance: dict[str, float]  # by dataset
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


def families(params: Params, frozen: Frozen) -> list[list[Quantity]]:
    """The quantities of all claims but C7; those of one list are one family of tests."""
    disagreement, information = frozen.measures["disagreement"], frozen.measures["mutual_information"]
    return [
        [_gain("C1", "all", frozen.of(METHOD, BASELINE), _points(frozen, COMBINER))],
        _slices(frozen),
        [_gain_over_shots(frozen)],
        [_overlap(params, frozen)],
        [_predictions(frozen, disagreement, information)],
        *([quantity] for quantity in _against_members(params, frozen)),
    ]


def activity(frozen: Frozen) -> Quantity:
    """C7: ratio of the cosine sums on test, FDL over classical, of every seed; its median, without an interval."""
    cells, sums = frozen.of(METHOD, BASELINE), frozen.measures["cosine_sum"]
    pairs = [(cell, replace(cell, method=BASELINE)) for cell in cells if cell.method == METHOD]
    values = {(a.bundle, a.seed): np.array([sums[a] / sums[b]]) for a, b in pairs if a in sums and b in sums}
    return Quantity("C7", "all", cells, frozenset(sums), values, _median, problem="" if sums else "not measured")


def _points(frozen: Frozen, combiner: str) -> dict[Cell, Array]:
    """Correctness of a combiner on each test image, in points."""
    found = frozen.correct.items()
    return {cell: 100.0 * correct[combiner].astype(float) for cell, correct in found if combiner in correct}


def _paired(measured: Mapping[Cell, Array], cells: Sequence[Cell]) -> Values:
    """FDL minus classical, of every seed with both arms."""
    pairs = [(cell, replace(cell, method=BASELINE)) for cell in cells if cell.method == METHOD]
    return {(a.bundle, a.seed): measured[a] - measured[b] for a, b in pairs if a in measured and b in measured}


def _gain(claim: str, where: str, cells: Sequence[Cell], points: Mapping[Cell, Array]) -> Quantity:
    return Quantity(claim, where, cells, frozenset(points), _paired(points, cells), _mean)


def _slices(frozen: Frozen) -> list[Quantity]:
    """C2: every combiner and, with the soft vote, every dataset, backbone and number of shots."""
    cells, soft = frozen.of(METHOD, BASELINE), _points(frozen, COMBINER)
    names = dict.fromkeys(name for correct in frozen.correct.values() for name in correct)
    # These two are members, and the other rule for ties is no combiner of its own.
    combiners = [name for name in names if name not in ("mean", "best", "hard-probability")]
    family = [_gain("C2", combiner_title(name), cells, _points(frozen, name)) for name in combiners]
    for key, title in (("dataset", dataset_title), ("backbone", backbone_title), ("shots", "{} per class".format)):
        for value in sorted({getattr(cell, key) for cell in cells}):
            here = [cell for cell in cells if getattr(cell, key) == value]
            family.append(_gain("C2", title(value), here, soft))
    return family


def _gain_over_shots(frozen: Frozen) -> Quantity:
    """C3: slope over log shots of the difference of logit accuracies, in the bundles above the floor."""
    cells = frozen.of(METHOD, BASELINE)
    logits: dict[Cell, Array] = {}
    accuracies: dict[tuple[Bundle, str], list[float]] = defaultdict(list)
    for cell in cells:
        if cell in frozen.correct:
            right = frozen.correct[cell][COMBINER].astype(float)
            # Half an image more on either side: no accuracy lies at infinity.
            logits[cell] = np.log([(right.sum() + 0.5) / ((1 - right).sum() + 0.5)])
            accuracies[cell.bundle, cell.method].append(right.mean())
    low = {bundle for (bundle, _), found in accuracies.items() if fmean(found) < frozen.chance[bundle.dataset] + FLOOR}
    values = {key: value for key, value in _paired(logits, cells).items() if key[0] not in low}
    used, asked = len({bundle for bundle, _ in values}), len({cell.bundle for cell in cells})
    beside = f"{used} of {asked} bundles above the floor"
    return Quantity("C3", "all", cells, frozenset(logits), values, _slope, beside)


def _overlap(params: Params, frozen: Frozen) -> Quantity:
    """C4: difference of the mean pairwise overlap of the members' class activation maps, image by image.

    A pair of members with an empty map in one arm is left out of both.
    """
    from fdl.evaluation.overlap import left_out, overlap

    cells = frozen.of(METHOD, BASELINE)
    found = [cell for cell in cells if cell in frozen.correct]
    values, shares = {}, []
    for cell in found:
        twin = replace(cell, method=BASELINE)
        if cell.method != METHOD or twin not in frozen.correct:
            continue
        arms = [read_arrays(params, one, "cam.npz", "cosines", "empty") for one in (cell, twin)]
        without = left_out(arms[0]) | left_out(arms[1])
        (mine, pairs, share), (other, _, _) = (overlap(arm["cosines"], without) for arm in arms)
        shares.append(share)
        if pairs.any():
            values[cell.bundle, cell.seed] = np.array([(mine - other)[pairs > 0].mean()])
    problem = ""
    if shares and fmean(shares) > LEFT_OUT_MOST:
        problem = f"{fmean(shares):.0%} of the member pairs left out for an all-zero map"
    return Quantity("C4", "all", cells, frozenset(found), values, _mean_of_cells, problem=problem)


def _predictions(frozen: Frozen, disagreement: Mapping[Cell, float], information: Mapping[Cell, float]) -> Quantity:
    """C5: difference of the members' disagreement, in points, at equal mean accuracy of the members."""
    cells = frozen.of(METHOD, BASELINE)
    found = {
        cell: np.array([100 * correct["mean"].mean(), 100 * disagreement[cell], information[cell]])
        for cell, correct in frozen.correct.items()
        if cell in cells
    }
    values = _paired(found, cells)
    beside = f"Δ mutual information {fmean(v[2] for v in values.values()):+.4f} nats" if values else ""
    return Quantity("C5", "all", cells, frozenset(found), values, _intercept, beside.replace("-", "−"))


def _against_members(params: Params, frozen: Frozen) -> list[Quantity]:
    """C6: accuracy of each method's ensemble minus that of its mean member (a), of its best on validation (b).

    A control that is a single net has nothing to beat.
    """
    methods = dict.fromkeys(cell.method for cell in frozen.states if params.members_of(cell) > 1)
    quantities = []
    for claim, member in (("C6a", "mean"), ("C6b", "best")):
        ensemble, single = _points(frozen, COMBINER), _points(frozen, member)
        for method in methods:
            cells = frozen.of(method)
            values = {(cell.bundle, cell.seed): ensemble[cell] - single[cell] for cell in cells if cell in ensemble}
            quantities.append(Quantity(claim, method_title(method), cells, frozenset(ensemble), values, _mean))
    return quantities


def _mean(values: Values) -> Estimate:
    """Mean of values (N,) by test image: both the seeds and the images vary."""
    arrays = []
    for dataset in sorted({bundle.dataset for bundle, _ in values}):
        here = {key: value for key, value in values.items() if key[0].dataset == dataset}
        bundles, seeds = (sorted(set(labels)) for labels in zip(*here, strict=True))
        array = np.full((len(bundles), len(seeds), len(next(iter(here.values())))), np.nan)
        for (bundle, seed), value in here.items():
            array[bundles.index(bundle), seeds.index(seed)] = value
        arrays.append(array)
    return statistics.clustered_mean(arrays)


def _mean_of_cells(values: Values) -> Estimate:
    """Mean of values (1,): the seeds vary, the test images are held fixed."""
    return _jackknife(statistics.weighted_mean, values, list(values.values()))


def _slope(values: Values) -> Estimate:
    """Slope of values (1,) over log shots, with an intercept for each dataset and backbone."""
    lines = sorted({(bundle.dataset, bundle.backbone) for bundle, _ in values})
    rows = [[lines.index((b.dataset, b.backbone)), np.log(b.shots), value[0]] for (b, _), value in values.items()]
    return _jackknife(statistics.common_slope, values, rows)


def _intercept(values: Values) -> Estimate:
    """Intercept of the second of the values over the first."""
    return _jackknife(statistics.intercept, values, [value[:2] for value in values.values()])


def _median(values: Values) -> Estimate:
    unknown = np.array(np.nan)
    return Estimate(np.median(list(values.values())), unknown, unknown, unknown)


def _jackknife(statistic: Statistic, values: Values, rows: Sequence[Sequence[float] | Array]) -> Estimate:
    datasets, seeds = [bundle.dataset for bundle, _ in values], [seed for _, seed in values]
    return statistics.jackknife(statistic, np.array(rows), datasets, seeds)
