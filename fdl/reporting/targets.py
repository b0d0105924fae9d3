"""The files of a report. Snakemake declares them as outputs, and the other reporting modules write them.

This module must not import plotting libraries, because Snakemake imports it every time it parses the workflow.
"""

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal

from fdl.core import files, layout
from fdl.core.errors import InputError, did_you_mean
from fdl.core.settings import Params
from fdl.reporting.entries import FORMATS, Entry


@dataclass(frozen=True)
class Target:
    """A table or figure that can be made on its own: `python -m fdl report --only NAME`."""

    name: str  # of its files, without ending
    kind: Literal["table", "figure"]
    maker: str  # name of its entry
    title: str
    subject: tuple[str, ...]  # a combiner and a metric; a dataset; a dataset and a backbone; or nothing
    endings: Sequence[str]

    def path(self, params: Params, ending: str) -> str:
        """Path of the file with this ending."""
        return str(layout.report_folder(params) / f"{self.kind}s" / f"{self.name}.{ending}")

    def paths(self, params: Params) -> list[str]:
        """Paths of all files."""
        return [self.path(params, ending) for ending in self.endings]


@cache
def entries() -> dict[str, Entry]:
    """The entries of all modules of this folder by name: first tables, then figures, in the order of the page."""
    listed: list[Entry] = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.endswith(("tables", "figures")):
            listed += import_module(f"fdl.reporting.{module.name}").ENTRIES
    listed.sort(key=lambda entry: (entry.kind != "table", entry.order))
    by_name = {entry.name: entry for entry in listed}
    assert len(by_name) == len(listed), "two tables or figures have one name"
    return by_name


def targets(params: Params) -> list[Target]:
    """Every table and figure of a preset's report, in the order of the page."""
    return [
        Target(name, entry.kind, entry.name, title, subject, entry.endings or FORMATS[entry.kind])
        for entry in entries().values()
        for name, title, subject in (entry.each(params) if entry.each else [(entry.name, entry.title, ())])
    ]


def write_captions(folder: Path) -> None:
    """Write each entry's caption to `<folder>/<entry>.rst`, because `snakemake --report` takes captions from files."""
    for entry in entries().values():
        path = folder / f"{entry.name}.rst"
        if not path.is_file() or path.read_text(encoding="utf-8") != entry.shows:
            files.write_atomically(path, entry.shows.encode())


def target_named(params: Params, name: str) -> Target:
    """The target with this name.

    Raises:
        InputError: there is none.
    """
    known = {target.name: target for target in targets(params)}
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(f"--only {name}: no table or figure of preset {params.preset} is called so; {hint}")
    return known[name]


def report_files(params: Params) -> dict[str, list[str]]:
    """Paths of the files: `collected` are written by the verb `collect`, `made` by `report`; `all` are both."""
    folder = layout.report_folder(params)
    collected = [str(folder / name) for name in ("runs.csv", "costs.csv", "cells.json")]
    made = [path for target in targets(params) for path in target.paths(params)]
    made += [str(folder / name) for name in (*PAGES, *DVC)]
    return {"collected": collected, "made": made, "all": collected + made}


PAGES = ("claims.json", "index.html")  # in the report's folder, besides the tables and figures
DVC = ("metrics.json", "plots/accuracy.csv", "plots/training.csv")  # named in dvc.yaml; see fdl.reporting.dvc_metrics
