"""Imports a user's own method, `module.function`, when its cells are trained."""

import functools
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from fdl.errors import InputError
from fdl.method_sources import method_source


def load_own(name: str) -> Callable[..., Tensor]:
    """Import a method; what it returns is checked at every call.

    Raises:
        InputError: the module cannot be imported, or another file of its name was.
    """
    file = method_source(name).file
    module_name, _, function_name = name.rpartition(".")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"methods: {name}: importing {file} fails: {reason}") from error
    finally:
        sys.path.remove(folder)
    # The digest was taken of `file`: what runs must be that.
    if Path(module.__file__ or "").resolve() != file.resolve():
        raise InputError(f"methods: {name}: Python already has a module {module_name!r}; rename {file.name}")
    function: Callable[..., Tensor] = getattr(module, function_name)

    @functools.wraps(function)
    def checked(*arguments: Any, **parameters: Any) -> Tensor:
        loss = function(*arguments, **parameters)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            shape = f"{loss.dtype} {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"methods: {name}: must return one number, a 0-d float tensor; it returned {shape}")
        return loss

    return checked
