"""The entry of a table or figure, which holds everything the project knows about it.

To add a table or figure, list an entry in `ENTRIES` of a module of this folder whose name ends in `tables` or
`figures`. Snakemake, the page, the verb `report --only`, `snakemake --report` and docs/report.md read the entries; a
table or figure is named nowhere else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fdl.core.settings import Params
from fdl.core.titles import backbone_title

FORMATS = {"table": ("csv", "md", "tex", "html"), "figure": ("png", "pdf")}
Named = tuple[str, str, tuple[str, ...]]  # name of the files, title, arguments of `make` after the results


@dataclass(frozen=True)
class Entry:
    """A table or figure, or several of the same kind, such as one per dataset."""

    kind: Literal["table", "figure"]
    name: str
    title: str
    shows: str  # a sentence or two on its content, for docs/report.md and Snakemake's report
    # Called with the `Results` and, if `each` is given, further arguments. Returns a `Table` or `Listing`, or a figure
    # and its caption. None for the table of claims, which is written together with the verdicts.
    make: Callable[..., Any] | None
    order: int = 100  # on the page, lowest first
    each: Callable[[Params], Sequence[Named]] | None = None  # the tables or figures of a preset; None: one of this name
    written: str = ""  # how the documentation writes the names if there are several
    endings: tuple[str, ...] = ()  # of its files; (): all formats of its kind
    reading: str = ""  # how to read it, with an example from the report of `lite`; for docs/report.md
    linked: bool = False  # whether the page links to the figure instead of embedding it


def drawn(draw: Callable[..., Any], caption: Callable[..., str]) -> Callable[..., tuple[Any, str]]:
    """The `make` of a figure's entry, from a function that draws the figure and one that returns its caption."""
    return lambda *given: (draw(*given), caption(*given))


def per_dataset(name: str, title: str) -> Callable[[Params], Sequence[Named]]:
    """The `each` of an entry with one table or figure per dataset of the grid."""
    return lambda params: [
        (f"{name}_{dataset}", f"{title}, {params.protocol(dataset).title}", (dataset,))
        for dataset in dict.fromkeys(bundle.dataset for bundle in params.bundles())
    ]


def per_net(name: str, title: str) -> Callable[[Params], Sequence[Named]]:
    """The `each` of an entry with one table or figure per dataset and backbone of the grid."""
    return lambda params: [
        (f"{name}_{dataset}_{backbone}", f"{title}, {params.protocol(dataset).title}, {backbone_title(backbone)}", net)
        for net in dict.fromkeys((bundle.dataset, bundle.backbone) for bundle in params.bundles())
        for dataset, backbone in [net]
    ]
