"""How many seeds a grid needs, so that the mean difference of FDL from classical is known to within ± 2 points.

The variance of the mean is that of the statistical rules, version 2 (docs/claims.md). It needs the standard deviation
of a pair's difference between seeds, which is estimated from the records at hand, or else taken from `reports/lite`.
A pair is an FDL cell and the classical cell with the same dataset, backbone, shots and seed.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import variance

import numpy as np

from fdl.core import layout
from fdl.core.grid import Cell
from fdl.core.settings import Params
from fdl.core.titles import BASELINE, METHOD
from fdl.evaluation.statistics import ALPHA, MARGIN, t_quantile
from fdl.results import records

SHARED = 0.3  # share of a pair's variance that is common to all cells of a seed, as these use the same drawn images
MOST = 1000  # largest number of seeds that is tried
_POWER = 1.2816  # 80 % of a normal distribution lie within so many standard deviations of its mean
# Standard deviation in points between seeds within a bundle, soft vote, in `reports/lite` (AlexNet; 3, 5 and 10 images
# per class; 5 seeds).
MEASURED = {"cifar10": 0.73, "neu": 5.54}


@dataclass(frozen=True)
class Spread:
    """How much a pair's difference in accuracy varies between seeds."""

    points: float  # standard deviation in percentage points
    source: str  # where it was measured


@dataclass(frozen=True)
class SeedsNeeded:
    """Seeds for an 80 % chance to find equivalence within ± 2 points if there is no difference."""

    spreads: dict[str, Spread]  # by dataset
    datasets: dict[str, int | None]  # by dataset, for the mean over its cells; None: more than 1,000
    all: int | None  # for the mean over all cells; None: more than 1,000


def seeds_needed(params: Params, trained: Collection[Cell]) -> SeedsNeeded | None:
    """How many seeds are needed by the grid of the claims if the preset has one, otherwise by the grid of its runs.

    Returns None if no bundle has both methods.

    Args:
        params: the settings.
        trained: the cells that have a current record.
    """
    blocks = params.claims.grid
    cells = (params.model_copy(update={"grid": blocks}) if blocks else params).cells()
    all_cells = set(cells)
    bundles = {cell.bundle for cell in cells if cell.method == METHOD and replace(cell, method=BASELINE) in all_cells}
    if not bundles:
        return None
    groups: dict[str, int] = defaultdict(int)
    for bundle in bundles:
        groups[bundle.dataset] += 1
    spreads = _spreads(params, sorted(groups), _measured(params, trained))
    points = {name: spread.points for name, spread in spreads.items()}
    alone = {name: seeds_for(groups | dict.fromkeys(set(groups) - {name}, 0), points) for name in spreads}
    return SeedsNeeded(spreads, alone, seeds_for(groups, points))


def seeds_for(groups: Mapping[str, int], points: Mapping[str, float], margin: float = MARGIN) -> int | None:
    """The fewest seeds with which the 90 % interval of the mean over all pairs lies inside the margin in 80 % of cases.

    The true difference is assumed to be 0; the mean is then within 1.28 standard errors of 0 in 80 % of cases.
    For one seed the variance of a dataset's mean over its `groups` cells is that of a pair times
    (1 + (groups − 1) · SHARED) / groups. The variance due to the choice of test images is neglected as small.

    Args:
        groups: number of cells of a seed (backbones × shots), by dataset.
        points: standard deviation of a pair's difference between seeds in points, by dataset.
        margin: in points.

    Returns:
        The number of seeds, the same for all datasets; None if it exceeds `MOST`.
    """
    total = sum(groups.values())
    variances = np.array(
        [
            (groups[name] / total * points[name]) ** 2 * (1 + (groups[name] - 1) * SHARED) / groups[name]
            for name in groups
            if groups[name]
        ]
    )  # variance of the overall mean for one seed, by dataset
    n = np.arange(2, MOST + 1)
    freedom = (n - 1) * variances.sum() ** 2 / (variances**2).sum()
    width = t_quantile(1 - ALPHA, freedom) + _POWER
    enough = n[width * np.sqrt(variances.sum() / n) < margin]
    return int(enough[0]) if len(enough) else None


def _spreads(params: Params, datasets: Iterable[str], measured: Mapping[str, float]) -> dict[str, Spread]:
    """The spread of each dataset: from the records at hand, else from `MEASURED`, else the largest of `MEASURED`."""
    spreads = {}
    for name in datasets:
        own = params.own(name)
        like = own.like if own else name
        if name in measured:
            spreads[name] = Spread(measured[name], "the records at hand")
        elif like in MEASURED and not own:
            spreads[name] = Spread(MEASURED[like], "reports/lite")
        else:
            spreads[name] = Spread(max(MEASURED.values()), "not measured: taken as NEU's")
    return spreads


def _measured(params: Params, trained: Collection[Cell]) -> dict[str, float]:
    """The spread between seeds of the trained pairs, by dataset, pooled over bundles of at least two seeds.

    A dataset is left out if it has fewer than 4 degrees of freedom or no variance.
    """
    differences = defaultdict(list)
    for cell in trained:
        classical_cell = replace(cell, method=BASELINE)
        if cell.method == METHOD and classical_cell in trained:
            fdl, classical = _accuracy(params, cell), _accuracy(params, classical_cell)
            if fdl is not None and classical is not None:
                differences[cell.bundle].append(100 * (fdl - classical))
    variances = defaultdict(list)
    for bundle, values in differences.items():
        if len(values) > 1:
            variances[bundle.dataset].append((len(values) - 1, variance(values)))
    return {
        name: float(np.sqrt(np.average([v for _, v in parts], weights=[n for n, _ in parts])))
        for name, parts in variances.items()
        if sum(n for n, _ in parts) >= 4 and any(v > 0 for _, v in parts)
    }


def _accuracy(params: Params, cell: Cell) -> float | None:
    """Test accuracy of the soft vote; None if there is no record or the cell diverged."""
    folder = layout.record_folder(params, cell)
    run = records.read_run(folder)
    if run is None or run["status"] != "done":
        return None
    rule = params.selections_of(cell.dataset)[0]
    key = {"selection": rule, "split": "test", "combiner": "soft", "metric": "accuracy"}
    rows = json.loads((folder / "metrics.json").read_bytes())
    return next((row["value"] for row in rows if key.items() <= row.items()), None)
