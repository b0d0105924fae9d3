"""The files that a cell's run carries in MLflow: of the record, and what its page shows at a glance."""

import csv
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fdl.results.state import has_predictions
from fdl.tracking.record_view import Record, checked, headline

_OF_THE_RECORD = ("run.json", "metrics.json")
_CONFUSION = 300  # pixels, the side of the picture at most


def write_files(record: Record, folder: Path) -> None:
    """Write the files of a run into an empty folder.

    - `run.json` and `metrics.json` as they are;
    - `curves.csv`: the whole history, of which the run's charts show some points;
    - `confusion.csv`: test images of the headline's soft vote, a row per class, a column per predicted class;
    - `confusion.png`: the same as a picture, each row divided by its sum: dark blue is all of a class;
    - `maps.png`: a test image of each of some classes, and on it the members' Grad-CAM of what they predict.

    A training that diverged has only the first and the history.

    Raises:
        InputError: a file of the record is damaged.
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
    """The classes, and how many test images of each (rows) the soft vote predicts as each (columns)."""
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
    """A square per pair of classes, the more blue the larger its share of the row; without letters, to be cheap."""
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
    Image.fromarray(np.concatenate(rows)).reduce(2).save(path)  # a page shows no more, and there may be 1,000 of them
