"""The files that a report consists of; Snakemake declares them, the reporting modules write them."""

from fdl import layout
from fdl.params import Params

TABLE_FORMATS = ("csv", "md", "tex", "html")
FIGURES = ("accuracy_over_shots",)


def tables(params: Params) -> tuple[str, ...]:
    """The metrics that have a table: with the user's own images, whose classes may be unequal, one more."""
    own = any(params.own(bundle.dataset) for bundle in params.bundles())
    return ("accuracy", *["accuracy_balanced"] * own, "f1_macro")


def report_files(params: Params) -> dict[str, list[str]]:
    """Paths by stage: `collected` by the verb collect, `made` by the verb report, `all` of them."""
    folder = layout.report_folder(params)
    collected = [str(folder / name) for name in ("runs.csv", "costs.csv", "cells.json")]
    made = [str(folder / "tables" / f"{table}.{ending}") for table in tables(params) for ending in TABLE_FORMATS]
    made += [str(folder / "figures" / f"{figure}.{ending}") for figure in FIGURES for ending in ("png", "pdf")]
    made.append(str(folder / "index.html"))
    return {"collected": collected, "made": made, "all": collected + made}
