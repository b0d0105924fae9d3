"""The verbs of the images: `python -m fdl data <verb>`."""

import json
import sys
from typing import Annotated

import typer

from fdl.cli.options import (
    Datasets,
    Load,
    chosen,
    flag,
    takes_settings,
    with_options,
)
from fdl.cli.terminal import print_table
from fdl.core import layout
from fdl.core.errors import InputError, did_you_mean
from fdl.core.protocol import DATASETS, images_name
from fdl.core.settings import Params

app = typer.Typer(help="Images: fetch, check, prepare, look at them.", no_args_is_help=True)

Published = Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(DATASETS)}; none: see above.")]
OfflineOption = Annotated[bool, flag("--offline", "Fetch nothing; FDL_OFFLINE=1 does so for every verb.")]


@app.command("list")
@takes_settings
def list_datasets(load: Load) -> None:
    """Show all datasets: images, state, size on disk or of the download, terms."""
    resolved = load()
    official = resolved.model_copy(update={"source": "official"})
    rows = []
    for dataset in [*DATASETS, *_own(resolved)]:
        for settings in [official, resolved] if resolved.source_of(dataset) not in ("official", "own") else [resolved]:
            rows.append((dataset, settings.source_of(dataset), *_about(settings, dataset)))
        for pool in _own_pools(resolved, dataset):
            name = images_name(dataset, pool)
            rows.append((name, resolved.source_of(dataset), *_about(resolved, dataset, pool)))
    print_table(("dataset", "source", "images", "state", "size", "terms"), rows, numbers=False)


def _about(settings: Params, dataset: str, pool: int | None = None) -> tuple[str, str, str, str]:
    """Images, state, size and terms of a dataset from the settings' source."""
    from rich.filesize import decimal

    from fdl.data import download, sources
    from fdl.data.locate import locate

    images, state, size, terms = "", "missing", "", ""
    source = settings.source_of(dataset)
    if source == "official":
        entry, held = sources.SOURCES[dataset], download.held_bytes(dataset)
        images, terms = f"{entry.images:,}", entry.licence
        size = decimal(held) if held else entry.download
        state = "downloaded" if download.is_complete(dataset) else "incomplete" if held else "missing"
    elif source == "synthetic":
        state = "written when used"
    else:
        try:
            locate(settings, dataset)
            state = "there"
        except InputError:
            pass
    about = layout.prepared_folder(settings, dataset, pool) / "dataset.json"
    if about.exists():
        counts = json.loads(about.read_bytes())["counts"]
        images, state = f"{sum(sum(by_class.values()) for by_class in counts.values()):,}", "prepared"
    return images, state, size, terms


@app.command()
@takes_settings
def download(load: Load, datasets: Published = None, offline: OfflineOption = False) -> None:
    """Fetch the published files into data/raw/official/; without names, what settings of source official use.

    A broken transfer goes on where it ended. FDL_MIRROR names an address that is tried first for every file:
    <FDL_MIRROR>/<dataset>/<file>.
    """
    from fdl.data.download import fetch

    if not datasets:
        resolved = load()
        if resolved.source != "official":
            raise InputError(
                f"preset {resolved.preset!r} reads {resolved.source} images; name the datasets to download, "
                "or choose a preset of source official"
            )
        used = dict.fromkeys(dataset for dataset, _ in resolved.images().values())
        datasets = [dataset for dataset in used if dataset in DATASETS]
    for dataset in _known(datasets):
        fetch(dataset, offline=offline or None)


@app.command()
@takes_settings
def verify(load: Load, datasets: Published = None) -> None:
    """Hash the downloaded files and the settings' prepared images again; without names, all that are there."""
    from fdl.data import download

    resolved = load()
    wrong, verified = [], 0
    for dataset in _known(datasets, resolved) or [*DATASETS, *_own(resolved)]:
        try:
            if dataset in DATASETS and (datasets or download.is_complete(dataset)):
                verified += download.verify(dataset)
            for pool in (None, *_own_pools(resolved, dataset)):
                verified += _verify_prepared(resolved, dataset, pool)
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError("; ".join(wrong))
    if not verified:
        print("nothing is downloaded or prepared")


def _verify_prepared(resolved: Params, dataset: str, pool: int | None) -> int:
    import numpy as np

    from fdl.data.own_images import changed
    from fdl.data.prepare import load as load_prepared

    folder = layout.prepared_folder(resolved, dataset, pool)
    if not (folder / "dataset.json").exists():
        return 0
    prepared = load_prepared(folder)
    rows = np.arange(len(prepared.labels))
    for start in range(0, len(rows), 1024):  # so many in memory at a time
        prepared.rows(rows[start : start + 1024])
    if stale := changed(resolved, dataset, prepared.files):
        raise InputError(stale)
    print(f"{images_name(dataset, pool)}: {len(rows):,} prepared images verified in {folder}", flush=True)
    return len(rows)


@app.command()
@takes_settings
def prepare(load: Load, datasets: Datasets = None) -> None:
    """Read the source's files, fetched if need be, into pixel and label arrays below data/prepared/."""
    from fdl.data.prepare import prepare as read

    resolved = load()
    for name in chosen(resolved, datasets):
        print(f"{name}: {read(resolved, *resolved.images()[name])}")


@app.command()
@takes_settings
def show(
    load: Load,
    dataset: Annotated[str, typer.Argument(help="A dataset of the settings, prepared.")],
    shots: Annotated[int | None, typer.Option(help="Images per class; none: the settings' first.")] = None,
    draw: Annotated[int, typer.Option(min=0, help="Which draw is marked.")] = 0,
) -> None:
    """Write contact sheets of a prepared dataset, with the images of one k-shot draw marked."""
    from fdl.data.own_images import changed
    from fdl.data.prepare import load as load_prepared
    from fdl.data.show import write_contact_sheets

    resolved = load()
    chosen(resolved, [dataset])
    dataset, pool = resolved.images()[dataset]
    if stale := changed(resolved, dataset, load_prepared(layout.prepared_folder(resolved, dataset, pool)).files):
        print(f"fdl: {with_options(stale, sys.argv[1:])}", file=sys.stderr)
    for path in write_contact_sheets(resolved, dataset, shots or resolved.shots[0], draw, pool):
        print(path)


def _known(datasets: list[str] | None, resolved: Params | None = None) -> list[str]:
    names = [*DATASETS, *(_own(resolved) if resolved else ())]
    for dataset in datasets or []:
        if dataset not in names:
            raise InputError(f"unknown dataset {dataset!r}; {did_you_mean(dataset, names)}")
    return datasets or []


def _own_pools(resolved: Params, dataset: str) -> list[int]:
    """The pools of the dataset that are a backbone's own."""
    return [pool for name, pool in resolved.images().values() if name == dataset and pool]


def _own(resolved: Params) -> list[str]:
    return [name for name in resolved.dataset_names if resolved.own(name)]
