"""The table of costs: parameters, seconds and memory, from `costs.csv`. A cell is one trained ensemble."""

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from fdl.core.titles import backbone_title, method_title
from fdl.reporting.entries import Entry
from fdl.reporting.listings import Column, Line, Listing, Raw
from fdl.reporting.results import Results

if TYPE_CHECKING:
    from pandas import DataFrame

_RAW = (
    "dataset", "backbone", "method", "parameters", "seconds_median", "seconds_min", "seconds_max",
    "train_seconds_median", "evaluate_seconds_median", "peak_memory_mb_max", "device", "precision", "n", "failed",
)  # fmt: skip


@dataclass(frozen=True)
class Costs:
    """The cells of one dataset, backbone and method, with all numbers of shots and all seeds."""

    dataset: str
    backbone: str
    method: str
    done: "DataFrame"  # the rows of costs.csv of the finished cells
    failed: int  # number of cells that diverged


def grouped_costs(results: Results) -> list[Costs]:
    """The rows of `costs.csv` by dataset, backbone and method, in the order of tables; empty groups are left out."""
    frame, groups = results.costs, []
    for dataset, backbone in results.nets:
        for method in results.methods:
            chosen = (frame["dataset"] == dataset) & (frame["backbone"] == backbone) & (frame["method"] == method)
            here, done = frame[chosen], frame[chosen & (frame["status"] == "done")]
            if len(here):
                groups.append(Costs(dataset, backbone, method, done, len(here) - len(done)))
    return groups


def cost_table(results: Results) -> Listing:
    """Parameters of a member, seconds and peak memory of a cell, by dataset, backbone and method."""
    return Listing(
        "costs",
        f"Costs, preset {results.params.preset}",
        results.warning,
        "Cost of a cell (one ensemble trained, evaluated and mapped), all shots and seeds together: seconds as median "
        "(minimum to maximum), of these the training; largest peak memory of the process, on cuda that of the device.",
        (
            Column("Dataset", label=True),
            Column("Backbone", label=True),
            Column("Method", label=True),
            Column("Parameters of a member", number=True),
            Column("Seconds", number=True),
            Column("Training", number=True),
            Column("Memory (MB)", number=True),
            Column("Device"),
            Column("Precision"),
            Column("Cells", number=True),
        ),
        _RAW,
        [_line(results, costs) for costs in grouped_costs(results)],
        ["Times of different devices, precisions or loads of a machine are not comparable.", *_failed(results)],
    )


def _line(results: Results, costs: Costs) -> Line:
    title = results.collected.datasets[costs.dataset].title
    labels = [title, backbone_title(costs.backbone), method_title(costs.method)]
    raw: Raw = dict(zip(_RAW[:3], labels, strict=True))
    raw |= {"n": len(costs.done), "failed": costs.failed}
    if costs.done.empty:
        return Line([*labels, "–", "–", "–", "–", "–", "–", f"0 ({costs.failed} failed)"], raw)
    done = costs.done
    seconds, training = done["seconds"].tolist(), median(done["train_seconds"].tolist())
    memory, parameters = float(done["peak_memory_mb"].max()), int(done["parameters"].max())
    device, precision = (", ".join(sorted(set(done[name]))) for name in ("device", "precision"))
    raw |= {
        "parameters": parameters,
        "seconds_median": median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "train_seconds_median": training,
        "evaluate_seconds_median": median(done["evaluate_seconds"].tolist()),
        "peak_memory_mb_max": memory,
        "device": device,
        "precision": precision,
    }
    range_ = f"{median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
    cells = str(len(done)) + (f" ({costs.failed} failed)" if costs.failed else "")
    texts = [f"{parameters:,}", range_, f"{training:.1f}", f"{memory:,.0f}", device, precision, cells]
    return Line([*labels, *texts], raw)


def _failed(results: Results) -> list[str]:
    without = len(results.collected.cells) - len(results.collected.of("done"))
    return [f"Partial: {without:,} of {len(results.collected.cells):,} cells have no result."] if without else []


ENTRIES = [
    Entry(
        "table",
        "costs",
        "Costs",
        "Parameters of a member, seconds and peak memory of a cell. Times are comparable only on the same "
        "device under the same load.",
        cost_table,
        order=80,
        reading="Median seconds of an ensemble, with minimum and maximum. If these lie far apart, as in `lite` "
        "(510 to 3,058 s for the classical ensembles on CIFAR-10), the machine had other work, and the "
        "times compare nothing.",
    ),
]
