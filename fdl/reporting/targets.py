"""The files that a report consists of; Snakemake declares them, the reporting modules write them.

Nothing here imports what draws: Snakemake reads this every time it parses the workflow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fdl.core import layout
from fdl.core.errors import InputError, did_you_mean
from fdl.core.head_settings import head_settings
from fdl.core.settings import Params
from fdl.core.titles import backbone_title, dataset_title
from fdl.evaluation.metrics import METRICS, sentence
from fdl.evaluation.voting import COMBINERS

TABLE_FORMATS = ("csv", "md", "tex", "html")
FIGURE_FORMATS = ("png", "pdf")


@dataclass(frozen=True)
class Target:
    """A table or figure that can be made by itself: `python -m fdl report --only NAME`."""

    name: str  # of its files, without ending
    kind: Literal["table", "figure"]
    maker: str  # what `fdl.reporting.makers` makes it with; also its caption below workflow/report
    title: str
    subject: tuple[str, ...] = ()  # a combiner and metric, a dataset, or a dataset and backbone
    endings: Sequence[str] = TABLE_FORMATS

    def path(self, params: Params, ending: str) -> str:
        """One of its files."""
        return str(layout.report_folder(params) / f"{self.kind}s" / f"{self.name}.{ending}")

    def paths(self, params: Params) -> list[str]:
        """All of its files."""
        return [self.path(params, ending) for ending in self.endings]


def targets(params: Params) -> list[Target]:
    """Every table and figure of a preset's report, in the order of the page."""
    return [*_tables(params), *_figures(params)]


def target_named(params: Params, name: str) -> Target:
    """The target of this name.

    Raises:
        InputError: there is none.
    """
    known = {target.name: target for target in targets(params)}
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(f"--only {name}: no table or figure of preset {params.preset} is called so; {hint}")
    return known[name]


def head_combiners(params: Params) -> list[str]:
    """The trained combiners that any cell is asked to have, in the order of tables."""
    asked = set()
    for bundle in params.bundles().values():
        heads = head_settings(params, bundle[0])
        for head in heads.heads if heads else ():
            asked |= {head, f"{head}-tuned"} if heads and heads.tuning_epochs else {head}
    return [name for name in COMBINERS if name in asked]


def _tables(params: Params) -> list[Target]:
    own = any(params.own(bundle.dataset) for bundle in params.bundles())
    several = any(len(params.selections_of(bundle.dataset)) > 1 for bundle in params.bundles())
    tables = [
        Target(name, "table", "results", sentence(metric.title), ("soft", name))
        for name, metric in METRICS.items()
        if metric.table == "always" or (metric.table and own)
    ]
    tables += [
        Target(
            f"accuracy_{combiner.replace('-', '_')}",
            "table",
            "results",
            f"Accuracy, {COMBINERS[combiner].title}",
            (combiner, "accuracy"),
        )
        for combiner in [*(name for name, about in COMBINERS.items() if about.table), *head_combiners(params)]
    ]
    others = {
        "combiners": "Combiners",
        "metrics": "Metrics of the soft vote",
        "ablation": "Methods",
        "diversity": "Diversity of the members",
        **({"selections": "Selection of the epoch"} if several else {}),
        "authors": "The authors' stored runs",
        "costs": "Costs",
        "claims": "Claims",
    }
    return tables + [Target(name, "table", name, title) for name, title in others.items()]


def _figures(params: Params) -> list[Target]:
    whole = {
        "forest": "Gain by dataset and backbone",
        "accuracy_over_shots": "Accuracy over images per class",
        "gain_over_shots": "Gain over images per class",
        "paired_differences": "Differences from classical",
        "diversity_and_gain": "Diversity and gain",
        "reliability": "Reliability",
        "cam_overlap": "Overlap of the members' maps",
        "seconds_per_cell": "Seconds per cell",
    }
    nets = list(dict.fromkeys((bundle.dataset, bundle.backbone) for bundle in params.bundles()))
    figures = [Target(name, "figure", name, title, (), FIGURE_FORMATS) for name, title in whole.items()]
    figures += [
        Target(
            f"training_{dataset}",
            "figure",
            "training",
            f"Training, {dataset_title(dataset)}",
            (dataset,),
            ("png", "pdf"),
        )
        for dataset in dict.fromkeys(dataset for dataset, _ in nets)
    ]
    for maker, what in (("cam", "Class activation maps"), ("descriptors", "Descriptors")):
        for dataset, backbone in nets:
            title = f"{what}, {dataset_title(dataset)}, {backbone_title(backbone)}"
            name = "_".join([maker, dataset, backbone])
            figures.append(Target(name, "figure", maker, title, (dataset, backbone), ("png",)))
    return figures


def report_files(params: Params) -> dict[str, list[str]]:
    """Paths by stage: `collected` by the verb collect, `made` by the verb report, `all` of them."""
    folder = layout.report_folder(params)
    collected = [str(folder / name) for name in ("runs.csv", "costs.csv", "cells.json")]
    made = [path for target in targets(params) for path in target.paths(params)]
    made += [str(folder / name) for name in (*PAGES, *DVC)]
    return {"collected": collected, "made": made, "all": collected + made}


PAGES = ("claims.json", "index.html")  # beside the tables and figures
DVC = ("metrics.json", "plots/accuracy.csv", "plots/training.csv")  # what dvc.yaml names; fdl.reporting.dvc_metrics
