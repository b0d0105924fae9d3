"""Finds the folder that a dataset is read from, and fills it where that can be done."""

import os
from dataclasses import dataclass
from pathlib import Path

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.places import Publication
from fdl.core.settings import Params
from fdl.data.download import fetch
from fdl.data.folder_lock import folder_lock
from fdl.data.formats import Expected
from fdl.data.sources import SOURCES


@dataclass(frozen=True)
class Located:
    """The folder that a dataset is read from, and what reports must say because of it."""

    folder: Path
    notes: tuple[str, ...] = ()
    expected: Expected | None = None  # what the files must hold, where that was published


def locate(params: Params, dataset: str) -> Located:
    """The folder with a dataset's files; fetched, or for the synthetic twin written, if they are not there.

    Raises:
        InputError: the local source or the user's own dataset has no such folder, or the files cannot be fetched.
    """
    if own := params.own(dataset):
        folder = own.path
        if "$" in str(folder):
            raise InputError(f"{folder}: a variable of the environment is not set; set it, or correct params.yaml")
        if folder.is_file():
            raise InputError(f"{folder}: a file; put it into a folder of its own and name that one in params.yaml")
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; put the images of {dataset} there, or correct params.yaml")
        return Located(folder)
    if params.source == "synthetic":
        return Located(_synthetic_folder(dataset), ("synthetic images",))
    if params.source == "official":
        return Located(fetch(dataset), expected=_expected(SOURCES[dataset]))
    root = params.data_dir or os.environ.get("FDL_DATA_DIR")
    if not root:
        raise InputError(
            f"{dataset}: no folder of images is named; set data_dir in params.yaml or the environment's FDL_DATA_DIR"
        )
    folders = [Path(root).expanduser() / name for name in (dataset, *SOURCES[dataset].local_folders)]
    for folder in folders:
        if folder.is_dir():
            note = SOURCES[dataset].folder_notes.get(folder.name)
            return Located(folder, (note,) if note else ())
    raise InputError(
        f"{folders[0]}: no such folder; put the images of {dataset} there, "
        "or point data_dir in params.yaml (or the environment's FDL_DATA_DIR) to the folder above them"
    )


def _expected(entry: Publication) -> Expected:
    """What can be said of every published copy; some are one set of files and some are parted."""
    return Expected(
        counts=None if "all" in entry.published else entry.published,
        total=entry.images if entry.counted else None,
        shape=entry.stored,
    )


def _synthetic_folder(dataset: str) -> Path:
    from fdl.data.synthetic import write_twin

    folder = layout.RAW / "synthetic" / dataset
    with folder_lock(folder):
        if not folder.is_dir():
            with files.replacing(folder) as temporary:
                write_twin(dataset, temporary)
    return folder
