"""What tables, figures and pages are made of: `runs.csv`, read once, and the records that it was gathered from."""

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
    """A preset's grid and everything measured in it."""

    params: Params
    collected: Collected
    runs: "DataFrame"

    def values(self, combiner: str, metric: str, split: str = "test") -> dict[Cell, float]:
        """Every cell's value, at the first selection rule of its dataset; empty where none was measured."""
        rows = self._of_measure.get((split, combiner, metric))
        return {} if rows is None else of_headline_rule(self.params, rows)

    @cached_property
    def _of_measure(self) -> dict[tuple[str, ...], "DataFrame"]:
        """The rows by split, combiner and metric: a table looks for hundreds of them."""
        groups = self.runs.groupby(["split", "combiner", "metric"])
        return {tuple(map(str, key)): rows for key, rows in groups}

    @cached_property
    def accuracy(self) -> dict[Cell, float]:
        """Test accuracy of the soft vote."""
        return self.values("soft", "accuracy")

    @property
    def warning(self) -> str:
        """What stands above every table; empty where all images are real."""
        return SYNTHETIC if self.collected.synthetic else ""

    @cached_property
    def costs(self) -> "DataFrame":
        """`costs.csv`: a row per cell with a record."""
        import pandas as pd

        frame = pd.read_csv(layout.report_folder(self.params) / "costs.csv", keep_default_na=False)
        frame["parameters"] = pd.to_numeric(frame["parameters"])  # of a failed cell: empty
        return frame

    @cached_property
    def precisions(self) -> dict[Cell, str]:
        """What every recorded cell was computed in."""
        columns = [self.costs[name].tolist() for name in (*CELL_COLUMNS, "precision")]
        return {Cell(*cell): precision for *cell, precision in zip(*columns, strict=True)}

    @cached_property
    def combiners(self) -> list[str]:
        """The combiners that any cell has values of, in the order of tables; members and diversity are none."""
        names = set(self.runs["combiner"])
        return [name for name in COMBINERS if name in names]

    @cached_property
    def methods(self) -> list[str]:
        """The grid's methods, the baseline first."""
        methods = dict.fromkeys(state.cell.method for state in self.collected.cells)
        return sorted(methods, key=lambda method: method != BASELINE)

    @cached_property
    def bundles(self) -> dict[Bundle, list[Cell]]:
        """The grid's cells by bundle; a dataset's bundles stand together, by backbone and rising shots."""
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
        """The cells with results."""
        return frozenset(state.cell for state in self.collected.of("done"))

    def compared(self, dataset: str, backbone: str) -> dict[str, list[Cell]]:
        """The cells that figures of single records show, of all methods: the baseline, `fdl`, then the others.

        They are of the largest number of shots that has a seed with all of them done; all such seeds. Empty where
        there is none.
        """
        here = [cell for cells in self.bundles.values() for cell in cells]
        here = [cell for cell in here if (cell.dataset, cell.backbone) == (dataset, backbone)]
        methods = self._methods_of(here)
        for shots in sorted({cell.shots for cell in here}, reverse=True):
            if twins := self._twins(Bundle(dataset, backbone, shots), methods, here):
                return twins
        return {}

    def compared_in(self, bundle: Bundle) -> dict[str, list[Cell]]:
        """The cells of a bundle's methods, at the seeds with all of them done, in the order of `compared`."""
        cells = self.bundles[bundle]
        return self._twins(bundle, self._methods_of(cells), cells)

    def _methods_of(self, cells: Sequence[Cell]) -> list[str]:
        """The methods of these cells: the baseline, `fdl`, then the others in the order of the grid."""
        present = {cell.method for cell in cells}
        return sorted((m for m in self.methods if m in present), key=lambda m: (m != BASELINE, m != METHOD))

    def _twins(self, bundle: Bundle, methods: Sequence[str], cells: Sequence[Cell]) -> dict[str, list[Cell]]:
        """The bundle's cells by method, of those seeds of `cells` that are done with all methods; empty for none."""
        twins = {
            seed: [Cell(bundle.dataset, bundle.backbone, bundle.shots, method, seed) for method in methods]
            for seed in dict.fromkeys(cell.seed for cell in cells)
        }
        finished = [cells for cells in twins.values() if self.done.issuperset(cells)]
        return dict(zip(methods, map(list, zip(*finished, strict=True)), strict=True)) if finished else {}

    def history(self, cell: Cell) -> "DataFrame":
        """The epochs of a cell, one row each; errors as in `read_history`."""
        if cell not in self._histories:
            self._histories[cell] = read_history(self.params, cell)
        return self._histories[cell]

    @cached_property
    def _histories(self) -> "dict[Cell, DataFrame]":
        """Those that were asked for: the figures and DVC's plots show the same."""
        return {}

    @property
    def nets(self) -> list[tuple[str, str]]:
        """(dataset, backbone) pairs of the grid; a dataset's pairs stand together."""
        return list(dict.fromkeys((bundle.dataset, bundle.backbone) for bundle in self.bundles))


def read_results(params: Params) -> Results:
    """What `collect` gathered.

    Raises:
        InputError: `collect` has not run for these settings.
    """
    return Results(params, read_collected(params), read_runs(params))


@dataclass(frozen=True)
class Spread:
    """Values of several seeds."""

    mean: float | None  # None: no value
    std: float | None  # n − 1 in the denominator; None below two values
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % t interval of the mean, see `t_interval`; None below three values.

        With two, t has one degree of freedom: the interval of two differences of 5 points reaches ± 50.
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
    """Mean and standard deviation over seeds."""
    return Spread(fmean(values) if values else None, stdev(values) if len(values) > 1 else None, len(values))


def baseline_pairs(cells: Iterable[Cell], known: Container[Cell]) -> list[tuple[Cell, Cell]]:
    """Each cell of another method with the baseline's cell of the same seed, where both are known."""
    pairs = [(cell, replace(cell, method=BASELINE)) for cell in cells if cell.method != BASELINE]
    return [(cell, twin) for cell, twin in pairs if cell in known and twin in known]


def differences(values: Mapping[Cell, float], method: str) -> dict[Cell, float]:
    """The value of each of a method's cells minus the baseline's of the same seed, in points, where both are known."""
    cells = [cell for cell in values if cell.method == method]
    return {cell: 100 * (values[cell] - values[twin]) for cell, twin in baseline_pairs(cells, values)}


def read_record(params: Params, state: CellState) -> dict[str, Any]:
    """`run.json` of a collected cell.

    Raises:
        InputError: the record is not the one that was collected.
    """
    folder = layout.record_folder(params, state.cell)
    run = records.read_run(folder)
    if run is None or run["digests"]["training"] != state.training:
        raise InputError(f"{folder}: not the record that was collected; run `python -m fdl collect` again")
    return run


def read_arrays(params: Params, cell: Cell, file: str, *names: str, optional: Sequence[str] = ()) -> Arrays:
    """Arrays of an `.npz` file of a record; all of them where no names are given.

    Args:
        params, cell, file: whose.
        names: those that every record has.
        optional: those that records of older versions may lack; left out where they do.

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
    """The epochs of a cell, one row each.

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
    """A file of a cell's record, after its hash was compared; raises `InputError` if it is missing or was changed."""
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
