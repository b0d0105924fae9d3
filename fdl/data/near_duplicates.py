"""Reads the lists of ciFAIR: which test images of CIFAR are in its training file, too, in a similar form.

Barz and Denzler (2020) looked at every pair by hand: 286 test images of CIFAR-10 and 891 of CIFAR-100 have such a
near-duplicate. They state no terms for the lists, so none is shipped: `near_duplicates` names the user's copy.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fdl.core.errors import InputError
from fdl.data.prepare import Prepared

COLUMNS = ("TestID", "TrainID")
_BATCH = 10_000  # images in a training file of CIFAR-10


def resembling(file: Path, prepared: Prepared, train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those test images that have a near-duplicate among some training images.

    Args:
        file: `duplicates_cifar10.csv` or `duplicates_cifar100.csv`.
        prepared: the official images.
        train, test: rows of them.

    Raises:
        InputError: the file is no such list, or the images are not numbered as in the official files.
    """
    drawn = set(_numbers(prepared, train))
    repeated = {image for image, other in _pairs(file) if other in drawn}
    return test[np.isin(_numbers(prepared, test), list(repeated))]


def _pairs(file: Path) -> list[tuple[int, int]]:
    """Numbers of a test image and of a training image, each from 0 in the order of the official files."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            pairs = [(int(line["TestID"]), int(line["TrainID"])) for line in csv.DictReader(text)]
    except OSError as error:
        raise InputError(f"near_duplicates: {file} cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        pairs = []
    if not pairs:
        raise InputError(
            f"near_duplicates: {file}: not one of ciFAIR's lists, a CSV with whole numbers in the columns "
            f"{' and '.join(COLUMNS)}; name duplicates_cifar10.csv or duplicates_cifar100.csv"
        )
    return pairs


def _numbers(prepared: Prepared, rows: NDArray[np.int64]) -> list[int]:
    """The number of each image in the official training or test file: `data_batch_2#7` is training image 10,007."""
    numbers = []
    for identity in prepared.ids[rows].tolist():
        name, _, row = identity.partition("#")
        batch = name.removeprefix("data_batch_")
        if not row.isdecimal() or not (name in ("train", "test", "test_batch") or batch in "12345"):
            raise InputError(
                f"near_duplicates: {prepared.folder}: image {identity} has no number in the official files; "
                "only source: official can be compared with ciFAIR's lists"
            )
        numbers.append(int(row) + (_BATCH * (int(batch) - 1) if batch != name else 0))
    return numbers
