"""Pools: the authors' rules on sets of the published size, and the same proportions on smaller ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from fdl.core.errors import InputError
from fdl.core.protocol import DATASETS
from fdl.data import make_splits, sources
from fdl.data.images import Record
from fdl.data.pools import TEST, TRAIN, UNUSED, VALIDATION, Assignment, assign
from fdl.data.splits import draw

Part = tuple[str, int, str]  # pool of the file, label, name


def assigned(dataset: str, parts: list[Part], own_pool: int | None = None) -> Assignment:
    images = [Record(pool, label, name, name) for pool, label, name in parts]
    labels = np.array([label for _, label, _ in parts], np.int16)
    groups = [sources.group(dataset, name) for _, _, name in parts]
    return assign(dataset, DATASETS[dataset], images, labels, groups, Path("images"), own_pool)


def counts(assignment: Assignment, parts: list[Part], label: int) -> list[int]:
    """Images of a class: train, validation, test, unused."""
    pools = assignment.pools[np.array([part[1] for part in parts]) == label]
    return [int((pools == pool).sum()) for pool in (0, 1, 2, -1)]


def cifar(dataset: str, train: int, test: int) -> list[Part]:
    """The files in a mixed order of classes."""
    generator, classes = np.random.default_rng(0), len(DATASETS[dataset].classes)
    return [
        (pool, int(label), f"{pool} {number}")
        for pool, count in (("train", train), ("test", test))
        for number, label in enumerate(generator.permutation(np.repeat(np.arange(classes), count)))
    ]


def test_complete_cifar_has_the_authors_pool_in_the_order_of_their_draw() -> None:
    parts = cifar("cifar100", 500, 100)
    result = assigned("cifar100", parts)
    assert all(counts(result, parts, label) == [400, 20, 100, 80] for label in (0, 57, 99))
    labels = np.array([part[1] for part in parts])
    pool = result.order[result.pools[result.order] == 0]
    # docs/reference.md 4.2: class and position within the class's pool.
    chosen = pool[draw(labels[pool], 3, 0)][:5]
    expected = [(39, 268), (74, 29), (73, 392), (46, 249), (82, 287)]
    published = json.loads((make_splits.FOLDER / "cifar100.json").read_bytes())
    for row, (label, position) in zip(chosen, expected, strict=True):
        assert np.flatnonzero(labels[:50_000] == label)[published["pool"][label][position]] == row
    assert len(np.unique(result.order)) == len(result.order) == 40_000 + 2_000 + 10_000
    assert (np.diff(result.pools[result.order]) >= 0).all()


def test_the_pool_of_the_authors_vgg_and_resnet_is_their_own() -> None:
    parts = cifar("cifar10", 5000, 1000)
    shared, own = assigned("cifar10", parts), assigned("cifar10", parts, 3750)
    assert counts(shared, parts, 3) == [4000, 200, 1000, 800]
    assert counts(own, parts, 3) == [3750, 200, 1000, 1050]
    assert not shared.notes
    assert own.notes == ["VGG and ResNet draw from a pool of their own, 3,750 images per class"]
    labels = np.array([part[1] for part in parts])
    pool = own.order[own.pools[own.order] == 0]
    chosen = pool[draw(labels[pool], 3, 0)][:5]
    published = json.loads((make_splits.FOLDER / "cifar10-pool3750.json").read_bytes())
    # docs/reference.md 4.2, n = 3750: class and position within the class's pool.
    for row, (label, position) in zip(chosen, [(5, 3652), (0, 1577), (9, 2181), (4, 1466), (2, 1060)], strict=True):
        assert np.flatnonzero(labels[:50_000] == label)[published["pool"][label][position]] == row


def test_a_pool_of_their_own_needs_the_complete_training_file() -> None:
    with pytest.raises(InputError, match=r"images: the authors' pool of 3,750 .* set cifar10_pools: shared"):
        assigned("cifar10", cifar("cifar10", 60, 10), 3750)


def test_part_of_cifar_keeps_the_order_of_its_files() -> None:
    parts = cifar("cifar10", 60, 10)
    result = assigned("cifar10", parts)
    assert counts(result, parts, 3) == [48, 12, 10, 0]
    for pool in range(3):
        assert (np.diff(result.order[result.pools[result.order] == pool]) > 0).all()


def test_tex_validation_is_the_beginning_of_the_test_file() -> None:
    parts = [
        (pool, label, f"{pool} {label} {number}")
        for pool, count in (("train", 50), ("test", 1500))
        for label in range(6)
        for number in range(count)
    ]
    result = assigned("tex", parts)
    assert counts(result, parts, 5) == [50, 400, 900, 200]  # the authors' 400 of the first 600
    pool_of = dict(zip((part[2] for part in parts), result.pools.tolist(), strict=True))
    assert {pool_of[f"train 2 {number}"] for number in range(50)} == {0}
    assert {pool_of[f"test 2 {number}"] for number in range(600)} == {1, -1}
    assert {pool_of[f"test 2 {number}"] for number in range(600, 1500)} == {2}
    assert any("training and test files are kept apart" in note for note in result.notes)


def test_miniimagenet_published_by_class_is_pooled() -> None:
    parts = [
        (pool, label, f"n{label:08d} {number}")
        for pool, labels in (("train", range(3)), ("validation", range(3, 4)), ("test", range(4, 5)))
        for label in labels
        for number in range(600)
    ]
    result = assigned("miniimagenet", parts)
    for label in range(5):
        assert counts(result, parts, label) == [400, 20, 120, 60]
    assert "drawn from the one set of files" in result.notes[0]
    # Neither the first nor the last images: they are drawn.
    assert 0 < (result.pools[:120] == 2).sum() < 60


def test_miniimagenet_with_all_classes_in_every_file_keeps_them() -> None:
    parts = [
        (pool, label, f"{pool} {label} {number}")
        for pool, count in (("train", 10), ("validation", 2), ("test", 6))
        for label in range(4)
        for number in range(count)
    ]
    assert counts(assigned("miniimagenet", parts), parts, 2) == [10, 2, 6, 0]


def test_bsd_in_one_set_ends_with_validation_and_test_and_parts_no_copy() -> None:
    parts = [
        ("all", label, f"{letter} ({number}){copy}.png")
        for label, letter in enumerate("NP")
        for number in range(1, 41)
        for copy in (("", "_") if number % 3 == 0 else ("",))
    ]
    result = assigned("bsd", parts)
    pool_of = dict(zip((part[2] for part in parts), result.pools.tolist(), strict=True))
    numbers = [[number for number in range(1, 41) if pool_of[f"P ({number}).png"] == pool] for pool in range(3)]
    # A fifth of 53 images is 10; the pair of number 33 would be the 10th and the 11th.
    assert numbers[2] == list(range(34, 41))
    assert numbers[1] == list(range(28, 34))
    assert numbers[0] == list(range(1, 28))
    assert all(pool_of[f"N ({number})_.png"] == pool_of[f"N ({number}).png"] for number in range(3, 41, 3))


def test_bsd_of_the_published_size_has_the_authors_test_set() -> None:
    parts = [("all", label, f"{'NP'[label]} ({n}).png") for label, n in [(0, n) for n in range(11_075)]]
    parts += [("all", 1, f"P ({n}).png") for n in range(10_760)]
    result = assigned("bsd", parts)
    assert counts(result, parts, 0) == [8003, 1000, 2072, 0]
    assert counts(result, parts, 1) == [7760, 1000, 2000, 0]


@pytest.mark.parametrize("files", [("all",), ("train",), ("train", "validation")])
def test_neu_without_a_test_set_is_cut_by_number(files: tuple[str, ...]) -> None:
    parts = [
        (files[number % len(files)], label, f"{name}_{number}.bmp")
        for label, name in enumerate(("Cr", "In", "Pa", "PS", "RS", "Sc"))
        for number in range(300, 0, -1)
    ]
    result = assigned("neu", parts)
    names = [parts[index][2] for index in result.order]
    assert names[:2] == ["Cr_1.bmp", "Cr_2.bmp"]
    assert names[6 * 180 - 1] == "Sc_180.bmp"
    assert names[6 * 180 : 6 * 180 + 2] == ["Cr_181.bmp", "Cr_182.bmp"]
    assert names[6 * 240 - 1 : 6 * 240 + 1] == ["Sc_240.bmp", "Cr_241.bmp"]


def test_neu_without_numbers_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^crazing.bmp: the name 'crazing.bmp' holds no number, which decides the pool$"
    ):
        assigned("neu", [("all", 0, "crazing.bmp")])


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_file_is_named(missing: str) -> None:
    present = {"train": "test", "test": "train"}[missing]
    message = rf"^images: no {missing} images \(found {present}, validation\); add the {missing} file$"
    with pytest.raises(InputError, match=message):
        assigned("bsd", [(present, 0, "N (1).png"), ("validation", 0, "N (2).png")])


def test_a_fifth_of_a_few_images_is_at_least_one() -> None:
    parts = [("all", label, f"{'NP'[label]} ({number}).png") for label in range(2) for number in range(1, 5)]
    assert counts(assigned("bsd", parts), parts, 1) == [2, 1, 1, 0]


def test_the_constants_are_those_of_prepared_arrays() -> None:
    """They are stored: other numbers would misread what was prepared before."""
    assert (TRAIN, VALIDATION, TEST, UNUSED) == (0, 1, 2, -1)
