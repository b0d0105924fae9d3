"""The table that compares each result stored by the authors (docs/reference.md 8) with the spread of our runs."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import sqrt
from pathlib import Path

from fdl.core.protocol import DATASETS
from fdl.core.settings import Bundle, Cell
from fdl.core.titles import backbone_title, method_title
from fdl.evaluation.metrics import METRICS
from fdl.evaluation.statistics import LEVEL, t_quantile
from fdl.evaluation.voting import COMBINERS
from fdl.reporting.entries import Entry
from fdl.reporting.listings import Column, Line, Listing, Raw
from fdl.reporting.results import Results, Spread, mean_and_std, spread
from fdl.results.collect import DatasetFacts

_FILE = Path(__file__).parents[1] / "core" / "authors_results.csv"
# Our combiner and metric → the authors' names for the same number; the first name that a run has is used. Their best
# member is left out, because it was chosen on the test images.
_STORED = {
    ("mean", "accuracy"): ("base_mean_test_acc", "single_test_acc"),
    ("hard", "accuracy"): ("hard_voting_acc",),
    ("soft", "accuracy"): ("soft_voting_acc",),
    ("fusion", "accuracy"): ("fusion_test_acc",),
    ("fusion-tuned", "accuracy"): ("fusion_finetuned_test_acc", "fusion_finetuned_report_acc"),
    ("fusion-tuned", "f1_macro"): ("fusion_finetuned_macro_f1",),
    ("stacking", "accuracy"): ("stacking_test_acc",),
    ("stacking-tuned", "accuracy"): ("stacking_finetuned_test_acc",),
    ("stacking-tuned", "f1_macro"): ("stacking_finetuned_macro_f1",),
    ("ensemble", "cosine_sum"): ("test_loss1",),
    ("ensemble", "gaussian_sum"): ("test_loss2",),
}
_SUMS = {"cosine_sum": "cosine sum", "gaussian_sum": "Gaussian sum"}
# Notebooks of single nets that are compared with no ensemble (docs/reference.md 8.3): the first has an architecture
# that none of the authors' ensembles has, the second stored no test accuracy.
_OTHER_NETWORKS = ("Cifar10SingleNet", "Cifar100SingleNet")
_RAW = (
    "dataset", "backbone", "shots", "method", "measure", "notebook", "authors", "mean", "std", "n", "expected",
    "low", "high", "width", "inside", "differs",
)  # fmt: skip


@dataclass(frozen=True)
class StoredRun:
    """One training run of the authors whose test results are stored in their notebook."""

    bundle: Bundle
    method: str
    notebook: str
    numbers: Mapping[str, float]  # by the authors' names

    @property
    def single(self) -> bool:
        """Whether the run trained a single net instead of an ensemble."""
        return "single_test_acc" in self.numbers


@cache
def stored_runs() -> tuple[StoredRun, ...]:
    """The authors' runs that have test results and whose architecture occurs in their ensembles."""
    numbers: dict[tuple[Bundle, str, str], dict[str, float]] = {}
    wanted = {name for names in _STORED.values() for name in names} | {
        "run_epochs", "single_epochs_set", "loss_weight_cosine", "loss_weight_euclidean"
    }  # fmt: skip
    with _FILE.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["metric"] in wanted and row["notebook"] not in _OTHER_NETWORKS:
                bundle = Bundle(row["dataset"].lower(), row["backbone"].lower(), int(row["shots"]))
                key = bundle, row["method"], row["notebook"]
                numbers.setdefault(key, {})[row["metric"]] = float(row["value"])
    order = sorted(numbers, key=lambda key: (list(DATASETS).index(key[0].dataset), key[0], key[2]))
    return tuple(StoredRun(*key, numbers[key]) for key in order)


def author_table(results: Results) -> Listing:
    """Every test result that the authors stored, beside the mean and spread of our runs if the grid has such cells.

    It says whether the authors' result lies in the prediction interval for one new run like ours, which is
    mean ± t(n − 1) s √(1 + 1/n).
    """
    return Listing(
        "authors",
        f"The authors' stored runs beside ours, preset {results.params.preset}",
        results.warning,
        f"Test results that the authors' notebooks store (one run each) beside ours: mean ± standard deviation over "
        f"seeds, and the {100 * LEVEL:.0f} % prediction interval for one new run of ours, t distribution, with its "
        "width. Inside: whether the authors' result lies within it. In %; sums of the loss terms have no unit.",
        (
            Column("Dataset", label=True),
            Column("Backbone", label=True),
            Column("Shots", number=True, label=True),
            Column("Method", label=True),
            Column("Measure", width=0.14, label=True),
            Column("Authors", number=True),
            Column("Ours", number=True),
            Column("Seeds", number=True),
            Column("Interval", number=True),
            Column("Width", number=True),
            Column("Inside"),
        ),
        _RAW,
        [line for run in stored_runs() for line in _lines(results, run)],
        [
            *_differences(results),
            "not in the grid: the preset has no such cells. –: no value.",
            "Cosine and Gaussian sum: terms of the distance loss on the test images, summed over all pairs of members.",
            "Single nets: the authors trained these alone; beside stands the mean member of our classical ensemble.",
            "'Inside' means little when the interval is wide: read the width.",
        ],
    )


def _differences(results: Results) -> list[str]:
    """How our runs differ from the authors', one remark per dataset.

    A remark starts with the differences that all runs on the dataset share, and then lists the others by backbone,
    shots and method.
    """
    by_dataset: dict[str, dict[str, list[str]]] = {}
    for run in stored_runs():
        cells = [cell for cell in results.bundles.get(run.bundle, []) if cell.method == run.method]
        if cells:
            where = f"{backbone_title(run.bundle.backbone)}, {run.bundle.shots} per class, {method_title(run.method)}"
            by_dataset.setdefault(run.bundle.dataset, {})[where] = _differs(results, run, cells)
    remarks = []
    for dataset, runs in by_dataset.items():
        first = next(iter(runs.values()))
        shared = [text for text in first if all(text in texts for texts in runs.values())]
        rest = {where: [text for text in texts if text not in shared] for where, texts in runs.items()}
        own = "".join(f" {where}: {'; '.join(texts)}." for where, texts in rest.items() if texts)
        title = results.collected.datasets[dataset].title
        remarks.append(f"What differs in our runs on {title}: {'; '.join(shared) or 'nothing known'}.{own}")
    return remarks


def _lines(results: Results, run: StoredRun) -> list[Line]:
    lines = []
    cells = [cell for cell in results.bundles.get(run.bundle, []) if cell.method == run.method]
    differs = _differs(results, run, cells) if cells else []
    for (combiner, metric), names in _STORED.items():
        stored = [run.numbers[name] for name in names if name in run.numbers]
        if stored:
            accuracies = results.values(combiner, metric)
            factor = 1 if metric in _SUMS else 100
            ours = spread([factor * accuracies[cell] for cell in cells if cell in accuracies])
            lines.append(_line(results, run, combiner, metric, factor * stored[0], ours, len(cells), differs))
    return lines


def _line(
    results: Results,
    run: StoredRun,
    combiner: str,
    metric: str,
    theirs: float,
    ours: Spread,
    asked: int,
    differs: list[str],
) -> Line:
    digits = 2 if metric in _SUMS else 1
    facts = results.collected.datasets.get(run.bundle.dataset)
    title = facts.title if facts else DATASETS[run.bundle.dataset].title
    labels = [title, backbone_title(run.bundle.backbone), str(run.bundle.shots), method_title(run.method)]
    labels.append(_measure(run, combiner, metric))
    raw: Raw = dict(zip(_RAW[:5], labels, strict=True))
    raw |= {"notebook": run.notebook, "authors": theirs}
    raw |= {"mean": ours.mean, "std": ours.std, "n": ours.n, "expected": asked, "differs": "; ".join(differs)}
    bounds = prediction_interval(ours)
    mean = mean_and_std(ours, digits) if asked else "not in the grid"
    seeds = f"{ours.n} of {asked}" if asked else "–"
    texts = [*labels, f"{theirs:.{digits}f}", mean, seeds]
    if bounds is None:
        return Line([*texts, "–", "–", "–"], raw, printed=ours.mean is not None)
    low, high = bounds
    inside = "inside" if low <= theirs <= high else "outside"
    raw |= {"low": low, "high": high, "width": high - low, "inside": inside}
    interval = f"{low:.{digits}f} to {high:.{digits}f}".replace("-", "−")
    return Line([*texts, interval, f"{high - low:.{digits}f}", inside], raw)


def prediction_interval(ours: Spread) -> tuple[float, float] | None:
    """The 95 % prediction interval for one new run like ours; None below two runs."""
    if ours.mean is None or ours.std is None:
        return None
    half = float(t_quantile((1 + LEVEL) / 2, ours.n - 1)) * ours.std * sqrt(1 + 1 / ours.n)
    return ours.mean - half, ours.mean + half


def _measure(run: StoredRun, combiner: str, metric: str) -> str:
    if metric in _SUMS:
        return _SUMS[metric]
    if run.single:
        return "single net"
    return COMBINERS[combiner].title + (f", {METRICS[metric].title}" if metric != "accuracy" else "")


def _differs(results: Results, run: StoredRun, cells: list[Cell]) -> list[str]:
    """How our cells differ from the authors' run, as far as settings and records tell."""
    params, protocol = results.params, DATASETS[run.bundle.dataset]
    settings = params.training_settings(cells[0])
    backbone = protocol.backbones[run.bundle.backbone]
    facts = results.collected.datasets[run.bundle.dataset]
    epochs = int(run.numbers.get("run_epochs", run.numbers.get("single_epochs_set", 0)))
    differs = [_images(facts), *facts.notes]
    if settings["image_size"] != protocol.image_size:
        differs.append(f"{settings['image_size']} px, theirs {protocol.image_size}")
    if settings["width"] != 1:
        differs.append(f"width × {settings['width']:g}")
    if params.pool_of(run.bundle.dataset, run.bundle.backbone) != backbone.pool:
        differs.append(f"pool of the dataset, theirs of {backbone.pool} per class")
    if settings["epochs"] != epochs:
        differs.append(f"{settings['epochs']} epochs, theirs {epochs}")
    if settings["learning_rate"] != backbone.learning_rate:
        differs.append(f"learning rate {settings['learning_rate']:g}, theirs {backbone.learning_rate:g}")
    differs += _weights(run, settings["method_params"])
    if settings["selections"][0] != protocol.selection:
        differs.append(f"epoch by {settings['selections'][0]}, theirs {protocol.selection}")
    if params.bn_statistics != "moving":
        differs.append("batch-norm statistics re-estimated")
    if params.draws != "fixed":
        differs.append("a draw of images per seed, theirs one")
    precisions = sorted({results.precisions[cell] for cell in cells if cell in results.precisions} - {"float32"})
    return [text for text in [*differs, *(f"precision {name}" for name in precisions)] if text]


def _images(facts: DatasetFacts) -> str:
    return "synthetic images" if facts.synthetic else "" if facts.source == "official" else f"{facts.source} images"


def _weights(run: StoredRun, method_params: Mapping[str, float]) -> list[str]:
    """The weights of the distance loss that differ from those of the authors' run."""
    names = {"cosine_weight": "loss_weight_cosine", "gaussian_weight": "loss_weight_euclidean"}
    return [
        f"{ours.replace('_', ' ')} {method_params[ours]:g}, theirs {run.numbers[theirs]:g}"
        for ours, theirs in names.items()
        if ours in method_params and theirs in run.numbers and abs(method_params[ours] - run.numbers[theirs]) > 1e-3
    ]


ENTRIES = [
    Entry(
        "table",
        "authors",
        "The authors' stored runs",
        "Test results that the authors' notebooks store, one run each, beside ours: mean and standard "
        "deviation over seeds, the 95 % prediction interval for one new run of ours, its width, whether "
        "theirs is inside it, and what differs.",
        author_table,
        order=70,
        reading="*Inside* means that the authors' single run could be one of ours. Look at the width first: "
        "inside a wide interval says little. The authors' soft vote of FDL on CIFAR-10 with AlexNet and "
        "10 images per class (33.7 %) lies inside ours (27.8 to 39.8), their cosine sum (1.39) does not "
        "(2.28 to 3.12). What differs between their runs and ours stands below the table.",
    ),
]
