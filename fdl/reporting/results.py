"""The input of tables, figures and pages: `runs.csv`, which is read once, and the records that it was gathered from.

A cell is one trained ensemble, for a dataset, backbone, number of shots (training images per class), method and seed. A
bundle is all cells that share dataset, backbone and shots. A record is the folder with the results of a cell.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fdl.core import layout
from fdl.core.errors import InputError, one_line
from fdl.core.settings import Bundle, Cell, Params
from fdl.core.titles import BASELINE, METHOD, SYNTHETIC
from fdl.evaluation.statistics import t_interval
from fdl.evaluation.voting import COMBINERS
from fdl.results import records
from fdl.results.collect import CELL_COLUMNS, CellState, Collected, of_headline_rule, read_collected, read_runs

if TYPE_CHECKING:
    from pandas import DataFrame

SEEDS_FOR_INTERVAL = 3
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Results:
    """The grid of a preset, and everything that was measured in it."""

    params: Params
    collected: Collected
    runs: "DataFrame"

    def values(self, combiner: str, metric: str, split: str = "test") -> dict[Cell, float]:
        """The value of every cell that has one, at the epoch picked by the first selection rule of its dataset.

        Args:
            combiner: the way to form one prediction from the members' outputs, such as "soft"; or "ensemble" for
                metrics of the ensemble as a whole, such as its diversity.
            metric: such as "accuracy".
            split: "train", "validation" or "test".
        """
        rows = self._of_measure.get((split, combiner, metric))
        return {} if rows is None else of_headline_rule(self.params, rows)

    @cached_property
    def _of_measure(self) -> dict[tuple[str, ...], "DataFrame"]:
        """The rows of `runs` by (split, combiner, metric), grouped once because a table looks up hundreds of them."""
        groups = self.runs.groupby(["split", "combiner", "metric"])
        return {tuple(map(str, key)): rows for key, rows in groups}

    @cached_property
    def accuracy(self) -> dict[Cell, float]:
        """Test accuracy of the soft vote of every cell that has one, in [0, 1]."""
        return self.values("soft", "accuracy")

    @property
    def warning(self) -> str:
        """The warning above every table that images are synthetic; empty if all are real."""
        return SYNTHETIC if self.collected.synthetic else ""

    @cached_property
    def costs(self) -> "DataFrame":
        """The content of `costs.csv`, a row per cell that has a record."""
        import pandas as pd

        frame = pd.read_csv(layout.report_folder(self.params) / "costs.csv", keep_default_na=False)
        frame["parameters"] = pd.to_numeric(frame["parameters"])  # empty for a cell that failed
        return frame

    @cached_property
    def precisions(self) -> dict[Cell, str]:
        """The precision in which every cell with a record was computed."""
        columns = [self.costs[name].tolist() for name in (*CELL_COLUMNS, "precision")]
        return {Cell(*cell): precision for *cell, precision in zip(*columns, strict=True)}

    @cached_property
    def combiners(self) -> list[str]:
        """The combiners for which any cell has values, in the order of tables; single members are not combiners."""
        names = set(self.runs["combiner"])
        return [name for name in COMBINERS if name in names]

    @cached_property
    def methods(self) -> list[str]:
        """The grid's methods, the baseline first."""
        methods = dict.fromkeys(state.cell.method for state in self.collected.cells)
        return sorted(methods, key=lambda method: method != BASELINE)

    @cached_property
    def bundles(self) -> dict[Bundle, list[Cell]]:
        """The cells of the grid by bundle, ordered by dataset, backbone and increasing number of shots."""
        bundles: dict[Bundle, list[Cell]] = {}
        for state in self.collected.cells:
            bundles.setdefault(state.cell.bundle, []).append(state.cell)
        datasets, backbones = (
            list(dict.fromkeys(getattr(b, name) for b in bundles)) for name in ("dataset", "backbone")
        )
        order = sorted(bundles, key=lambda b: (datasets.index(b.dataset), backbones.index(b.backbone), b.shots))
        return {bundle: bundles[bundle] for bundle in order}

    @cached_property
    def done(self) -> frozenset[Cell]:
        """The cells that are finished and did not fail."""
        return frozenset(state.cell for state in self.collected.of("done"))

    def compared(self, dataset: str, backbone: str) -> dict[str, list[Cell]]:
        """The cells that figures of single records show, by method: the baseline, `fdl`, then the others.

        They have the largest number of shots for which a seed is finished with all methods, and all such seeds are
        returned. Empty if there is none.
        """
        here = [cell for cells in self.bundles.values() for cell in cells]
        here = [cell for cell in here if (cell.dataset, cell.backbone) == (dataset, backbone)]
        methods = self._methods_of(here)
        for shots in sorted({cell.shots for cell in here}, reverse=True):
            if twins := self._twins(Bundle(dataset, backbone, shots), methods, here):
                return twins
        return {}

    def compared_in(self, bundle: Bundle) -> dict[str, list[Cell]]:
        """The bundle's cells by method, for the seeds finished with all methods, in the order of `compared`."""
        cells = self.bundles[bundle]
        return self._twins(bundle, self._methods_of(cells), cells)

    def _methods_of(self, cells: Sequence[Cell]) -> list[str]:
        """The methods of these cells in order: the baseline, `fdl`, then the others as in the grid."""
        present = {cell.method for cell in cells}
        return sorted((m for m in self.methods if m in present), key=lambda m: (m != BASELINE, m != METHOD))

    def _twins(self, bundle: Bundle, methods: Sequence[str], cells: Sequence[Cell]) -> dict[str, list[Cell]]:
        """The bundle's cells by method, for the seeds of `cells` that are finished with all methods; may be empty."""
        twins = {
            seed: [Cell(bundle.dataset, bundle.backbone, bundle.shots, method, seed) for method in methods]
            for seed in dict.fromkeys(cell.seed for cell in cells)
        }
        finished = [cells for cells in twins.values() if self.done.issuperset(cells)]
        return dict(zip(methods, map(list, zip(*finished, strict=True)), strict=True)) if finished else {}

    def history(self, cell: Cell) -> "DataFrame":
        """The history of a cell, one row per epoch; raises as `read_history`."""
        if cell not in self._histories:
            self._histories[cell] = read_history(self.params, cell)
        return self._histories[cell]

    @cached_property
    def _histories(self) -> "dict[Cell, DataFrame]":
        """Cache of the histories that were read, because the figures and DVC's plots show the same ones."""
        return {}

    @property
    def nets(self) -> list[tuple[str, str]]:
        """The (dataset, backbone) pairs of the grid; pairs of the same dataset are consecutive."""
        return list(dict.fromkeys((bundle.dataset, bundle.backbone) for bundle in self.bundles))


def read_results(params: Params) -> Results:
    """Read what `collect` gathered.

    Raises:
        InputError: `collect` has not run for these settings.
    """
    return Results(params, read_collected(params), read_runs(params))


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of n values, usually one per seed."""

    mean: float | None  # None without a value
    std: float | None  # with n − 1 in the denominator; None below two values
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % t interval of the mean, see `t_interval`; None below three values.

        With two values, t has only one degree of freedom, and the interval would be the mean ± 12.7 standard errors.
        """
        if self.n < SEEDS_FOR_INTERVAL:
            return None
        return t_interval(self.mean, self.std, self.n)


def mean_and_std(values: Spread, digits: int = 1) -> str:
    """`41.2 ± 1.3`, or `–`."""
    if values.mean is None:
        return "–"
    std = "" if values.std is None else f" ± {values.std:.{digits}f}"
    return f"{values.mean:.{digits}f}{std}".replace("-", "−")


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of values, usually one per seed."""
    return Spread(fmean(values) if values else None, stdev(values) if len(values) > 1 else None, len(values))


def baseline_pairs(cells: Iterable[Cell], known: Container[Cell]) -> list[tuple[Cell, Cell]]:
    """Each cell of another method together with the baseline's cell of the same bundle and seed.

    Args:
        cells: cells of any methods.
        known: only pairs whose cells are both in here are returned.
    """
    pairs = [(cell, replace(cell, method=BASELINE)) for cell in cells if cell.method != BASELINE]
    return [(cell, twin) for cell, twin in pairs if cell in known and twin in known]


def differences(values: Mapping[Cell, float], method: str) -> dict[Cell, float]:
    """100 times the value of each of a method's cells minus that of the baseline's cell of the same bundle and seed.

    For accuracies in [0, 1] these are percentage points. Cells whose pair is not complete are left out.
    """
    cells = [cell for cell in values if cell.method == method]
    return {cell: 100 * (values[cell] - values[twin]) for cell, twin in baseline_pairs(cells, values)}


def read_record(params: Params, state: CellState) -> dict[str, Any]:
    """Read `run.json` of a collected cell.

    Raises:
        InputError: the record is not the one that was collected.
    """
    folder = layout.record_folder(params, state.cell)
    run = records.read_run(folder)
    if run is None or run["digests"]["training"] != state.training:
        raise InputError(f"{folder}: not the record that was collected; run `python -m fdl collect` again")
    return run


def read_arrays(params: Params, cell: Cell, file: str, *names: str, optional: Sequence[str] = ()) -> Arrays:
    """Read arrays from an `.npz` file of a record.

    Args:
        params: the settings.
        cell: the cell of the record.
        file: name of the file.
        names: arrays to read; without `names` and `optional`, all are read.
        optional: arrays to read if the file has them; old records may lack them.

    Raises:
        InputError: the file or an array is missing or damaged.
    """
    path = _verified(params, cell, file)
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            present = [name for name in optional if name in arrays]
            chosen = [*names, *present] if names or optional else arrays.files
            return {name: arrays[name] for name in chosen}
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise _damaged(path, error) from None


def read_history(params: Params, cell: Cell) -> "DataFrame":
    """Read the history of a cell, one row per epoch.

    Raises:
        InputError: the file is missing or damaged.
    """
    import pandas as pd

    path = _verified(params, cell, "history.parquet")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _verified(params: Params, cell: Cell, file: str) -> Path:
    """The path of a file of a cell's record, after checking its hash.

    Raises:
        InputError: the file is missing or was changed.
    """
    folder = layout.record_folder(params, cell)
    run = records.read_run(folder)
    if run is None or file not in run["files"]:
        raise InputError(
            f"{folder / file}: missing; run the bundle again, or bring its records in with `python -m fdl import`"
        )
    records.verify(folder, run, file)
    return folder / file


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: missing or damaged ({one_line(error)}); delete its folder and run the bundle again")
