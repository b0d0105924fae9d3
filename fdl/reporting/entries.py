"""What a table or figure says of itself: one entry, beside the code that makes it, holds all of it.

A module of this folder whose name ends in `tables` or `figures` lists its entries in `ENTRIES`. Snakemake, the page,
the verb `report --only`, `snakemake --report` and docs/report.md read them there: nothing else names a table or figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fdl.core.settings import Params
from fdl.core.titles import backbone_title

FORMATS = {"table": ("csv", "md", "tex", "html"), "figure": ("png", "pdf")}
Named = tuple[str, str, tuple[str, ...]]  # name of the files, title, what `make` is called with besides the results


@dataclass(frozen=True)
class Entry:
    """A table or figure, or several of one kind."""

    kind: Literal["table", "figure"]
    name: str
    title: str  # above it
    shows: str  # a sentence or two, for docs/report.md and Snakemake's report
    # `Results` → a table's `Table` or `Listing`, or a figure and its caption; None: the claims, which are written with
    # the verdicts.
    make: Callable[..., Any] | None
    order: int = 100  # on the page: the lowest is first
    each: Callable[[Params], Sequence[Named]] | None = None  # those that a preset has; None: the one of this name
    written: str = ""  # how the documentation writes the names of several
    endings: tuple[str, ...] = ()  # of its files; (): all of its kind
    reading: str = ""  # how to read it, with an example from the report of `lite`; for docs/report.md
    linked: bool = False  # the page does not show the figure itself, but where it lies


def drawn(draw: Callable[..., Any], caption: Callable[..., str]) -> Callable[..., tuple[Any, str]]:
    """What makes a figure, of a function that draws it and of one that says what it shows."""
    return lambda *given: (draw(*given), caption(*given))


def per_dataset(name: str, title: str) -> Callable[[Params], Sequence[Named]]:
    """One for each dataset of the grid."""
    return lambda params: [
        (f"{name}_{dataset}", f"{title}, {params.protocol(dataset).title}", (dataset,))
        for dataset in dict.fromkeys(bundle.dataset for bundle in params.bundles())
    ]


def per_net(name: str, title: str) -> Callable[[Params], Sequence[Named]]:
    """One for each dataset and backbone of the grid."""
    return lambda params: [
        (f"{name}_{dataset}_{backbone}", f"{title}, {params.protocol(dataset).title}, {backbone_title(backbone)}", net)
        for net in dict.fromkeys((bundle.dataset, bundle.backbone) for bundle in params.bundles())
        for dataset, backbone in [net]
    ]
