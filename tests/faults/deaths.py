"""A process that dies at a chosen change of files: nothing that it would do after that happens."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

CALLS = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync")


class Died(BaseException):
    """Stands for SIGKILL, which nothing catches."""


@contextmanager
def death_at(monkeypatch, number: int) -> Iterator[list[str]]:
    """Die before the so-many-th change of files, and at every later one: a dead process cleans nothing up.

    Yields:
        The names of the calls, filled while the block runs.
    """
    calls: list[str] = []

    def watched(name, real):
        def call(*arguments, **options):
            calls.append(name)
            if len(calls) >= number:
                raise Died(f"{name} {arguments}")
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, watched(name, getattr(os, name)))
        yield calls
