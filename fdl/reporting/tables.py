"""Tables in the paper's layout: rows dataset × backbone, columns shots × method, mean ± std over seeds.

Shots are training images per class. `results_table` computes a `Table`, and `table_formats` writes it.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from fdl.core.controls import CONTROLS
from fdl.core.head_settings import head_settings
from fdl.core.settings import Bundle, Cell, Params
from fdl.core.titles import (
    BASELINE,
    backbone_title,
    method_title,
    signed_interval,
)
from fdl.evaluation.metrics import METRICS, sentence
from fdl.evaluation.voting import COMBINERS
from fdl.reporting import entries
from fdl.reporting.entries import Named
from fdl.reporting.results import Results, Spread, baseline_pairs, mean_and_std, spread
from fdl.results.collect import Collected

_BN_STATISTICS = {"moving": "moving averages", "reestimate": "re-estimated from the training images"}
_NAMED = 5  # number of failed cells that the remarks of a table name
DIFFERENCES = (
    "Δ: mean over seeds of the difference to classical in points, paired by seed (same images, initial weights "
    "and batches); in brackets its 95 % t interval over the seeds where there are three or more: per cell, "
    "unadjusted, test images held fixed, so descriptive only; the verdicts are under Claims."
)


@dataclass(frozen=True)
class Column:
    """A method at a number of shots, or its difference from the baseline."""

    shots: int
    method: str
    difference: bool = False

    @property
    def heading(self) -> str:
        """The printed name of the method; Δ for a difference, whose column follows that of the method."""
        return "Δ" if self.difference else method_title(self.method)

    @property
    def name(self) -> str:
        """Beginning of the names of its columns in the CSV."""
        return f"{self.method}{f'-minus-{BASELINE}' if self.difference else ''}_{self.shots}shot"


@dataclass(frozen=True)
class Value(Spread):
    """An entry of the table: mean and spread over seeds, in percent; for differences in percentage points."""

    expected: int  # number of seeds in the grid; 0: the entry is not in the grid
    failed: int = 0  # number of cells (trained ensembles) that diverged
    difference: bool = False

    @property
    def text(self) -> str:
        """The printed text: `41.2 ± 1.3`, or `+1.2 [−0.3, +2.7]` for a difference.

        It is `–` if there is no value yet, and empty if the entry is not in the grid.
        """
        return self._text(self.interval)

    @property
    def brief(self) -> str:
        """The text without the interval."""
        return self._text(None)

    def _text(self, interval: tuple[float, float] | None) -> str:
        if not self.expected:
            return ""
        if self.mean is None:
            return "failed†" if self.failed else "–"
        text = signed_interval(self.mean, interval) if self.difference else mean_and_std(self)
        if self.n < self.expected:
            text += f" (n={self.n})"
        return text + "†" * bool(self.failed)


@dataclass(frozen=True)
class Row:
    """The row of a dataset and backbone."""

    dataset: str  # printed name, with "(synthetic)" if its images are
    backbone: str  # printed name
    notes: tuple[int, ...]  # numbers of the table's notes that apply to the dataset
    chance: float | None  # score of guessing, in percent; None if unknown
    entries: Mapping[Column, Value]


@dataclass(frozen=True)
class Table:
    """A table, ready to be written in any format."""

    name: str  # file name without ending
    title: str
    warning: str  # empty if the images are real
    caption: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str]  # notes on datasets, numbered from 1
    remarks: list[str]  # other texts below the table
    has_chance: bool  # whether the table has a column for chance

    def panels(self, shots: int) -> list[tuple[list[Column], list[Row]]]:
        """Split the table into panels with at most this many numbers of shots.

        Returns:
            The columns of each panel, and the rows that have an entry of the grid in any of them.
        """
        counts = list(dict.fromkeys(column.shots for column in self.columns))
        panels = []
        for start in range(0, len(counts), shots):
            columns = [column for column in self.columns if column.shots in counts[start : start + shots]]
            rows = [row for row in self.rows if any(row.entries[column].expected for column in columns)]
            panels.append((columns, rows))
        return panels


def results_table(results: Results, combiner: str, metric: str) -> Table:
    """The table of a combiner and a metric on test images.

    A combiner forms one prediction from the members' outputs. The columns of differences hold the mean over seeds of
    method − classical, each computed from two cells of the same seed.
    """
    params, collected, values = results.params, results.collected, results.values(combiner, metric)
    columns, failed = _columns(results), {state.cell for state in collected.of("failed")}
    notes = list(dict.fromkeys(note for facts in collected.datasets.values() for note in facts.notes))
    rows = []
    for dataset, backbone in results.nets:
        facts = collected.datasets[dataset]
        rows.append(
            Row(
                facts.title,
                backbone_title(backbone),
                tuple(notes.index(note) + 1 for note in facts.notes),
                None if facts.chance is None else 100 * facts.chance,
                {
                    column: _value(
                        column, results.bundles.get(Bundle(dataset, backbone, column.shots), []), values, failed
                    )
                    for column in columns
                },
            )
        )
    for dataset, reason in params.absent.items():
        title = params.protocol(dataset).title
        notes.append(f"{title}: {reason}")
        unknown = {column: Value(None, None, 0, len(params.seeds)) for column in columns}
        rows += [Row(title, backbone_title(name), (len(notes),), None, unknown) for name in params.backbones]
    return Table(
        _name(combiner, metric),
        f"Test {METRICS[metric].title}, {COMBINERS[combiner].title}, preset {params.preset}",
        results.warning,
        _caption(params, collected, combiner=combiner, metric=metric),
        columns,
        rows,
        notes,
        _remarks(params, collected, rows, metric=metric),
        has_chance=METRICS[metric].chance,
    )


def _columns(results: Results) -> list[Column]:
    """The columns, ordered by shots and method; each method but the baseline is followed by its difference."""
    present = {(cell.shots, cell.method) for cells in results.bundles.values() for cell in cells}
    columns = []
    for shots in sorted({shots for shots, _ in present}):
        here = [method for method in results.methods if (shots, method) in present]
        for method in here:
            columns.append(Column(shots, method))
            if method != BASELINE and BASELINE in here:
                columns.append(Column(shots, method, difference=True))
    return columns


def _value(column: Column, bundle: list[Cell], values: Mapping[Cell, float], failed: Container[Cell]) -> Value:
    """The entry of a column for the cells of a bundle (dataset, backbone, number of shots)."""
    cells = [cell for cell in bundle if cell.method == column.method]
    if column.difference:  # paired by seed, because methods with the same seed share images, weights and batches
        measured = [values[cell] - values[twin] for cell, twin in baseline_pairs(cells, values)]
        asked, diverged = len(baseline_pairs(cells, bundle)), 0
    else:
        measured = [values[cell] for cell in cells if cell in values]
        asked, diverged = len(cells), sum(cell in failed for cell in cells)
    percent = spread([100 * value for value in measured])
    return Value(percent.mean, percent.std, percent.n, asked, diverged, column.difference)


def _caption(params: Params, collected: Collected, *, combiner: str, metric: str) -> str:
    seeds = sorted({state.cell.seed for state in collected.cells})
    spread = "mean ± standard deviation over seeds" if len(seeds) > 1 else "one seed"
    return (
        f"Test {METRICS[metric].title} in %, {COMBINERS[combiner].title} of {params.members} members; {spread} "
        f"({_listed(seeds)}); rows: dataset and backbone, columns: training images per class and method."
    )


def _remarks(params: Params, collected: Collected, rows: list[Row], *, metric: str) -> list[str]:
    remarks = []
    if any(column.difference for row in rows for column in row.entries):
        remarks.append(DIFFERENCES)
    methods = dict.fromkeys(state.cell.method for state in collected.cells)
    controls = [f"{method_title(name)}: {CONTROLS[name].remark}" for name in methods if name in CONTROLS]
    if controls:
        remarks.append(
            "Controls, with the images and the loss of classical, not all its batches or weights: "
            f"{'; '.join(controls)}."
        )
    if METRICS[metric].chance:
        remarks.append(f"Chance: {METRICS[metric].title} of guessing all classes equally often.")
    failed = collected.of("failed")
    if failed:
        named = "; ".join(f"{state.cell.key}, epoch {state.epoch} ({state.reason})" for state in failed[:_NAMED])
        more = f"; and {len(failed) - _NAMED} more in cells.json" if len(failed) > _NAMED else ""
        remarks.append(
            f"†: {len(failed):,} of {len(collected.cells):,} cells diverged and have no value: {named}{more}."
        )
    if missing := len(collected.left_out):
        remarks.append(f"–: no record. {missing:,} of {len(collected.cells):,} cells are left out: partial results.")
    if failed or collected.left_out:
        remarks.append("n: seeds with a value, where the grid has more.")
    if any(not entry.expected for row in rows for entry in row.entries.values()):
        remarks.append("Empty: not in the grid.")
    return [*remarks, _setting(params, collected)]


def _setting(params: Params, collected: Collected) -> str:
    """The settings that a reader needs in order to compare tables."""
    cells = [state.cell for state in collected.cells]

    def epochs(dataset: str) -> str:
        shots_by_epochs: dict[str, list[int]] = defaultdict(list)
        for shots in sorted({cell.shots for cell in cells if cell.dataset == dataset}):
            here = {params.epochs_of(cell) for cell in cells if (cell.dataset, cell.shots) == (dataset, shots)}
            shots_by_epochs[" or ".join(map(str, sorted(here)))].append(shots)
        if len(shots_by_epochs) == 1:
            return next(iter(shots_by_epochs))
        return ", ".join(f"{count} at {_listed(shots)} per class" for count, shots in shots_by_epochs.items())

    def test_images(dataset: str) -> str:
        return str(collected.datasets[dataset].test or "unknown")

    def by_dataset(value_of: Callable[[str], str]) -> str:
        """The value that all datasets share, or the different values, each with its datasets."""
        groups: dict[str, list[str]] = defaultdict(list)
        for dataset in collected.datasets:
            groups[value_of(dataset)].append(params.protocol(dataset).title)
        if len(groups) == 1:
            return next(iter(groups))
        return ", ".join(f"{value} ({', '.join(titles)})" for value, titles in groups.items())

    parts = [
        f"preset {params.preset}",
        f"epochs {by_dataset(epochs)}",
        f"epoch used: {by_dataset(lambda dataset: params.selections_of(dataset)[0])}",
        f"images {by_dataset(lambda dataset: f'{params.image_size_of(dataset)} px')}",
        f"test images {by_dataset(test_images)}",
        f"width × {params.width:g}",
        f"batch-norm statistics {_BN_STATISTICS[params.bn_statistics]}",
        "one draw of images per seed" if params.draws == "random" else "one draw of images for all seeds",
    ]
    return f"Setting: {'; '.join(parts)}."


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _name(combiner: str, metric: str) -> str:
    return metric if combiner == "soft" else f"{metric}_{combiner.replace('-', '_')}"


def _metrics(table: str) -> Callable[[Params], list[Named]]:
    """The `each` of an entry: tables of the soft vote, for the metrics whose `table` has this value."""

    def asked(params: Params) -> bool:
        if table == "own images":
            return any(params.own(bundle.dataset) for bundle in params.bundles())
        return table == "always" or bool(params.near_duplicates)

    return lambda params: [
        (name, sentence(metric.title), ("soft", name))
        for name, metric in METRICS.items()
        if metric.table == table and asked(params)
    ]


def _combiners(params: Params) -> list[Named]:
    """The `each` of an entry: accuracy by the votes that have a table, and by the heads that any bundle asks for."""
    asked = set()
    for bundle in params.bundles().values():
        heads = head_settings(params, bundle[0])
        for head in heads.heads if heads else ():
            asked |= {head, f"{head}-tuned"} if heads and heads.tuning_epochs else {head}
    return [
        (_name(name, "accuracy"), f"Accuracy, {combiner.title}", (name, "accuracy"))
        for name, combiner in COMBINERS.items()
        if combiner.table or name in asked
    ]


ENTRIES = [
    entries.Entry(
        "table",
        "results",
        "Soft vote",
        "The paper's layout: a row per dataset and backbone, columns by training images per class and "
        "method, mean and standard deviation over seeds, in %. Δ is the mean over seeds of the difference "
        "from the classical ensemble, paired by seed.",
        results_table,
        order=10,
        each=_metrics("always"),
        written=", ".join(name for name, metric in METRICS.items() if metric.table == "always"),
        reading="Compare the methods within a row and number of images. The standard deviation says how much "
        "another draw of the training images and weights changes an accuracy, Δ and its interval by how "
        "much the methods differ on the same draws. On NEU with 3 images per class, classical reaches "
        "45.6 ± 10.0 % and FDL 38.8 ± 6.5 %; the difference of −6.7 points has the interval [−14.6, "
        "+1.1], which includes 0.",
    ),
    entries.Entry(
        "table",
        "results_own_images",
        "Soft vote, own images",
        "The same, only for images of your own, whose classes may be unequal.",
        results_table,
        order=11,
        each=_metrics("own images"),
        written=", ".join(name for name, metric in METRICS.items() if metric.table == "own images"),
        reading="Read it instead of the accuracy if your classes have unequal numbers of test images: a net that "
        "always names the largest class gets exactly chance here.",
    ),
    entries.Entry(
        "table",
        "results_near_duplicates",
        "Soft vote, without near-duplicates",
        "The same on the test images that do not resemble a training image of their ensemble, where the setting "
        "`near_duplicates` names a list of such pairs.",
        results_table,
        order=12,
        each=_metrics("near-duplicates"),
        written=", ".join(name for name, metric in METRICS.items() if metric.table == "near-duplicates"),
        reading="Read it beside the accuracy: the difference of the two estimates the gain from near-duplicates of "
        "training images.",
    ),
    entries.Entry(
        "table",
        "results_by_combiner",
        "Other combiners",
        "Accuracy of the other combiners in the same layout, as far as the preset has them.",
        results_table,
        order=20,
        each=_combiners,
        written=", ".join(_name(name, "accuracy") for name, about in COMBINERS.items() if about.table or about.trained),
        reading="Compare it with the table of the soft vote: where the two disagree, a method changes how sure "
        "the members are, not only how often they are right. On NEU with 5 images per class, FDL loses "
        "1.8 points in the soft vote and 12.1 in the hard vote.",
    ),
]
