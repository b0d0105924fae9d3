"""The twins: read back from the published formats, the same bytes every time, classes that must be looked for."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fdl.core.protocol import DATASETS
from fdl.data import sources, synthetic
from fdl.data.formats import open_images
from fdl.data.images import ImageFiles
from fdl.data.synthetic import SCENES, write_twin
from tests.data.reading import decode

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    for dataset in DATASETS:
        write_twin(dataset, folder / dataset)
    return folder


@cache
def _opened(folder: Path) -> tuple[ImageFiles, NDArray[np.uint8]]:
    """The files as the reader sees them, and their images: (N, 32, 32, 3)."""
    files = open_images(folder)
    decoded = [decode(content, 32, "twin") for content in files.contents()]
    return files, np.stack(decoded)


def _halves(folder: Path) -> tuple[tuple[Floats, NDArray[np.int64]], tuple[Floats, NDArray[np.int64]]]:
    """Images in [0, 1] and labels, of every other image of the files."""
    files, images = _opened(folder)
    labels = np.array([record.label for record in files.records])
    order = np.argsort(labels, kind="stable")
    first, second = order[::2], order[1::2]
    return (images[first] / 255, labels[first]), (images[second] / 255, labels[second])


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
    """Accuracy of the nearest class mean of the standardised features, on the images that the means are not of."""
    (train, labels), (test, truth) = ((features(images), truth) for images, truth in _halves(folder))
    centre, scale = train.mean(axis=0), train.std(axis=0)
    train, test = (train - centre) / scale, (test - centre) / scale
    means = np.stack([train[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    nearest = ((test[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    return float((nearest == truth).mean())


@pytest.mark.parametrize(
    ("dataset", "kinds", "pools"),
    [
        ("cifar10", "cifar-10-batches-py", {"train": 30, "test": 30}),
        ("cifar100", "cifar-100-binary", {"train": 30, "test": 30}),
        ("miniimagenet", ".pkl", {"all": 60}),
        ("neu", ".bmp", {"all": 100}),
        ("bsd", ".png", {"all": 148}),  # 135 and 13 rotated copies
        ("tex", ".csv .h5", {"train": 30, "test": 50}),
    ],
)
def test_the_readers_find_every_image_in_the_published_format(
    twins: Path, dataset: str, kinds: str, pools: dict[str, int]
) -> None:
    entries = {path.suffix or path.name for path in (twins / dataset).iterdir()}
    assert entries == set(kinds.split())
    files, images = _opened(twins / dataset)
    classes = list(DATASETS[dataset].classes[:10])
    ordered, label_of = sources.label_order(dataset, files.classes, synthetic=True, where=twins)
    assert ordered == classes
    counts = Counter((record.pool, label_of[record.label]) for record in files.records)
    assert counts == {(pool, label): count for pool, count in pools.items() for label in range(len(classes))}
    assert len(images) == len(files.records)
    grey = (images == images[..., :1]).all()
    assert grey == (dataset in ("neu", "tex"))


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_is_read_is_what_was_drawn_under_its_label(twins: Path, dataset: str) -> None:
    files, images = _opened(twins / dataset)
    _, label_of = sources.label_order(dataset, files.classes, synthetic=True, where=twins)
    read = {image.tobytes(): label_of[record.label] for record, image in zip(files.records, images, strict=True)}
    for label in range(len(files.classes)):
        for number in range(5):
            drawn = np.rint(synthetic.draw(dataset, label, number) * 255).astype(np.uint8)
            drawn = drawn if drawn.ndim == 3 else np.repeat(drawn[..., None], 3, axis=-1)
            assert read[drawn.tobytes()] == label


@pytest.mark.parametrize("dataset", DATASETS)
def test_writing_again_gives_the_same_bytes(twins: Path, tmp_path: Path, dataset: str) -> None:
    write_twin(dataset, tmp_path)
    written = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    first = {path.relative_to(twins / dataset) for path in (twins / dataset).rglob("*") if path.is_file()}
    assert set(written) == first
    for name, path in written.items():
        assert path.read_bytes() == (twins / dataset / name).read_bytes()


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_image_and_no_name_occurs_twice(twins: Path, dataset: str) -> None:
    files, images = _opened(twins / dataset)
    assert len({image.tobytes() for image in images}) == len(images)
    assert len({record.identity for record in files.records}) == len(images)


def test_rotated_copies_are_copies_of_their_originals(twins: Path) -> None:
    files, images = _opened(twins / "bsd")
    named = {record.identity: image for record, image in zip(files.records, images, strict=True)}
    copies = [name for name in named if name.endswith("_.png")]
    assert len(copies) == 26
    for name in copies:
        np.testing.assert_array_equal(named[name], np.rot90(named[sources.group("bsd", name)]))


@pytest.mark.parametrize("dataset", DATASETS)
def test_classes_differ_in_structure_but_not_in_mean_colour_or_place(twins: Path, dataset: str) -> None:
    folder, chance = twins / dataset, 1 / len(DATASETS[dataset].classes[:10])
    colour = _nearest_class_mean(folder, _mean_colour)
    assert colour < chance + 0.3
    assert _nearest_class_mean(folder, _raw) < chance + 0.35
    assert _nearest_class_mean(folder, _contrasts) > colour + 0.2


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_object_or_defect_of_the_class_lies_at_different_places(dataset: str) -> None:
    """Found by drawing the scene of one seed with every class: what only one of them has is its object or defect."""
    classes = DATASETS[dataset].classes[:10]
    everywhere = {"good", "no pitting", "crazing", "rolled-in_scale"}  # nothing, or all over the surface
    centres: dict[str, list[NDArray[np.float64]]] = {name: [] for name in classes if name not in everywhere}
    for seed in range(40):
        rng = (np.random.default_rng(seed) for _ in classes)
        scenes = np.stack([np.clip(SCENES[dataset](next(rng), label), 0, 1) for label in range(len(classes))])
        common = scenes[0] if dataset == "bsd" else np.median(scenes, axis=0)
        change = np.abs(scenes - common).reshape(len(classes), 32, 32, -1).max(axis=-1)
        for name, of_class in zip(classes, change, strict=True):
            if name in centres:
                centres[name].append(np.argwhere(of_class > 0.17).mean(axis=0))
    for places in centres.values():
        assert np.std(places, axis=0).min() > 3.0  # pixels
