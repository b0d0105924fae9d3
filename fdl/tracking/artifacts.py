"""The files attached to a cell's run in MLflow: parts of its record, and tables and pictures made from it.

A cell is one trained ensemble, and its record is the folder with its results.
"""

import csv
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fdl.results.state import has_predictions
from fdl.tracking.record_view import Record, checked, headline

_OF_THE_RECORD = ("run.json", "metrics.json")
_CONFUSION = 300  # largest width and height of the picture in pixels, up to 300 classes


def write_files(record: Record, folder: Path) -> None:
    """Write the files of a run into an empty folder.

    - `run.json` and `metrics.json`: copies from the record;
    - `curves.csv`: the whole history, of which the run's charts show only some points;
    - `confusion.csv`: numbers of test images, with a row per true class and a column per class that the soft vote
      predicts, at the epoch picked by the first selection rule;
    - `confusion.png`: the same as a picture, where dark blue means all images of the true class;
    - `maps.png`: one test image of each of the first classes, with the members' Grad-CAM maps of the classes that they
      predict.

    For a training that diverged, only `run.json` and `curves.csv` are written.

    Raises:
        InputError: a file of the record is damaged or missing.
    """
    for name in _OF_THE_RECORD:
        if (record.folder / name).exists():
            shutil.copyfile(record.folder / name, folder / name)
    _write_curves(record, folder / "curves.csv")
    if has_predictions(record.run):
        names, counts = _confusion(record)
        _write_counts(names, counts, folder / "confusion.csv")
        _draw_counts(counts, folder / "confusion.png")
    if "cam.npz" in record.run["files"]:
        _write_maps(record, folder / "maps.png")


def _write_curves(record: Record, path: Path) -> None:
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    arrow_csv.write_csv(parquet.read_table(checked(record, "history.parquet")), path)


def _confusion(record: Record) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the C classes, and numbers of test images (C, C) by true class and class that the soft vote predicts."""
    from fdl.evaluation.voting import mean_probabilities

    names: list[str] = record.run["data"]["classes"]
    with np.load(checked(record, "predictions.npz"), allow_pickle=False) as stored:
        labels, logits = stored["test/labels"], stored[f"{headline(record)}/test/logits"]
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (labels, mean_probabilities(logits).argmax(axis=-1)), 1)
    return names, counts


def _write_counts(names: list[str], counts: NDArray[np.int64], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["class \\ predicted", *names])
        table.writerows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))


def _draw_counts(counts: NDArray[np.int64], path: Path) -> None:
    """Draw a square per pair of classes, whose blue grows with its share of the row; text would make it slow."""
    from PIL import Image

    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    white, blue = np.array([255, 255, 255]), np.array([0, 52, 104])
    colours = (white + share[..., None] * (blue - white)).round().astype(np.uint8)
    side = max(1, _CONFUSION // len(counts))
    Image.fromarray(colours.repeat(side, axis=0).repeat(side, axis=1)).save(path)


def _write_maps(record: Record, path: Path) -> None:
    from PIL import Image

    from fdl.evaluation.overlay import enlarged, image_shown, on_grey, shown_images

    with np.load(checked(record, "cam.npz"), allow_pickle=False) as stored:
        maps = stored["maps_predicted"]  # (M, n, H', W')
        images = {number: image_shown(stored, number) for number in shown_images([stored])}
    rows = [
        np.concatenate([enlarged(image), *(on_grey(image, member[number]) for member in maps)], axis=1)
        for number, image in images.items()
    ]
    Image.fromarray(np.concatenate(rows)).reduce(2).save(path)  # MLflow's page shows no more
