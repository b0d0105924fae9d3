"""The synthetic twins: the published file layout, the same bytes every time, and classes that must be looked for."""

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from fdl.data.synthetic import write_twin
from fdl.reference.protocol import DATASETS

Floats = NDArray[np.float64]
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    for dataset in DATASETS:
        write_twin(dataset, folder / dataset)
    return folder


@cache
def _pixels(folder: Path, split: str) -> tuple[Floats, NDArray[np.int64]]:
    """Images (N, 32, 32, 3) in [0, 1] and labels (N,), as a reader of the file sees them."""
    table = pq.read_table(folder / f"{split}.parquet")
    images = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in table["image"].to_pylist()]
    return np.stack([np.asarray(image) for image in images]) / 255, table["label"].to_numpy()


def _raw(images: Floats) -> Floats:
    return images.reshape(len(images), -1)


def _mean_colour(images: Floats) -> Floats:
    means: Floats = images.mean(axis=(1, 2))
    return means


def _contrasts(images: Floats) -> Floats:
    """Per channel: quantiles of the values, and mean differences to the right and to the lower neighbour."""
    quantiles = np.concatenate(np.quantile(images, [0.02, 0.1, 0.5, 0.9, 0.98], axis=(1, 2)), axis=-1)
    changes = [np.abs(np.diff(images, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
    return np.concatenate([quantiles, *changes], axis=-1)


def _nearest_class_mean(folder: Path, features: Callable[[Floats], Floats]) -> float:
    """Test accuracy of the nearest class mean of the standardised training features."""
    (train, labels), (test, truth) = ((features(x), y) for x, y in (_pixels(folder, "train"), _pixels(folder, "test")))
    centre, scale = train.mean(axis=0), train.std(axis=0)
    train, test = (train - centre) / scale, (test - centre) / scale
    means = np.stack([train[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    nearest = ((test[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    return float((nearest == truth).mean())


@pytest.mark.parametrize("dataset", DATASETS)
def test_files_have_the_published_layout(twins: Path, dataset: str) -> None:
    expected = DATASETS[dataset].classes[:10]
    for split, count in zip(SPLITS, (20, 8, 30), strict=True):
        table = pq.read_table(twins / dataset / f"{split}.parquet")
        assert table.schema.names == ["image", "label"]
        assert [str(kind) for kind in table.schema.types] == ["struct<bytes: binary, path: string>", "int64"]
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert tuple(features["label"]["names"]) == expected
        labels = table["label"].to_numpy()
        assert np.bincount(labels).tolist() == [count] * len(expected)
        assert len(labels) <= 300 or split != "test"
        for row in table.to_pylist():
            assert row["image"]["path"].startswith(f"{expected[row['label']]}/")


@pytest.mark.parametrize("dataset", DATASETS)
def test_images_are_small_pngs_grey_where_the_photographs_are(twins: Path, dataset: str) -> None:
    for split in SPLITS:
        for content in pq.read_table(twins / dataset / f"{split}.parquet")["image"].to_pylist():
            with Image.open(io.BytesIO(content["bytes"])) as image:
                mode = "L" if dataset in ("neu", "tex") else "RGB"
                assert (image.format, image.size, image.mode) == ("PNG", (32, 32), mode)


@pytest.mark.parametrize("dataset", ["miniimagenet", "neu"])
def test_writing_again_gives_the_same_bytes(twins: Path, tmp_path: Path, dataset: str) -> None:
    write_twin(dataset, tmp_path)
    for split in SPLITS:
        name = f"{split}.parquet"
        assert (tmp_path / name).read_bytes() == (twins / dataset / name).read_bytes()


def test_no_image_and_no_path_occurs_twice(twins: Path) -> None:
    for dataset in DATASETS:
        images = [
            image
            for split in SPLITS
            for image in pq.read_table(twins / dataset / f"{split}.parquet")["image"].to_pylist()
        ]
        assert len({image["bytes"] for image in images}) == len(images)
        assert len({image["path"] for image in images}) == len(images)


@pytest.mark.parametrize("dataset", DATASETS)
def test_classes_differ_in_structure_but_not_in_mean_colour_or_place(twins: Path, dataset: str) -> None:
    folder, chance = twins / dataset, 1 / len(DATASETS[dataset].classes[:10])
    colour = _nearest_class_mean(folder, _mean_colour)
    assert colour < chance + 0.25
    assert _nearest_class_mean(folder, _raw) < chance + 0.35
    assert _nearest_class_mean(folder, _contrasts) > colour + 0.2


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_stands_out_lies_at_different_places(twins: Path, dataset: str) -> None:
    images, labels = _pixels(twins / dataset, "train")
    unusual = np.abs(images - np.median(images, axis=(1, 2), keepdims=True)).sum(axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(unusual, (5, 5), axis=(1, 2)).mean(axis=(-1, -2))
    rows, columns = np.unravel_index(windows.reshape(len(images), -1).argmax(axis=1), windows.shape[1:])
    for label in range(labels.max() + 1):
        chosen = labels == label
        assert min(rows[chosen].std(), columns[chosen].std()) > 2.5  # pixels
