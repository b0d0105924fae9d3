"""Preparing: classes by name, pools, duplicates, and arrays that cannot be damaged unnoticed."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.data.formats import Expected
from fdl.data.locate import Located
from fdl.data.prepare import Prepared, load, prepare
from tests.data.published import (
    BSD,
    NEU,
    PARAMS_FILE,
    encoded,
    noise_rows,
    pixels,
    prepared_bsd,
    settings,
    write_bsd,
    write_parquet,
)


def per_class(prepared: Prepared, pool: int) -> list[int]:
    return [
        int(((prepared.labels == label) & (prepared.pools == pool)).sum()) for label in range(len(prepared.classes))
    ]


def test_arrays_hold_the_images_by_pool_and_file_order(project):
    prepared = prepared_bsd(project, validation=[])
    assert prepared.folder == layout.PREPARED / "local" / "bsd-16"
    assert prepared.classes == ["no pitting", "pitting"]
    assert prepared.images.shape == (60, 16, 16, 3)
    assert isinstance(prepared.images, np.memmap)
    assert prepared.pools.tolist() == [0] * 40 + [1] * 10 + [2] * 10
    assert prepared.ids[:3].tolist() == ["0_1.png", "1_1.png", "0_2.png"]
    np.testing.assert_array_equal(prepared.rows(np.array([1, 2, 59])), [pixels(1000), pixels(1), pixels(1504)])
    assert prepared.labels[[1, 2, 59]].tolist() == [1, 0, 1]
    assert not prepared.synthetic
    about = json.loads((prepared.folder / "dataset.json").read_bytes())
    assert about["counts"]["train"] == {"no pitting": 20, "pitting": 20}
    assert about["duplicates_removed"] == {"validation": 0, "test": 0}


def test_a_missing_validation_set_is_a_fifth_of_the_training_file_per_class(project):
    prepared = prepared_bsd(project, count=21)
    assert [per_class(prepared, pool) for pool in range(3)] == [[17, 17], [4, 4], [5, 5]]
    for pool in range(3):  # file order survives the draw
        numbers = [int(name.partition("_")[2][:-4]) for name in prepared.ids[prepared.pools == pool]]
        assert numbers == sorted(numbers)


def test_a_missing_validation_set_is_no_larger_than_the_authors(project):
    # The authors' 20 images per class, not the fifth (22) of the training file.
    names = [f"n{label:08d}" for label in range(100)]
    train = [(encoded(pixels(row)), None, row % 100) for row in range(100)]
    train += [(encoded(pixels(1000 + row)), None, 0) for row in range(110)]
    write_parquet(project / "images/miniimagenet/train.parquet", train, names)
    test = [(encoded(pixels(5000 + row)), None, row) for row in range(100)]
    write_parquet(project / "images/miniimagenet/test.parquet", test, names)
    with pytest.raises(InputError, match="no train image of class 'n00000001'"):
        prepare(settings(project / "images", "miniimagenet"), "miniimagenet")
    train += [(encoded(pixels(9000 + row)), None, row % 100) for row in range(100, 200)]
    write_parquet(project / "images/miniimagenet/train.parquet", train, names)
    prepared = load(prepare(settings(project / "images", "miniimagenet"), "miniimagenet"))
    assert per_class(prepared, 1) == [20] + [1] * 99
    assert per_class(prepared, 0) == [92] + [1] * 99


def test_the_validation_draw_is_the_same_at_every_size(project):
    prepared = prepared_bsd(project)
    larger = load(prepare(settings(project / "images", "bsd", image_size=20), "bsd"))
    np.testing.assert_array_equal(prepared.ids, larger.ids)
    assert prepared.hash != larger.hash


def test_a_rotated_copy_stays_with_its_original(project):
    folder = project / "images/bsd"
    for number in range(1, 21):
        for letter in BSD:
            for copy in ("", "_"):
                path = folder / letter / f"{letter} ({number}){copy}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(pixels(4 * number + 2 * (letter == "P") + (copy == "_"))))
    prepared = load(prepare(settings(project / "images", "bsd"), "bsd"))
    assert per_class(prepared, 2) == [8, 8]  # a fifth of 40
    assert per_class(prepared, 1) == [6, 6]  # a fifth of the remaining 32
    pool_of = dict(zip(prepared.ids.tolist(), prepared.pools.tolist(), strict=True))
    assert all(pool_of[name] == pool_of[name.replace(").", ")_.")] for name in pool_of if ")." in name)
    assert "validation and test sets are the last images of the one set of files" in prepared.notes


def test_unequal_class_folders_are_pooled_class_by_class(project):
    seed = iter(range(1000))
    for letter, count in (("N", 30), ("P", 10)):
        (project / "images/bsd" / letter).mkdir(parents=True)
        for number in range(count):
            (project / "images/bsd" / letter / f"{number}.png").write_bytes(encoded(pixels(next(seed))))
    prepared = load(prepare(settings(project / "images", "bsd"), "bsd"))
    assert [per_class(prepared, pool) for pool in range(3)] == [[20, 7], [4, 1], [6, 2]]


def test_neu_is_cut_by_file_number(project):
    numbers = np.random.default_rng(0).permutation(np.arange(1, 301)).tolist()
    rows = [
        (encoded(np.full((2, 2), [[label, number % 256], [number // 256, 7]], np.uint8)), f"{name}_{number}.jpg", label)
        for label, name in enumerate(NEU)
        for number in numbers
    ]
    write_parquet(project / "images/neu/train.parquet", rows, NEU)
    prepared = load(prepare(settings(project / "images", "neu"), "neu"))
    found = [[int(name.rpartition("_")[2][:-4]) for name in prepared.ids[prepared.pools == pool]] for pool in range(3)]
    assert found == [[*range(1, 181)] * 6, [*range(181, 241)] * 6, [*range(241, 301)] * 6]
    assert prepared.notes == ["NEU-DET JPG copy, not the authors' BMP files"]


def test_copies_of_pool_images_leave_validation_and_test(project):
    validation, test = noise_rows(2, 1, first=800), noise_rows(2, 1, first=900)
    train = noise_rows(2, 1)  # two images twice in the pool: it is not thinned
    other_class = [(encoded(pixels(1), "BMP"), "copy.bmp", 1)]  # equal pixels, other bytes, other class
    write_bsd(
        project / "images",
        train=train,
        validation=[*validation, *other_class],
        test=[*test, *test, *validation, *train],
    )
    prepared = load(prepare(settings(project / "images", "bsd"), "bsd"))
    assert [per_class(prepared, pool) for pool in range(3)] == [[21, 21], [6, 6], [7, 7]]
    assert "copy.bmp" not in prepared.ids
    assert "left out as exact duplicates: 1 validation, 4 test images" in prepared.notes
    pools = [set(prepared.digests[prepared.pools == pool].tolist()) for pool in range(3)]
    assert not pools[0] & pools[1] | pools[0] & pools[2] | pools[1] & pools[2]


def test_images_that_occur_more_than_once_are_reported(project):
    copies = [(encoded(pixels(1)), "copy.png", 1), (encoded(pixels(500)), "held out.png", 0)]
    prepared = prepared_bsd(project, train=[copies[0]], validation=[copies[1]], test=[])
    about = json.loads((prepared.folder / "dataset.json").read_bytes())
    # `pixels(1)` is image 0_2.png, `pixels(500)` the first of the test file.
    assert about["duplicates"] == [
        [
            {"id": "0_2.png", "class": "no pitting", "pool": "train", "kept": True},
            {"id": "copy.png", "class": "pitting", "pool": "train", "kept": True},
        ],
        [
            {"id": "held out.png", "class": "no pitting", "pool": "validation", "kept": True},
            {"id": "0_501.png", "class": "no pitting", "pool": "test", "kept": False},
        ],
    ]
    assert about["duplicates_removed"] == {"validation": 0, "test": 1}
    assert "0_501.png" not in prepared.ids


def test_antialiased_images_are_averaged_and_lie_apart(project):
    stripes = np.zeros((32, 32), np.uint8)
    stripes[:, ::2] = 255
    write_bsd(project / "images", train=[(encoded(stripes), "stripes.png", 0)])
    nearest, averaged = (
        load(prepare(settings(project / "images", "bsd", antialias=antialias), "bsd")) for antialias in (False, True)
    )
    assert [prepared.folder.name for prepared in (nearest, averaged)] == ["bsd-16", "bsd-16-aa"]
    assert nearest.hash != averaged.hash
    image = nearest.images[nearest.ids == "stripes.png"]
    assert set(np.unique(image).tolist()) <= {0, 255}
    image = averaged.images[averaged.ids == "stripes.png"]
    assert abs(image.astype(float) - 127.5).max() < 64
    # An image of the wanted size is left as it is.
    np.testing.assert_array_equal(nearest.images[nearest.ids == "0_1.png"], averaged.images[averaged.ids == "0_1.png"])


def test_files_are_held_to_what_their_source_expects(project, monkeypatch):
    write_bsd(project / "images")
    params = settings(project / "images", "bsd")
    expected = Expected(counts={"train": 21, "test": 5})
    monkeypatch.setattr("fdl.data.prepare.locate", lambda *_: Located(project / "images/bsd", (), expected))
    with pytest.raises(InputError, match="20 train images of class 'N', but 21 are published"):
        prepare(params, "bsd")
    assert not layout.prepared_folder(params, "bsd").exists()


def test_images_that_no_pool_needs_are_counted_and_left_out(project):
    # miniImageNet pooled: what exceeds the authors' 20 of validation and 400 of the pool.
    rows = noise_rows(100, 3)
    for number in range(3, 560):
        content = encoded(np.full((2, 2), [[number % 256, number // 256], [1, 2]], np.uint8))
        rows.append((content, f"more {number}.png", 0))
    folder = project / "images/miniimagenet"
    for content, name, label in rows:
        (folder / f"n{label:08d}").mkdir(parents=True, exist_ok=True)
        (folder / f"n{label:08d}" / name).write_bytes(content)
    prepared = load(prepare(settings(project / "images", "miniimagenet", image_size=16), "miniimagenet"))
    assert [per_class(prepared, pool)[0] for pool in range(3)] == [400, 20, 112]
    about = json.loads((prepared.folder / "dataset.json").read_bytes())
    assert about["unused"] == 560 - 532


def test_a_class_may_not_lose_all_its_test_images(project):
    write_parquet(project / "images/bsd/train.parquet", noise_rows(2, 10), BSD)
    write_parquet(project / "images/bsd/test.parquet", noise_rows(2, 3), BSD)
    with pytest.raises(InputError, match=r"all test images of class 'no pitting' equal .* \(3, the first '0_1.png'\)"):
        prepare(settings(project / "images", "bsd"), "bsd")
    assert not layout.prepared_folder(settings(project / "images", "bsd"), "bsd").exists()


def test_equal_files_give_equal_bytes(project):
    first = prepared_bsd(project)
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    shutil.rmtree(first.folder)
    again = load(prepare(settings(project / "images", "bsd"), "bsd"))
    assert before == {path.name: path.read_bytes() for path in again.folder.iterdir()}
    assert set(before) == {"dataset.json", "images.npy", "index.npz"}


def test_the_hash_follows_pixels_and_labels(project):
    first = prepared_bsd(project).hash
    assert prepared_bsd(project, train=[(encoded(pixels(77)), "new.png", 0)]).hash != first


def test_a_kill_leaves_nothing_that_looks_prepared(project):
    write_bsd(project / "images")
    script = (
        "import os, pathlib\n"
        "from fdl.data import prepare\n"
        "from fdl.core.settings import load\n"
        "prepare._content_hash = lambda *a: os.kill(os.getpid(), 9)\n"
        f"overrides = dict(source='local', datasets=['bsd'], image_size=16, data_dir={str(project / 'images')!r})\n"
        f"prepare.prepare(load({str(PARAMS_FILE)!r}, 'demo', overrides), 'bsd')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PARAMS_FILE.parent)}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == -9
    params = settings(project / "images", "bsd")
    folder = layout.prepared_folder(params, "bsd")
    left = folder.with_name(f".{folder.name}.partial")
    assert left.is_dir()
    with pytest.raises(InputError, match="run `python -m fdl data prepare`"):
        load(folder)
    prepare(params, "bsd")
    load(folder)
    assert not left.exists()


def test_a_failed_run_keeps_the_older_copy_and_leaves_nothing_behind(project):
    prepared = prepared_bsd(project)
    write_bsd(project / "images", train=[(b"no image", "bad.png", 0)])
    with pytest.raises(InputError, match=r"train.parquet row 40: not a readable image"):
        prepare(settings(project / "images", "bsd"), "bsd")
    assert load(prepared.folder).hash == prepared.hash
    assert [path.name for path in prepared.folder.parent.iterdir()] == [prepared.folder.name]


def test_progress_is_said(project):
    write_bsd(project / "images")
    said: list[str] = []
    prepare(settings(project / "images", "bsd"), "bsd", say=said.append)
    assert said[-1].startswith("bsd: 32 train, 8 validation, 10 test images of 16 px in 2 classes; subset: ")


def test_one_flipped_byte_is_noticed_when_it_is_read(project):
    prepared = prepared_bsd(project)
    path = prepared.folder / "images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the last image
    path.write_bytes(content)
    damaged = load(prepared.folder)
    last = len(damaged.labels) - 1
    assert damaged.rows(np.arange(last)).shape == (last, 16, 16, 3)
    with pytest.raises(InputError) as error:
        damaged.rows(np.array([0, last]))
    assert re.search(rf"images.npy: image {last} \(1_505.png\) is damaged; .*data prepare", str(error.value))


@pytest.mark.parametrize("name", ["dataset.json", "images.npy", "index.npz"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed"])
def test_damaged_folders_are_refused_in_one_line(project, name, damage):
    path = prepared_bsd(project).folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        swaps = {"dataset.json": (b'"no pitting",', b'"so pitting",'), "images.npy": (b"16, 16", b"16, 15")}
        old, new = swaps.get(name, (content[200:208], bytes(8)))
        assert old in content
        path.write_bytes(content.replace(old, new))
    else:
        path.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    with pytest.raises(InputError) as error:
        load(path.parent)
    assert "data prepare" in str(error.value)
    assert "\n" not in str(error.value)
