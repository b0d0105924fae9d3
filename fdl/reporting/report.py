"""The verb `report`: tables, figures and one page, from what `collect` wrote."""

import base64
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from fdl import layout, records
from fdl.params import Cell, Params
from fdl.reporting import cam_figures, claim_tables, claims, figures, targets
from fdl.reporting.collect import Collected, headline_values, read_collected, read_runs
from fdl.reporting.pages import render
from fdl.reporting.table_formats import FORMATS, html_fragment, to_text
from fdl.reporting.tables import Table, results_table
from fdl.reporting.titles import SYNTHETIC, metric_title, signed

COMBINER = "soft"  # of the headline table


def write_report(params: Params) -> list[Path]:
    """Write the files that `targets.report_files` names as `made`; return them.

    Raises:
        InputError: `collect` has not run for these settings.
    """
    folder = layout.report_folder(params)
    collected, runs = read_collected(params), read_runs(params)
    written: list[Path] = []
    fragments = {}
    for metric in targets.tables(params):
        table = _table(params, collected, headline_values(params, runs, combiner=COMBINER, metric=metric), metric)
        fragments[metric] = html_fragment(table)
        for ending, write in FORMATS.items():
            written.append(folder / "tables" / f"{metric}.{ending}")
            records.write_atomically(written[-1], write(table).encode())
    accuracy = headline_values(params, runs, combiner=COMBINER, metric="accuracy")
    figure = figures.accuracy_over_shots(params, collected, accuracy)
    png, pdf = figures.save(figure, folder / "figures" / "accuracy_over_shots")
    written += [png, pdf]
    gallery = []
    for name, (dataset, backbone) in targets.cam_figures(params).items():
        rows = cam_figures.read_rows(params, collected, dataset, backbone)
        figure = cam_figures.cam_figure(collected, dataset, backbone, rows)
        written += figures.save(figure, folder / "figures" / name, endings=("png",))
        gallery.append((f"figures/{name}.png", cam_figures.cam_caption(collected, rows)))
    verdicts = claims.evaluate(params)
    written += claims.write_claims(params, verdicts)

    title = f"fdl: preset {params.preset}"
    links = [folder / name for name in ("runs.csv", "costs.csv", "cells.json")] + written
    section = render(
        "report.html",
        title=title,
        summary=_summary(collected, accuracy),
        accuracy=fragments.pop("accuracy"),
        others=[(metric_title(metric), fragment) for metric, fragment in fragments.items()],
        figure=base64.b64encode(png.read_bytes()).decode(),
        figure_caption=figures.accuracy_over_shots_caption(params, collected, combiner=COMBINER),
        claims=claim_tables.html_fragment(verdicts, claims.claims_caption(params, verdicts)),
        gallery=gallery,
        problems=[state for state in collected.cells if state.status != "done"],
        files=[path.relative_to(folder).as_posix() for path in links],
    )
    page = render("page.html", title=title, banner=SYNTHETIC if collected.synthetic else None, sections=[section])
    written.append(folder / "index.html")
    records.write_atomically(written[-1], page.encode())
    return written


def headline(params: Params) -> str:
    """The accuracy table for a terminal, how far it is above chance, and where the report is.

    Raises:
        InputError: `collect` has not run for these settings.
    """
    collected = read_collected(params)
    accuracy = headline_values(params, read_runs(params), combiner=COMBINER, metric="accuracy")
    lines = [to_text(_table(params, collected, accuracy, "accuracy")), _summary(collected, accuracy)]
    lines += [SYNTHETIC] if collected.synthetic else []
    return "\n".join([*lines, f"Report: {layout.report_folder(params) / 'index.html'}"])


def _table(params: Params, collected: Collected, values: Mapping[Cell, float], metric: str) -> Table:
    return results_table(params, collected, values, name=metric, combiner=COMBINER, metric=metric)


def _summary(collected: Collected, accuracy: Mapping[Cell, float]) -> str:
    """Mean accuracy over all cells, all methods together, against chance."""
    chance = {dataset: facts.chance for dataset, facts in collected.datasets.items()}
    above = [100 * (value - (chance[cell.dataset] or 0)) for cell, value in accuracy.items()]
    n, total = len(above), len(collected.cells)
    if not above:
        return f"None of {total} cells has a value."
    interval = ""
    if n > 1:
        from scipy.stats import t

        half = t.ppf(0.975, n - 1) * stdev(above) / sqrt(n)
        interval = f"95 % t interval {signed(fmean(above) - half)} to {signed(fmean(above) + half)}; "
    return (
        f"Mean test accuracy {100 * fmean(accuracy.values()):.1f} %, {signed(fmean(above))} points against chance "
        f"({interval}n = {n} of {total} cells as if independent)."
    )
