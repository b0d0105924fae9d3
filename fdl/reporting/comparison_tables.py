"""Tables that compare methods, combiners, metrics and selection rules, with mean ± standard deviation over seeds.

Each has a row per bundle and method. A bundle is a dataset, a backbone and a number of shots (training images per
class). A combiner forms one prediction from the members' outputs. A selection rule picks the epoch of a training.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from fdl.core.settings import Bundle, Cell, Params
from fdl.core.titles import (
    BASELINE,
    backbone_title,
    dataset_title,
    method_title,
    signed_interval,
)
from fdl.evaluation.diversity import DISTANCE, DIVERSITY
from fdl.evaluation.metrics import METRICS, Metric, sentence
from fdl.evaluation.overlap import OVERLAP
from fdl.evaluation.voting import COMBINERS
from fdl.reporting.entries import Entry, Named
from fdl.reporting.listings import Column, Line, Listing, Raw
from fdl.reporting.results import Results, Spread, differences, mean_and_std, spread
from fdl.results.collect import CELL_COLUMNS
from fdl.results.measures import ENSEMBLE

_DIFFERENCE = ("difference_mean", "difference_std", "difference_low", "difference_high")
_KEYS = ("dataset", "backbone", "shots", "method")
_HEADINGS = (
    Column("Dataset", label=True),
    Column("Backbone", label=True),
    Column("Shots", number=True, label=True),
    Column("Method", label=True),
)


def ablation_table(results: Results) -> Listing:
    """Test accuracy of the soft vote by method, and its difference from the classical ensemble.

    The last rows, one per method, hold the means over the bundles in which both the method and the baseline have a
    value.
    """
    gains = {method: differences(results.accuracy, method) for method in results.methods}
    lines, both = [], defaultdict(list)
    for bundle, method, cells in _groups(results):
        score = _percent(results.accuracy, cells)
        difference = spread([gains[method][cell] for cell in cells if cell in gains[method]])
        lines.append(_ablation_line(_labels(results, bundle, method), score, difference, len(cells)))
        if method != BASELINE:
            both[method].append((score.mean, difference.mean))
    for method, means in both.items():
        known = [(score, gain) for score, gain in means if score is not None and gain is not None]
        # No standard deviation is given, because the bundles are fixed and not a sample.
        score, gain = (
            Spread(spread(column).mean, None, len(known)) for column in ([s for s, _ in known], [g for _, g in known])
        )
        everything = dataset_title("all", synthetic=results.collected.synthetic)
        lines.append(_ablation_line([everything, "all", "all", method_title(method)], score, gain, len(means)))
    return Listing(
        "ablation",
        f"Methods, preset {results.params.preset}",
        results.warning,
        "Test accuracy in %, soft vote, mean ± standard deviation over seeds; Δ: difference to classical in points, "
        "paired by seed (same images, initial weights and batches), with its 95 % t interval over seeds.",
        (*_HEADINGS, Column("Accuracy", number=True), Column("Δ", number=True), Column("Seeds", number=True)),
        (*_KEYS, "mean", "std", "n", *_DIFFERENCE, "difference_n", "expected"),
        lines,
        _remarks(
            results,
            "all: mean over the settings in which both methods have a value; Seeds counts these settings there.",
        ),
    )


def _ablation_line(labels: Sequence[str], score: Spread, difference: Spread, asked: int) -> Line:
    raw: Raw = dict(zip(_KEYS, labels, strict=True)) | vars(score)
    raw |= _difference_columns(difference) | {"difference_n": difference.n}
    return _line([*labels, _score(score), _difference(difference), f"{score.n} of {asked}"], raw | {"expected": asked})


def combiner_table(results: Results) -> Listing:
    """Test accuracy of every combiner that occurs in the results, beside that of the members."""
    combiners = [name for name in results.combiners if COMBINERS[name].shown]
    values = {name: results.values(name, "accuracy") for name in combiners}
    lines = []
    for bundle, method, cells in _groups(results):
        labels = _labels(results, bundle, method)
        scores = {name: _percent(by_cell, cells) for name, by_cell in values.items()}
        raw: Raw = dict(zip(_KEYS, labels, strict=True))
        for name, score in scores.items():
            raw |= {f"{name}_{part}": value for part, value in vars(score).items()}
        lines.append(_line([*labels, *(_score(score, asked=len(cells)) for score in scores.values())], raw))
    parts = [f"{name}_{part}" for name in combiners for part in ("mean", "std", "n")]
    return Listing(
        "combiners",
        f"Combiners, preset {results.params.preset}",
        results.warning,
        f"Test accuracy in % of {results.params.members} members by combiner, mean ± standard deviation over seeds.",
        (*_HEADINGS, *(Column(sentence(COMBINERS[name].title), number=True) for name in combiners)),
        (*_KEYS, *parts),
        lines,
        _remarks(results),
    )


def diversity_table(results: Results) -> Listing:
    """How far the members differ in predictions, feature maps and class activation maps."""
    columns = {
        f"{split}_{name}": (measure, split, results.values(ENSEMBLE, name, split))
        for name, measure in (DIVERSITY | DISTANCE | OVERLAP).items()
        for split in measure.splits
    }
    # Old records lack the measures that were added later.
    columns = {name: column for name, column in columns.items() if column[0].kept_empty or column[2]}
    shown = dict.fromkeys(measure for measure, _, _ in columns.values())
    return _measured(
        results,
        "diversity",
        "Diversity of the members",
        "How far the members of an ensemble differ, on test images unless stated otherwise, mean ± standard deviation "
        "over seeds.",
        columns,
        *(_explained(measure for measure in shown if measure.kept_empty is kept) for kept in (True, False)),
        *_without_train(results, columns["train_disagreement"][2]),
    )


def metric_table(results: Results) -> Listing:
    """Every metric of the soft vote on test images."""
    columns = {name: (metric, "test", results.values("soft", name)) for name, metric in METRICS.items()}
    columns = {name: column for name, column in columns.items() if column[2]}
    shown = [metric for metric, _, _ in columns.values()]
    lower = ", ".join(metric.title for metric in shown if metric.better == "lower")
    return _measured(
        results,
        "metrics",
        "Metrics of the soft vote",
        f"Soft vote of {results.params.members} members by every metric, test images, shares in %, mean ± standard "
        "deviation over seeds.",
        columns,
        _explained(shown),
        f"Lower is better: {lower}." if lower else "",
    )


def _measured(
    results: Results,
    name: str,
    title: str,
    caption: str,
    columns: Mapping[str, tuple[Metric, str, Mapping[Cell, float]]],
    *remarks: str,
) -> Listing:
    """A table with a column per measure and split: mean ± standard deviation over seeds, shares in percent.

    Args:
        results: results of the preset.
        name: name of the files.
        title: heading of the table.
        caption: text above the table.
        columns: by name in the CSV: the measure, its split, and its value for every cell that has one.
        remarks: texts below the table.
    """
    lines = []
    for bundle, method, cells in _groups(results):
        labels = _labels(results, bundle, method)
        raw: Raw = dict(zip(_KEYS, labels, strict=True))
        texts = list(labels)
        for column, (measure, _, values) in columns.items():
            measured = [values[cell] for cell in cells if cell in values]
            score = spread([100 * value for value in measured] if measure.percent else measured)
            raw |= {f"{column}_{part}": value for part, value in vars(score).items()}
            texts.append(_score(score, asked=len(cells), digits=1 if measure.percent else 2))
        lines.append(_line(texts, raw))
    headings = [sentence(measure.title) + f", {split}" * (split != "test") for measure, split, _ in columns.values()]
    return Listing(
        name,
        f"{title}, preset {results.params.preset}",
        results.warning,
        caption,
        (*_HEADINGS, *(Column(heading, number=True) for heading in headings)),
        (*_KEYS, *(f"{column}_{part}" for column in columns for part in ("mean", "std", "n"))),
        lines,
        _remarks(results, *filter(None, remarks)),
    )


def _explained(measures: Iterable[Metric]) -> str:
    """The explanations of these measures."""
    return " ".join(filter(None, (measure.explained for measure in measures)))


def _without_train(results: Results, measured: Mapping[Cell, float]) -> list[str]:
    """A remark if there are old records, which hold no predictions for the training images; else an empty list."""
    done = [state.cell for state in results.collected.of("done")]
    without = sum(cell not in measured for cell in done)
    if not without:
        return []
    return [
        f"Train: {without} of {len(done)} records have no value, since they were made before predictions of the "
        "training images were kept; a mean with n is over the others."
    ]


def selection_table(results: Results) -> Listing:
    """Test accuracy of the soft vote by the rule that picks the epoch.

    It shows how much of an accuracy is due to the selection. All rules are applied to the same trainings. Each row also
    has the difference from the rule `last` or, if the preset does not ask for that, from the dataset's first rule.
    """
    values = _values_by_rule(results)
    rules_of = {bundle.dataset: results.params.selections_of(bundle.dataset) for bundle in results.bundles}
    reference_of = {dataset: "last" if "last" in rules else rules[0] for dataset, rules in rules_of.items()}
    lines = []
    for bundle, method, cells in _groups(results):
        reference = reference_of[bundle.dataset]
        for rule in rules_of[bundle.dataset]:
            score = _percent(values["test", rule], cells)
            seen = _percent(values["validation", rule], cells)
            labels = [*_labels(results, bundle, method), rule]
            chosen, base = values["test", rule], values["test", reference] if rule != reference else {}
            gain = spread([100 * (chosen[cell] - base[cell]) for cell in cells if cell in chosen and cell in base])
            raw: Raw = dict(zip((*_KEYS, "selection"), labels, strict=True))
            raw |= vars(score) | {"validation_mean": seen.mean, "reference": reference}
            raw |= _difference_columns(gain)
            texts = [*labels, _score(score, asked=len(cells)), _difference(gain), _score(seen)]
            lines.append(_line(texts, raw))
    return Listing(
        "selections",
        f"Selection of the epoch, preset {results.params.preset}",
        results.warning,
        "Accuracy in %, soft vote, mean ± standard deviation over seeds, by the rule that picks the epoch; Δ: "
        f"difference on test from {' or '.join(dict.fromkeys(reference_of.values()))}, of the same trainings, in "
        "points, with its 95 % t interval over seeds.",
        (
            *_HEADINGS,
            Column("Selection", label=True),
            Column("Test", number=True),
            Column("Δ", number=True),
            Column("Validation", number=True),
        ),
        (*_KEYS, "selection", "mean", "std", "n", "validation_mean", "reference", *_DIFFERENCE),
        lines,
        _remarks(
            results,
            "Selection: sum, the highest summed accuracy of the members on the whole validation set; sum3, of the "
            "first three members; sum-small, on as many validation images as there are training images at most; own, "
            "each member at its own best epoch; last, the last epoch. Validation: on the images that the rules sum, "
            "sum3 and own chose by, so not a fair estimate for these.",
        ),
    )


def _values_by_rule(results: Results) -> dict[tuple[str, str], dict[Cell, float]]:
    """Accuracy of the soft vote by (split, selection rule) and cell."""
    chosen = results.runs[(results.runs["combiner"] == "soft") & (results.runs["metric"] == "accuracy")]
    columns = [chosen[name].tolist() for name in ("split", "selection", *CELL_COLUMNS, "value")]
    values: dict[tuple[str, str], dict[Cell, float]] = defaultdict(dict)
    for split, rule, *cell, value in zip(*columns, strict=True):
        values[split, rule][Cell(*cell)] = value
    return values


def _groups(results: Results) -> list[tuple[Bundle, str, list[Cell]]]:
    """The grid's cells by bundle and method, the baseline first."""
    return [
        (bundle, method, [cell for cell in cells if cell.method == method])
        for bundle, cells in results.bundles.items()
        for method in results.methods
        if any(cell.method == method for cell in cells)
    ]


def _line(texts: Sequence[str], raw: Raw) -> Line:
    """A row. LaTeX tables leave it out if it holds no mean; partial results have hundreds of such rows."""
    return Line(texts, raw, printed=any(isinstance(value, float) for value in raw.values()))


def _labels(results: Results, bundle: Bundle, method: str) -> list[str]:
    title = results.collected.datasets[bundle.dataset].title
    return [title, backbone_title(bundle.backbone), str(bundle.shots), method_title(method)]


def _percent(values: Mapping[Cell, float], cells: Sequence[Cell]) -> Spread:
    return spread([100 * values[cell] for cell in cells if cell in values])


def _score(score: Spread, asked: int = 0, digits: int = 1) -> str:
    """`41.2 ± 1.3`, with the number of seeds if some of the `asked` seeds have no value."""
    return mean_and_std(score, digits) + (f" (n={score.n})" if 0 < score.n < asked else "")


def _difference(difference: Spread) -> str:
    if difference.mean is None:
        return "–"
    return signed_interval(difference.mean, difference.interval)


def _difference_columns(difference: Spread) -> dict[str, float | None]:
    """Mean, standard deviation and bounds of the 95 % t interval over seeds, by column of the CSV."""
    values = difference.mean, difference.std, *(difference.interval or (None, None))
    return dict(zip(_DIFFERENCE, values, strict=True))


def _remarks(results: Results, *first: str) -> list[str]:
    """The given remarks, and then notes on the images and on missing results, since a table may be read alone."""
    collected = results.collected
    remarks = list(first)
    remarks += [f"{facts.title}: {'; '.join(facts.notes)}." for facts in collected.datasets.values() if facts.notes]
    without = len(collected.cells) - len(collected.of("done"))
    if without:
        remarks.append(f"–: no value. Partial: {without:,} of {len(collected.cells):,} cells have none.")
    return remarks


def _with_several_rules(params: Params) -> list[Named]:
    several = any(len(params.selections_of(bundle.dataset)) > 1 for bundle in params.bundles())
    return [("selections", "Selection of the epoch", ())] if several else []


ENTRIES = [
    Entry(
        "table",
        "combiners",
        "Combiners",
        "Test accuracy in % of every combiner, beside that of the members: mean and standard deviation over seeds.",
        combiner_table,
        order=30,
        reading="Read along a row. If a vote is not above *member best on validation*, the ensemble is not worth "
        "its five nets. On NEU with 10 images per class, the classical soft vote reaches 55.7 %, its mean "
        "member 54.1 % and its best member 57.1 %.",
    ),
    Entry(
        "table",
        "metrics",
        "Metrics of the soft vote",
        "Every metric of the soft vote on the test images: mean and standard deviation over seeds, shares in %.",
        metric_table,
        order=35,
        reading="The accuracy counts right answers; the last three columns ask whether the probabilities can be "
        "trusted (lower is better). On NEU with 10 images per class, FDL and classical have the same "
        "negative log-likelihood (1.42), but FDL is calibrated worse (24.9 against 18.7).",
    ),
    Entry(
        "table",
        "ablation",
        "Methods",
        "Test accuracy in % of the soft vote by method, and its difference from the classical ensemble, "
        "paired by seed. The last rows are the means over all bundles.",
        ablation_table,
        order=40,
        reading="The row of a method is compared with the classical row of the same setting, and the last rows "
        "with each other. In `lite`, FDL is −1.7 points on average over 6 settings.",
    ),
    Entry(
        "table",
        "diversity",
        "Diversity of the members",
        "How far the members of an ensemble differ in what they predict, in their feature maps and in "
        "their class activation maps: mean and standard deviation over seeds.",
        diversity_table,
        order=50,
        reading="Lower sums, a lower Q and more disagreement mean members that differ more; the accuracy shows whether "
        "this helps. Look at *pairs left out* before you read *overlap of maps*. On CIFAR-10 "
        "with 10 images per class, FDL lowers the cosine sum from 8.9 to 2.7, while the disagreement only "
        "rises from 44.7 to 47.3 %.",
    ),
    Entry(
        "table",
        "selections",
        "Selection of the epoch",
        "Test accuracy by the rule that picks the epoch.",
        selection_table,
        order=60,
        each=_with_several_rules,
        reading="Compare rules within a row: what an accuracy gains by a rule that looks at many validation "
        "images is not available to someone who has only a few. Only presets with several `selections` "
        "have it, such as `lite-selection`.",
    ),
]
