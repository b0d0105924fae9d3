"""What the verbs share: the settings' options, and how datasets are chosen."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from fdl import params
from fdl.errors import InputError
from fdl.params import Params

ParamsOption = Annotated[Path, typer.Option("--params", help="The settings: params.yaml, or a resolved file.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help="Use this preset instead of the file's.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be repeated.")
]
Datasets = Annotated[list[str] | None, typer.Argument(help="Datasets; none: all of the settings'.")]
DEFAULT = Path("params.yaml")


def load(path: Path, preset: str | None, assignments: list[str] | None) -> Params:
    """The settings as the options ask for them."""
    overrides: dict[str, Any] = {}
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: write it as KEY=VALUE, for example --set epochs=100")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {assignment}: the value is not valid YAML") from None
    return params.load(path, preset=preset, overrides=overrides)


def chosen(resolved: Params, datasets: list[str] | None) -> list[str]:
    """The names of `Params.images` that were given, or all of them: `cifar10`, `cifar10-pool3750`."""
    used = list(resolved.images())
    for dataset in datasets or []:
        if dataset not in used:
            raise InputError(f"dataset {dataset!r} is not in the settings; they use {', '.join(used)}")
    return datasets or used
