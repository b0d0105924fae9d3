"""Imports a user's own method, `module.function`, when its cells are trained, and watches over its calls."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from fdl.core.errors import InputError, MethodError, one_line
from fdl.core.method_sources import method_source


def load_own(name: str) -> Callable[..., Tensor]:
    """Import a method. Every call checks what it returns, and that it leaves alone what it was given.

    Raises:
        InputError: the module cannot be imported, or another file of its name was.
    """
    file = method_source(name).file
    module_name, _, function_name = name.rpartition(".")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        with _exit_raises():
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"methods: {name}: importing {file} fails: {reason}") from error
    finally:
        sys.path.remove(folder)
    # The digest was taken of `file`: what runs must be that.
    if Path(module.__file__ or "").resolve() != file.resolve():
        raise InputError(f"methods: {name}: Python already has a module {module_name!r}; rename {file.name}")
    function: Callable[..., Tensor] = getattr(module, function_name)

    def checked(
        maps: Sequence[Tensor],
        logits: Sequence[Tensor],
        inputs: Tensor,
        labels: Tensor,
        *,
        epoch: int,
        **parameters: float,
    ) -> Tensor:
        given = {f"maps[{m}]": value for m, value in enumerate(maps)}
        given |= {f"logits[{m}]": value for m, value in enumerate(logits)}
        given |= {"inputs": inputs, "labels": labels}
        before = {argument: (value._version, value.detach().clone()) for argument, value in given.items()}
        with errors_named(name, epoch):
            loss = function(list(maps), list(logits), inputs, labels, epoch=epoch, **parameters)
        for argument, value in given.items():
            version, content = before[argument]
            if value._version != version or not _same_bits(value, content):
                raise MethodError(
                    f"methods: {name}: {file.name}, epoch {epoch}: it changes {argument} in place, which the training "
                    f"goes on to use; change a copy, {argument}.clone()"
                )
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            shape = f"{loss.dtype} {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"methods: {name}: must return one number, a 0-d float tensor; it returned {shape}")
        return loss

    return checked


@contextmanager
def errors_named(name: str, epoch: int) -> Iterator[None]:
    """Turn an error from a user's own method into one line that says where it comes from.

    Around the call of the method, and around the backward pass, which may call it again. Errors that do not come from
    the method's file pass through, as do those of the methods of fdl.

    Raises:
        MethodError: the method raised something, or tried to end the process.
    """
    if "." not in name:
        yield
        return
    try:
        with _exit_raises():
            yield
    except (Exception, SystemExit) as error:
        file = method_source(name).file
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == file.resolve()
        ]
        if not frames and not isinstance(error, SystemExit):
            raise
        line = f", line {frames[-1].lineno}" if frames else ""
        what = (
            f"it ends the process, with status {error.code}; a method must return its loss"
            if isinstance(error, SystemExit)
            else f"{type(error).__name__}: {one_line(error)}"
        )
        raise MethodError(f"methods: {name}: {file.name}{line}, epoch {epoch}: {what}") from error


@contextmanager
def _exit_raises() -> Iterator[None]:
    """Let `os._exit` raise as `sys.exit` does: at once, and with status 0, nobody would learn that nothing was trained.

    What ends the process from outside of Python, such as C's `exit`, cannot be met here: the bundle then has no
    receipt, and Snakemake says that the output is missing.
    """
    end, process = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != process:  # a process that the method forked ends as it wants to
            end(status)
        raise SystemExit(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = end


def _same_bits(value: Tensor, content: Tensor) -> bool:
    """Whether a tensor is what it was: writing by way of `.data` or numpy leaves no other trace."""
    as_integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
    return torch.equal(value.detach().view(as_integers), content.view(as_integers))
