"""Sources: which folder is read, classes by name, and what reports must say about the images."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.places import File
from fdl.core.protocol import DATASETS
from fdl.data import sources
from fdl.data.locate import Located, locate
from fdl.data.prepare import load, prepare
from fdl.data.sources import SOURCES
from fdl.data.synthetic import write_twin
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
    assert (layout.RAW / "synthetic/neu").is_dir()
    monkeypatch.setattr("fdl.data.synthetic.write_twin", None)  # not called again
    assert load(prepare(params, "neu")).hash == prepared.hash


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_entry_can_be_cited_agreed_to_and_fetched(dataset):
    entry, classes = sources.SOURCES[dataset], DATASETS[dataset].classes
    assert entry.citation.endswith(".")
    assert entry.licence
    assert entry.terms
    assert dataset == "bsd" or entry.images == sum(entry.published.values()) * len(classes)
    for place in entry.places:
        assert place.page.startswith("http")
        assert place.wanted
        for file in place.files:
            assert place.address(file).startswith("https://")
            assert re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", file.hash or "md5:" + "0" * 32)
        assert place.files or place.host in ("huggingface", "page")


def test_addresses_of_every_host():
    addresses = {
        place.host: place.address(place.files[0] if place.files else File("a b.parquet", path="data/a b.parquet"))
        for entry in sources.SOURCES.values()
        for place in entry.places
        if place.host != "page"
    }
    assert addresses == {
        "web": "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "zenodo": "https://zenodo.org/records/7978538/files/mini-imagenet-cache-train.pkl",
        "drive": "https://drive.usercontent.google.com/download"
        "?id=1qrdZlaDi272eA79b0uCwwqPrm2Q_WI3k&export=download&confirm=t",
        "huggingface": "https://huggingface.co/datasets/2OBe/Ball_Screw_Drive_Classification"
        "/resolve/main/data/a%20b.parquet",
        "kaggle": "https://www.kaggle.com/api/v1/datasets/download/belkhirnacim/textiledefectdetection",
    }


def test_official_files_are_fetched_and_read(project, monkeypatch):
    write_twin("bsd", layout.RAW / "official/bsd")  # a human put them there
    monkeypatch.setitem(SOURCES, "bsd", replace(SOURCES["bsd"], images=296))
    params = settings(project, "bsd", source="official", data_dir=None)
    prepared = load(prepare(params, "bsd"))
    assert prepared.folder == layout.PREPARED / "official/bsd-16"
    assert not prepared.synthetic
    assert (layout.RAW / "official/bsd/.hashes.json").exists()


@pytest.mark.parametrize(
    ("dataset", "problem"),
    [
        ("cifar10", "but 5,000 are published"),
        ("bsd", "296 images, but 21,835 are published"),
        ("neu", "but 1,800 are published"),
    ],
)
def test_other_images_under_a_published_name_are_refused(project, dataset, problem):
    write_twin(dataset, Path("twin"))
    folder = layout.RAW / "official" / dataset
    folder.mkdir(parents=True)
    shutil.make_archive(str(folder / "mine"), "zip", "twin")
    with pytest.raises(InputError, match=problem):
        prepare(settings(project, dataset, source="official", data_dir=None), dataset)
    assert not (layout.PREPARED / "official").exists() or not list((layout.PREPARED / "official").iterdir())


OWN = {"name": "bolts", "folder": "my/bolts", "image_size": 16, "like": "neu"}


def test_own_images_are_taken_from_their_folder_whatever_the_source(project):
    params = settings(project, "neu", source="official", data_dir=None, datasets=[OWN])
    with pytest.raises(InputError, match=r"my/bolts: no such folder; put the images of bolts there, or correct"):
        locate(params, "bolts")
    (project / "my/bolts").mkdir(parents=True)
    assert locate(params, "bolts") == Located(Path("my/bolts"))


def test_own_classes_are_sorted_and_names_mean_nothing(project):
    order = sources.label_order("bolts", ["worn", "new"], synthetic=False, where=project)
    assert order == (["new", "worn"], [1, 0])
    assert sources.group("bolts", "new/a_.png") == "new/a_.png"
    assert sources.content_notes("bolts", []) == []


def test_a_rotated_copy_stays_with_its_original():
    assert sources.group("bsd", "P (12)_.png") == sources.group("bsd", "P (12).png") == "P (12).png"
    assert sources.group("neu", "Cr_1_.bmp") == "Cr_1_.bmp"
