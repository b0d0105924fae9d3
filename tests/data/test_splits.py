"""Draws: the authors' numbers, and splits that fit their images or are refused."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Params
from fdl.data.prepare import Prepared, load, prepare
from fdl.data.splits import draw, load_split, write_split
from tests.data import published

# docs/reference.md 4.2: (class, position within the class) of the first five images, seed 0.
AUTHORS = [
    (10, 4000, [(5, 1952), (0, 1577), (7, 894), (4, 1242), (2, 1060)]),
    (10, 3750, [(5, 3652), (0, 1577), (9, 2181), (4, 1466), (2, 1060)]),
    (100, 400, [(39, 268), (74, 29), (73, 392), (46, 249), (82, 287)]),
]


@pytest.mark.parametrize(("classes", "pool", "expected"), AUTHORS)
def test_draw_0_is_the_authors(classes, pool, expected):
    positions = draw(np.repeat(np.arange(classes), pool), 3, 0)
    assert [divmod(position, pool) for position in positions[:5].tolist()] == expected


@pytest.mark.parametrize(
    ("classes", "pool", "shots", "position", "label"),
    [(10, 4000, 400, 75, 6), (10, 4000, 400, 69, 9), (100, 400, 400, 226, 88), (100, 400, 100, 189, 54)],
)
def test_labels_agree_with_the_authors_figures(classes, pool, shots, position, label):
    assert draw(np.repeat(np.arange(classes), pool), shots, 0)[position] // pool == label


pools = st.integers(1, 6).flatmap(
    lambda classes: st.lists(st.integers(0, classes - 1), max_size=60).map(
        lambda labels: [*range(classes), *labels, *range(classes)]
    )
)


@settings(deadline=None, max_examples=60)
@given(pools, st.integers(1, 2), st.integers(0, 10_000), st.sampled_from(["random", "first"]))
def test_every_draw_holds_k_images_per_class_once(labels, shots, seed, rule):
    positions = draw(labels, shots, seed, rule=rule)
    assert positions.dtype == np.int64
    assert len(set(positions.tolist())) == len(positions)
    assert np.bincount(np.array(labels)[positions]).tolist() == [shots] * (max(labels) + 1)
    np.testing.assert_array_equal(positions, draw(np.array(labels), shots, seed, rule=rule))


def test_draws_differ_and_leave_the_callers_random_numbers_alone():
    labels = np.repeat(np.arange(4), 50)
    random.seed(5)
    state = random.getstate()
    draws = {tuple(draw(labels, 3, seed).tolist()) for seed in range(20)}
    assert len(draws) == 20
    assert random.getstate() == state


def test_first_takes_the_first_of_each_class_then_shuffles():
    labels = [1, 0, 1, 1, 0, 0, 1, 0] * 4
    positions = draw(labels, 6, 0, rule="first").tolist()
    expected = [[p for p, label in enumerate(labels) if label == wanted][:6] for wanted in (0, 1)]
    assert sorted(positions) == sorted(expected[0] + expected[1])
    assert positions != expected[0] + expected[1]
    assert positions != draw(labels, 6, 1, rule="first").tolist()


def test_too_many_shots_name_the_class_and_what_it_holds():
    with pytest.raises(InputError, match=r"^4 shots: the pool holds only 3 images of class 1; ask for fewer shots$"):
        draw([0] * 9 + [1] * 3 + [2] * 5, 4, 0)
    with pytest.raises(InputError, match="only 0 images of class 1"):
        draw([0, 2], 1, 0)
    with pytest.raises(InputError, match="holds no images"):
        draw([], 1, 0)
    with pytest.raises(InputError, match="at least 1 image"):
        draw([0, 1], 0, 0)
    with pytest.raises(ValueError, match="rule 'last'"):
        draw([0, 1], 1, 0, rule="last")


def neu(project: Path, per_class: int = 20) -> tuple[Params, Prepared]:
    """Settings of a prepared NEU of noise: 12 train, 4 validation and 4 test images per class."""
    published.write_parquet(project / "images/neu/train.parquet", published.noise_rows(6, per_class), published.NEU)
    params = published.settings(project / "images", "neu")
    return params, load(prepare(params, "neu"))


def test_a_split_names_rows_of_the_prepared_arrays(project):
    params, prepared = neu(project)
    path = write_split(params, "neu", 2, 1)
    assert path == layout.split_file(params, "neu", 2, 1)
    split = load_split(path, prepared)
    assert (split.rule, split.draw) == ("random", 1)
    pool = np.flatnonzero(prepared.pools == 0)
    np.testing.assert_array_equal(split.train, pool[draw(prepared.labels[pool], 2, 1)])
    assert split.validation.tolist() == np.flatnonzero(prepared.pools == 1).tolist()
    assert split.test.tolist() == np.flatnonzero(prepared.pools == 2).tolist()
    content = json.loads(path.read_bytes())
    for image, row in zip(content["train"], split.train, strict=True):
        assert image == {"row": row, "id": prepared.ids[row], "class": prepared.classes[prepared.labels[row]]}


@settings(deadline=None, max_examples=20)
@given(shots=st.integers(1, 10), index=st.integers(0, 50))
def test_pools_share_neither_rows_nor_pixels(tmp_path_factory, shots, index):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.getbasetemp() / "properties"
        if not folder.exists():
            folder.mkdir()
            patch.chdir(folder)
            neu(folder)
        patch.chdir(folder)
        params = published.settings(folder / "images", "neu")
        prepared = load(layout.prepared_folder(params, "neu"))
        split = load_split(write_split(params, "neu", shots, index), prepared)
    parts = [split.train, split.validation, split.test]
    for values in (np.concatenate(parts), np.concatenate([np.unique(prepared.digests[part]) for part in parts])):
        assert len(np.unique(values)) == len(values)
    assert np.bincount(prepared.labels[split.train]).tolist() == [shots] * 6
    small = split.validation_small
    assert set(small.tolist()) <= set(split.validation.tolist())
    assert np.bincount(prepared.labels[small]).tolist() == [min(shots, 4)] * 6


def test_draw_0_takes_the_first_files_where_the_authors_did(project):
    params, prepared = neu(project)
    split = load_split(write_split(params, "neu", 3, 0), prepared)
    assert split.rule == "first"
    assert sorted(prepared.ids[split.train]) == [f"{label}_{number}.png" for label in range(6) for number in (1, 2, 3)]
    for pool, part in (("train", 12), ("test", 4)):
        rows = [
            (published.encoded(published.pixels(100 * label + part + i)), None, label)
            for i in range(part)
            for label in range(10)
        ]
        names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
        published.write_parquet(project / f"images/cifar10/{pool}.parquet", rows, names)
    cifar = published.settings(project / "images", "cifar10")
    prepared = load(prepare(cifar, "cifar10"))
    assert load_split(write_split(cifar, "cifar10", 3, 0), prepared).rule == "random"


def test_splits_do_not_depend_on_the_order_in_which_a_folder_is_listed(project, monkeypatch):
    for label, name in enumerate(published.NEU):
        (project / "images/neu" / name).mkdir(parents=True)
        for number in range(1, 11):
            content = published.encoded(published.pixels(100 * label + number))
            (project / "images/neu" / name / f"{name}_{number}.png").write_bytes(content)
    params = published.settings(project / "images", "neu")
    prepare(params, "neu")
    first = write_split(params, "neu", 2, 3).read_bytes()
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(listed(path), reverse=True)))
    prepare(params, "neu")
    assert write_split(params, "neu", 2, 3).read_bytes() == first


def test_too_many_shots_name_the_dataset_and_the_class(project):
    params, _ = neu(project)
    with pytest.raises(InputError, match="13 shots: the training pool of neu holds only 12 images of class crazing"):
        write_split(params, "neu", 13, 0)


def test_a_split_of_other_images_is_refused(project):
    params, _ = neu(project)
    path = write_split(params, "neu", 2, 0)
    _, other = neu(project, per_class=25)
    with pytest.raises(InputError, match=r"draw0.json: drawn from other images than those in .*; run `python -m fdl s"):
        load_split(path, other)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "list", "a row", "a draw"])
def test_a_damaged_split_is_refused_in_one_line(project, damage):
    params, prepared = neu(project)
    path = write_split(params, "neu", 2, 1)
    text = path.read_text()
    damaged = {
        "empty": "",
        "cut": text[: len(text) // 2],
        "list": "[]",
        "a row": text.replace(f'"row": {load_split(path, prepared).train[0]}', '"row": 1000', 1),
        "a draw": text.replace('"draw": 1', '"draw": 2'),
    }
    if damage == "missing":
        path.unlink()
    else:
        assert damaged[damage] != text
        path.write_text(damaged[damage])
    with pytest.raises(InputError) as error:
        load_split(path, prepared)
    assert str(path) in str(error.value)
    assert "python -m fdl split" in str(error.value)
    assert "\n" not in str(error.value)


def test_splitting_what_is_not_prepared_says_so(project):
    with pytest.raises(InputError, match=r"dataset.json: no such file; run `python -m fdl data prepare`"):
        write_split(published.settings(project, "neu"), "neu", 2, 0)
