"""What the verbs share: the settings' options, and how datasets are chosen."""

import inspect
import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from fdl.core import settings
from fdl.core.errors import InputError
from fdl.core.settings import Params
from fdl.core.settings_file import read_layered

Datasets = Annotated[list[str] | None, typer.Argument(help="Datasets; none: all of the settings'.")]
UriOption = Annotated[str | None, typer.Option(help="MLflow store; none: $MLFLOW_TRACKING_URI, or mlflow.db.")]
_FILE = Path("params.yaml")
Load = Callable[[], Params]
# The options of `load`, by which a command that is recommended must name the settings, too.
_SETTINGS = ("--params", "--preset", "--configfile", "--overlay", "--set")
_COMMAND = re.compile(r"`python -m fdl ([a-z][^`]*)`")
_PRESET = re.compile(r" --preset \S+")


def flag(name: str, description: str) -> Any:
    """A yes-or-no option, without the type that typer shows of it."""
    return typer.Option(name, help=description, metavar="")


def load(
    file: Annotated[Path, typer.Option("--params", help="The settings: params.yaml, or a resolved file.")] = _FILE,
    preset: Annotated[str | None, typer.Option("--preset", help="Use this preset instead of the file's.")] = None,
    configfile: Annotated[
        list[Path] | None,
        typer.Option(
            "--configfile",
            "--overlay",
            metavar="FILE",
            help="Lay this file on the settings, as Snakemake's --configfile does.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be repeated.")
    ] = None,
) -> Params:
    """The settings as the options ask for them: the file, the overlays on it, the preset, and single values."""
    layered = read_layered(file, configfile or (), assignments or (), "--set")
    return settings.resolve(
        layered.raw, preset=preset, overrides=layered.overrides, where=str(file), origins=layered.origins
    )


def takes_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of `load`; its first argument, called `load`, reads the settings that they name."""
    options = inspect.signature(load).parameters
    _, *own = inspect.signature(verb).parameters.values()

    @wraps(verb)
    def command(**given: Any) -> None:
        named = {name: given.pop(name) for name in options}
        verb(partial(load, **named), **given)

    # Typer reads the options from the signature. They are keywords, because some of `own` have no default.
    parameters = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in (*options.values(), *own)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def with_options(message: str, arguments: Sequence[str]) -> str:
    """A message in which every recommended command names the settings as the command line did that it answers.

    Args:
        message: recommends commands as "`python -m fdl collect`".
        arguments: the command line.
    """
    given: list[str] = []
    for position, argument in enumerate(arguments):
        name, equals, _ = argument.partition("=")
        if name in _SETTINGS:
            given += [argument] if equals else list(arguments[position : position + 2])
    if not given:
        return message
    options = shlex.join(given)
    return _COMMAND.sub(lambda command: f"`python -m fdl {_PRESET.sub('', command[1])} {options}`", message)


def chosen(resolved: Params, datasets: list[str] | None) -> list[str]:
    """The names of `Params.images` that were given, or all of them: `cifar10`, `cifar10-pool3750`."""
    used = list(resolved.images())
    for dataset in datasets or []:
        if dataset not in used:
            raise InputError(f"dataset {dataset!r} is not in the settings; they use {', '.join(used)}")
    return datasets or used
