"""What Snakemake prints on the screen: a line per finished step. Its log in `.snakemake/log` keeps everything.

Snakemake's own setting for this, `quiet: rules`, would hide which job failed and why as well.
"""

import logging
from typing import Any

# Snakemake's names of what it reports (`LogEvent` of snakemake-interface-logger-plugins).
_NOT_SHOWN = {"job_info", "job_started", "job_finished"}


class StepLines(logging.Formatter):
    """A filter and formatter for Snakemake's handler of the screen."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        """`inner`: formats whatever is not about a step."""
        super().__init__()
        self.inner = inner or logging.Formatter()
        self.started: dict[int, tuple[str, float]] = {}  # by job: its name, and when
        self.finished: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show this; remembers the steps that start and finish."""
        about: Any = record
        event = _event(record)
        if event == "job_info":
            wildcards = " ".join(f"{name}={value}" for name, value in dict(about.wildcards).items() if value)
            self.started[about.jobid] = f"{about.rule_name} {wildcards}".strip(), record.created
        elif event == "job_finished" and about.job_id in self.started:  # it is not with `--quiet rules`
            name, start = self.started[about.job_id]
            self.finished.append(f"{name} ({record.created - start:.0f} s)")
        return event not in _NOT_SHOWN and record.msg != "Select jobs to execute..."

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        event = _event(record)
        if event == "job_error":  # without its files, which are a hundred for the report; with its own message
            return self.inner.format(logging.makeLogRecord(record.__dict__ | {"msg": "", "input": [], "output": []}))
        if event != "progress":
            return self.inner.format(record)
        about: Any = record
        steps = ", ".join(self.finished)
        self.finished = []
        return f"{about.done} of {about.total} steps done{': ' if steps else ''}{steps}"


def _event(record: logging.LogRecord) -> str:
    event = getattr(record, "event", None)
    return event.value if event else ""


def print_step_lines(logger: logging.Logger) -> None:
    """Let Snakemake's logger print a line per step; one that has no such handler (`--logger`) stays as it is."""
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            lines = StepLines(handler.formatter)
            handler.addFilter(lines)
            handler.setFormatter(lines)
