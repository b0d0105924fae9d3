"""The files that a report consists of; Snakemake declares them, the reporting modules write them."""

from fdl import layout
from fdl.params import Params

TABLE_FORMATS = ("csv", "md", "tex", "html")


def tables(params: Params) -> tuple[str, ...]:
    """The metrics that have a table: with the user's own images, whose classes may be unequal, one more."""
    own = any(params.own(bundle.dataset) for bundle in params.bundles())
    return ("accuracy", *["accuracy_balanced"] * own, "f1_macro")


def cam_figures(params: Params) -> dict[str, tuple[str, str]]:
    """The figures of class activation maps: name without ending → (dataset, backbone)."""
    pairs = dict.fromkeys((bundle.dataset, bundle.backbone) for bundle in params.bundles())
    return {f"cam_{dataset}_{backbone}": (dataset, backbone) for dataset, backbone in pairs}


def report_files(params: Params) -> dict[str, list[str]]:
    """Paths by stage: `collected` by the verb collect, `made` by the verb report, `all` of them."""
    folder = layout.report_folder(params)
    collected = [str(folder / name) for name in ("runs.csv", "costs.csv", "cells.json")]
    names = (*tables(params), "claims")
    made = [str(folder / "tables" / f"{name}.{ending}") for name in names for ending in TABLE_FORMATS]
    made += [str(folder / "figures" / f"accuracy_over_shots.{ending}") for ending in ("png", "pdf")]
    made += [str(folder / "figures" / f"{name}.png") for name in cam_figures(params)]
    made.append(str(folder / "claims.json"))
    made.append(str(folder / "index.html"))
    return {"collected": collected, "made": made, "all": collected + made}
