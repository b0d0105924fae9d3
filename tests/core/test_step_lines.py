"""The lines that Snakemake prints on the screen; tests/test_workflow.py sees them in whole runs."""

import io
import logging

from snakemake.logging import DefaultFilter, DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from fdl.core.step_lines import print_step_lines


def screen() -> tuple[logging.Logger, io.StringIO]:
    """A logger with a handler such as Snakemake's of the screen, and what it printed."""
    logger, printed = logging.Logger("workflow"), io.StringIO()
    handler = logging.StreamHandler(printed)
    handler.name = "DefaultStreamHandler"
    handler.addFilter(DefaultFilter(None, debug_dag=False, verbose=False, dryrun=False, printshellcmds=False))
    handler.setFormatter(DefaultFormatter(show_failed_logs=True))
    logger.addHandler(handler)
    print_step_lines(logger)
    return logger, printed


def start(logger: logging.Logger, job: int, rule: str, **wildcards: str) -> None:
    logger.info("Execute 1 jobs...", extra={"event": LogEvent.JOB_STARTED, "jobs": [job]})
    about = {"event": LogEvent.JOB_INFO, "jobid": job, "rule_name": rule, "wildcards": wildcards}
    logger.info(f"Rule: {rule}", extra=about)


def finish(logger: logging.Logger, job: int) -> None:
    logger.info(f"Finished jobid: {job}", extra={"event": LogEvent.JOB_FINISHED, "job_id": job})


def progress(logger: logging.Logger, done: int, total: int) -> None:
    logger.info("", extra={"event": LogEvent.PROGRESS, "done": done, "total": total})


def test_a_line_per_finished_step_in_the_order_of_their_end() -> None:
    logger, printed = screen()
    logger.info("Select jobs to execute...")
    start(logger, 1, "run", dataset="neu", shots="3", compared="")  # an empty wildcard is not shown
    start(logger, 2, "collect")
    finish(logger, 2)
    progress(logger, 1, 3)
    finish(logger, 1)
    progress(logger, 2, 3)
    progress(logger, 3, 3)  # of a job whose start was not reported
    logger.info("Complete log(s): here")
    assert printed.getvalue().splitlines() == [
        "1 of 3 steps done: collect (0 s)",
        "2 of 3 steps done: run dataset=neu shots=3 (0 s)",
        "3 of 3 steps done",
        "Complete log(s): here",
    ]


def test_jobs_that_end_together_stand_in_one_line() -> None:
    logger, printed = screen()
    start(logger, 1, "split")
    start(logger, 2, "split")
    finish(logger, 1)
    finish(logger, 2)
    finish(logger, 3)  # with `--quiet rules` no start is reported
    progress(logger, 2, 2)
    assert printed.getvalue().splitlines() == ["2 of 2 steps done: split (0 s), split (0 s)"]


def test_another_handler_stays_as_it_is() -> None:
    logger, printed = logging.Logger("workflow"), io.StringIO()
    handler = logging.StreamHandler(printed)
    logger.addHandler(handler)
    print_step_lines(logger)
    start(logger, 1, "run")
    assert printed.getvalue().splitlines() == ["Execute 1 jobs...", "Rule: run"]
    assert handler.filters == []
