"""Sources: which folder is read, classes by name, and what reports must say about the images."""

import shutil

import numpy as np
import pytest

from fdl import layout
from fdl.data import formats
from fdl.data.prepare import load, prepare
from fdl.errors import InputError
from tests.data.published import NEU, encoded, noise_rows, prepared_bsd, settings, write_bsd, write_parquet


def test_classes_are_matched_by_name_not_by_order(project):
    rows = [(content, name, 5 - label) for content, name, label in noise_rows(6, 8) if label is not None]
    for pool, part in (("train", rows[:24]), ("validation", rows[24:36]), ("test", rows[36:])):
        write_parquet(project / f"images/neu/{pool}.parquet", part, ("Sc", "RS", "PS", "Pa", "In", "Cr"))
    prepared = load(prepare(settings(project / "images", "neu"), "neu"))
    assert tuple(prepared.classes) == NEU
    assert [name[0] for name in prepared.ids] == [str(label) for label in prepared.labels]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["N", "Q"], r"unknown class 'Q' for bsd; its classes are no pitting, pitting"),
        (["N", "no pitting"], "class 'no pitting' of bsd is there twice"),
        (["N"], "class 'pitting' of bsd is missing"),
    ],
)
def test_wrong_classes_are_named(project, names, expected):
    for pool in ("train", "test"):
        write_parquet(project / f"images/bsd/{pool}.parquet", noise_rows(len(names), 3), names)
    with pytest.raises(InputError, match=expected):
        prepare(settings(project / "images", "bsd"), "bsd")


def test_miniimagenet_must_have_its_hundred_classes(project):
    for pool in ("train", "test"):
        write_parquet(project / f"images/miniimagenet/{pool}.parquet", noise_rows(3, 2), ["n1", "n2", "n3"])
    with pytest.raises(InputError, match="3 classes, but miniimagenet has 100"):
        prepare(settings(project / "images", "miniimagenet"), "miniimagenet")


def test_notes_say_what_the_images_are(project):
    assert prepared_bsd(project).notes == ["subset: 25 of 10,760 images per class"]
    shutil.move(project / "images/bsd", project / "images/bsd_crops")
    prepared = load(prepare(settings(project / "images", "bsd"), "bsd"))
    assert prepared.notes == ["crops around pitting, not the BSD classification set"]
    classes = [f"n{label:02d}" for label in range(100)]
    for pool, first in (("train", 0), ("test", 2)):
        rows = [(encoded(np.full((1, 1, 3), [row, first, 3], np.uint8)), None, row % 100) for row in range(200)]
        write_parquet(project / f"images/miniimagenet/{pool}.parquet", rows, classes)
    assert load(prepare(settings(project / "images", "miniimagenet"), "miniimagenet")).notes == [
        "own split: the authors' lists are not published",
        "subset: 4 of 600 images per class",
    ]


def test_missing_images_name_the_folder_the_setting_and_the_variable(project, monkeypatch):
    params = settings(project / "images", "bsd")
    with pytest.raises(InputError, match=r"images/bsd: no such folder; .*data_dir .*FDL_DATA_DIR"):
        prepare(params, "bsd")
    with pytest.raises(InputError, match=r"bsd: no folder of images is named; set data_dir .*FDL_DATA_DIR"):
        prepare(settings(project, "bsd", data_dir=None), "bsd")
    write_bsd(project / "elsewhere")
    monkeypatch.setenv("FDL_DATA_DIR", str(project / "elsewhere"))
    assert load(prepare(settings(project, "bsd", data_dir=None), "bsd")).classes == ["no pitting", "pitting"]


def test_the_synthetic_source_writes_its_twin_once(project, monkeypatch):
    params = settings(project, "neu", source="synthetic", data_dir=None, image_size=32)
    prepared = load(prepare(params, "neu"))
    assert prepared.synthetic
    assert prepared.notes == ["synthetic images"]
    assert tuple(prepared.classes) == NEU
    assert prepared.folder == layout.PREPARED / "synthetic" / "neu-32"
    assert {path.name for path in (layout.RAW / "synthetic/neu").iterdir()} == {
        f"{pool}.parquet" for pool in formats.POOLS
    }
    monkeypatch.setattr("fdl.data.synthetic.write_twin", None)  # not called again
    assert load(prepare(params, "neu")).hash == prepared.hash
