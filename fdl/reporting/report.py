"""The verb `report`: writes tables, figures and one page from the files that `collect` wrote."""

import gc
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.settings import Cell, Params
from fdl.core.titles import signed
from fdl.reporting.table_formats import to_text
from fdl.reporting.tables import results_table
from fdl.reporting.targets import Target, entries, target_named, targets
from fdl.results.collect import Collected

if TYPE_CHECKING:
    from fdl.reporting.results import Results
    from fdl.reporting.site import Shown

    Written = tuple[list[Path], Shown]

_WORTH_A_PROCESS = 300  # cells per additional process; with fewer, starting it takes longer than it saves


def collect_garbage_seldom() -> None:
    """Run Python's garbage collector less often in a process that draws.

    A figure consists of thousands of objects, and checking them takes a tenth of the time.
    """
    gc.set_threshold(20_000)


def write_report(params: Params, *, processes: int = 1) -> list[Path]:
    """Write the files that `targets.report_files` lists under `made`; return their paths.

    Args:
        params: the settings.
        processes: largest number of processes that draw; a small grid is drawn in one.

    Raises:
        InputError: `collect` has not run for these settings, or a record that a figure shows is damaged.
        ChildProcessError: one of several processes was killed.
    """
    from fdl.reporting import claims, dvc_metrics, site
    from fdl.reporting.results import read_results

    results = read_results(params)  # before other processes start, so that an error is reported once
    others = [target for target in targets(params) if target.maker != "claims"]
    worth = 1 + len(params.cells()) // _WORTH_A_PROCESS
    with _drawn(results, others, min(processes, worth)) as drawings:  # other processes draw from here on
        verdicts = claims.evaluate(params, results)
        written = claims.write_claims(params, verdicts)
        parts, metrics = site.read_parts(results), dvc_metrics.write_dvc_metrics(results)
        drawn = list(drawings)
    written += [path for paths, _ in drawn for path in paths]
    shown = [shown for _, shown in drawn]
    page = site.page(results, shown, verdicts, parts, check=_summary(results.collected, results.accuracy))
    written.append(layout.report_folder(params) / "index.html")
    files.write_atomically(written[-1], page.encode())
    return written + metrics


@contextmanager
def _drawn(results: "Results", wanted: Sequence[Target], processes: int) -> "Iterator[Iterator[Written]]":
    """Draw the targets; the context gives an iterator over what was written, in the order of `wanted`.

    Args:
        results: results of the preset.
        wanted: what to draw.
        processes: 1: draw in this process, whenever the iterator is advanced; otherwise in this many others, at once.

    Raises:
        ChildProcessError: one of the other processes was killed.
    """
    if processes == 1:
        yield (_write(results, target) for target in wanted)
        return
    # The processes are spawned, because numpy's threads would not survive a fork. They receive the settings and not the
    # results, because sending more than a pipe's buffer holds would block forever if a worker dies while it starts.
    workers = ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (results.params,))
    try:
        with _interrupts_held():  # workers inherit this, so that Ctrl-C ends only the parent, with one message
            drawings = workers.map(_write_here, wanted)
        yield drawings
    except BrokenProcessPool:
        raise ChildProcessError(
            "report: a process that draws was ended from outside, perhaps for want of memory; "
            "run `python -m fdl report --processes 1`"
        ) from None
    finally:
        workers.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block SIGINT until the context ends, and for good in processes that are started within it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_results: "list[Results]" = []  # holds the results that a worker draws; empty in the parent


def _start_worker(params: Params) -> None:
    from fdl.reporting.results import read_results

    threading.Thread(target=_end_with_parent, daemon=True).start()
    collect_garbage_seldom()
    _results.append(read_results(params))


def _end_with_parent() -> None:
    """End this worker when its parent ends; otherwise it would wait for work forever if the parent was killed."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _write_here(target: Target) -> "Written":
    return _write(_results[0], target)


def write_one(params: Params, name: str) -> list[Path]:
    """Write a single table or figure in all its formats; return the paths of its files.

    Raises:
        InputError: no table or figure has this name; otherwise as in `write_report`.
    """
    from fdl.reporting import claims
    from fdl.reporting.results import read_results

    target, results = target_named(params, name), read_results(params)
    if target.maker == "claims":
        return claims.write_claims(params, claims.evaluate(params, results))
    return _write(results, target)[0]


def shown_table(params: Params, name: str) -> str:
    """A table of the last report, as Markdown.

    Raises:
        InputError: no table has this name, or it has not been written yet.
    """
    target = target_named(params, name)
    if target.kind != "table":
        raise InputError(f"--only {name} --show: a figure cannot be printed; leave --show out to draw it")
    path = Path(target.path(params, "md"))
    if not path.is_file():
        raise InputError(f"{path}: not made yet; run `python -m fdl report --preset {params.preset} --only {name}`")
    return path.read_text().rstrip()


def _write(results: "Results", target: Target) -> "Written":
    """Write a target's files; return their paths, and what the page shows of it: a table's HTML, a figure's caption."""
    from fdl.reporting import drawing, listings, table_formats
    from fdl.reporting.panels import Sheet
    from fdl.reporting.site import Shown
    from fdl.reporting.tables import Table

    make = entries()[target.maker].make
    assert make, f"{target.name} is written with the verdicts"
    made = make(results, *target.subject)
    if target.kind == "table":
        formats, fragment = (
            (table_formats.FORMATS, table_formats.html_fragment)
            if isinstance(made, Table)
            else (listings.FORMATS, listings.to_fragment)
        )
        paths = [Path(target.path(results.params, ending)) for ending in target.endings]
        for path, ending in zip(paths, target.endings, strict=True):
            files.write_atomically(path, formats[ending](made).encode())
        return paths, Shown(target, fragment(made))
    figure, caption = made
    stem = Path(target.path(results.params, "png")).with_suffix("")
    if isinstance(figure, Sheet):
        return drawing.save_picture(figure.picture(), stem), Shown(target, caption)
    return drawing.save(figure, stem, endings=target.endings), Shown(target, caption)


def headline(params: Params) -> str:
    """A text for the terminal: the accuracy table, the mean gain over chance, the answer, and the paths of the report.

    Raises:
        InputError: `collect` has not run for these settings, or a record used by a verdict was changed after it ran.
    """
    from fdl.reporting import answer, claims
    from fdl.reporting.results import read_results

    results = read_results(params)
    lines = [to_text(results_table(results, "soft", "accuracy")), _summary(results.collected, results.accuracy)]
    lines += filter(None, [results.warning, answer.at_chance(results)])
    question = answer.question(answer.compared_method(results.collected))
    lines.append(f"{question} {answer.answer(results, claims.evaluate(params, results))}")
    if params.claims.grid:
        lines += [f"Caveat: {params.claims.remark}"] if params.claims.remark else []
        lines.append(f"Verdicts: {layout.report_folder(params) / 'tables' / 'claims.md'}")
    return "\n".join([*lines, f"Report: {layout.report_folder(params) / 'index.html'}"])


def _summary(collected: Collected, accuracy: Mapping[Cell, float]) -> str:
    """Mean accuracy over the cells of all methods, and by how much it exceeds chance.

    For the interval, all cells of a dataset with the same seed count as one observation.
    """
    from fdl.reporting.answer import pooled_gain

    chance = {dataset: facts.chance or 0 for dataset, facts in collected.datasets.items()}
    above = pooled_gain({cell: 100 * (value - chance[cell.dataset]) for cell, value in accuracy.items()})
    total = len(collected.cells)
    if above is None:
        return f"None of {total:,} cells has a value."
    interval = ""
    if above.interval:
        low, high = above.interval
        interval = f"95 % t interval {signed(low)} to {signed(high)} over the seeds of every dataset; "
    return (
        f"Mean test accuracy {100 * fmean(accuracy.values()):.1f} %, {signed(above.mean)} points against chance, "
        f"all methods together ({interval}n = {len(accuracy):,} of {total:,} cells)."
    )
