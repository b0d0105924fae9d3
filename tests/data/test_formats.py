"""Which layout lies in a folder, and whether it holds what the official files hold."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fdl.core.errors import InputError
from fdl.data.formats import Expected, open_images
from tests.data.published import pixels
from tests.data.published_formats import (
    CIFAR10,
    NEU_CLS,
    NEU_DET,
    PUBLISHED,
    TEX,
    grey,
    image,
    packed_by,
    tarred,
    write_bsd_pngs,
    write_cifar10,
    write_cifar10_binary,
    write_neu_cls,
    write_tex,
    write_tex_groups,
    zipped,
)  # fmt: skip
from tests.data.reading import read_all, refusal

FINE = tuple(f"fine_{label:02d}" for label in range(100))
MINI = tuple(f"n{label:08d}" for label in range(100))
NEEDS_BSDTAR = pytest.mark.skipif(not shutil.which("bsdtar"), reason="no program here opens RAR archives")
# Classes in any order, and images per class in each pool, of what `PUBLISHED` writes.
HELD = {
    "cifar10": (CIFAR10, {"train": 5, "test": 1}),
    "cifar100": (FINE, {"train": 2, "test": 1}),
    "miniimagenet": (MINI, {"all": 5}),
    "neu": (NEU_CLS, {"all": 5}),
    "neu det": (NEU_DET, {"all": 5}),
    "bsd": (("N", "P"), {"all": 6}),
    "bsd parquet": (("N", "P"), {"train": 5}),
    "tex": (TEX, {"train": 4, "test": 4}),
    "tex png": (TEX, {"train": 3, "test": 2}),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=NEEDS_BSDTAR if n.endswith("rar") else ()) for n in PUBLISHED])
def test_every_published_format_is_read(tmp_path, name):
    PUBLISHED[name](tmp_path / "raw")
    classes, counts = HELD[max((key for key in HELD if name.startswith(key)), key=len)]
    files, images = read_all(tmp_path / "raw", Expected(classes, counts))
    assert len(images) == len(classes) * sum(counts.values())
    assert len({record.identity for record in files.records}) == len(images)
    assert len({decoded.tobytes() for decoded in images}) == len(images)
    again = open_images(tmp_path / "raw")
    assert (again.classes, again.records) == (files.classes, files.records)


@pytest.mark.parametrize("name", ["cifar10", "cifar10 binary", "cifar100", "cifar100 binary", "cifar100 tar"])
def test_cifar_pixels_and_labels(tmp_path, name):
    PUBLISHED[name](tmp_path / "raw")
    files, images = read_all(tmp_path / "raw", size=32)
    classes = len(files.classes)
    for position in (0, 7, classes, len(images) - 1):
        assert files.records[position].label == position % classes
        np.testing.assert_array_equal(images[position], image(position % classes, position // classes, 32))


@pytest.mark.parametrize("name", ["miniimagenet", "miniimagenet tar"])
def test_mini_imagenet_pixels_and_labels(tmp_path, name):
    PUBLISHED[name](tmp_path / "raw")
    files, images = read_all(tmp_path / "raw", size=8)
    for position in (0, 1, 5, 320, 499):
        assert files.records[position].label == position // 5
        np.testing.assert_array_equal(images[position], image(position // 5, position % 5, 8))


@pytest.mark.parametrize("name", ["neu", "neu zip", pytest.param("neu rar", marks=NEEDS_BSDTAR)])
def test_neu_pixels_and_labels(tmp_path, name):
    PUBLISHED[name](tmp_path / "raw")
    files, images = read_all(tmp_path / "raw", size=20)
    assert [record.identity for record in files.records][:6] == [*(f"Cr_{n}.bmp" for n in range(1, 6)), "In_1.bmp"]
    position = [record.identity for record in files.records].index("RS_3.bmp")
    assert files.classes[files.records[position].label] == "RS"
    np.testing.assert_array_equal(images[position], np.repeat(grey(4, 3, 20)[..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["tex", "tex zip", "tex groups", "tex png"])
def test_tex_pixels_and_labels(tmp_path, name):
    PUBLISHED[name](tmp_path / "raw")
    files, images = read_all(tmp_path / "raw", size=64)
    order = sorted(TEX) if name == "tex png" else list(TEX)
    for pool, number in (("train", 1), ("test", 3 if name == "tex png" else 5)):
        expected = np.repeat(grey(order.index("hole"), number, 64)[..., None], 3, axis=2)
        place = [np.array_equal(decoded, expected) for decoded in images].index(True)
        assert files.classes[files.records[place].label] == "hole"
        assert files.records[place].pool == pool


def test_an_archive_is_extracted_once(tmp_path):
    packed_by(write_cifar10, "cifar-10-python.tar.gz")(tmp_path / "raw")
    open_images(tmp_path / "raw")
    batch = tmp_path / "raw/.extracted/cifar-10-python.tar.gz/cifar-10-batches-py/data_batch_1"
    os.utime(batch, ns=(1, 1))
    open_images(tmp_path / "raw")
    assert batch.stat().st_mtime_ns == 1
    assert [path.name for path in (tmp_path / "raw/.extracted").iterdir()] == ["cifar-10-python.tar.gz"]


def test_a_changed_archive_is_extracted_again(tmp_path):
    packed_by(write_neu_cls, "NEU-CLS.zip", zipped)(tmp_path / "raw")
    assert len(open_images(tmp_path / "raw").records) == 30
    zipped(tmp_path / "raw/NEU-CLS.zip", write_neu_cls(tmp_path / "more", per_class=6))
    assert len(open_images(tmp_path / "raw").records) == 36


def test_class_folders_may_lie_in_an_archive(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        shutil.copy(write_bsd_pngs(tmp_path / "png") / "N (1).png", tmp_path / "pets" / name / "photograph.png")
    (tmp_path / "raw").mkdir()
    tarred(tmp_path / "raw/pets.tar", tmp_path / "pets", mode="w")
    assert open_images(tmp_path / "raw").classes == ["cat", "dog"]


def test_notes_beside_the_files_are_passed_over(tmp_path):
    write_cifar10(tmp_path)
    for name in ("TERMS.txt", "LICENSE", "README.md", ".hashes.json"):
        (tmp_path / name).touch()
    assert len(open_images(tmp_path).records) == 60


def test_of_the_forms_of_tex_64_pixels_and_the_table_come_first(tmp_path):
    write_tex_groups(tmp_path, size=32)
    assert "matchingtDATASET_train_32.h5" in open_images(tmp_path).records[0].identity
    write_tex(tmp_path, size=32)
    assert "train32.h5" in open_images(tmp_path).records[0].identity
    write_tex_groups(tmp_path)
    assert "matchingtDATASET_train_64.h5" in open_images(tmp_path).records[0].identity
    write_tex(tmp_path)
    assert "train64.h5" in open_images(tmp_path).records[0].identity


def test_two_datasets_in_a_folder_are_refused(tmp_path):
    write_cifar10(tmp_path / "1")
    write_tex(tmp_path / "1/cifar-10-batches-py")
    assert "holds CIFAR-10 pickles" in (message := refusal(tmp_path / "1"))
    assert "and TEX HDF5 files" in message
    write_cifar10_binary(tmp_path / "2")
    (tmp_path / "2/cifar-10-batches-bin/data_batch_1").touch()
    assert "holds CIFAR-10 pickles" in refusal(tmp_path / "2")


def test_two_archives_of_datasets_are_refused(tmp_path):
    for name, write in (("a.tar.gz", write_cifar10), ("b.tar.gz", write_cifar10_binary)):
        packed_by(write, name)(tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw-unpacked")
    open_twice = [refusal_after_extraction(tmp_path / "raw") for _ in range(2)]
    assert open_twice[0] == open_twice[1]
    assert "holds CIFAR-10 pickles" in open_twice[0]
    assert "b.tar.gz" in open_twice[0]


def refusal_after_extraction(folder: Path) -> str:
    with pytest.raises(InputError, match="keep one of them") as error:
        open_images(folder)
    return str(error.value)


def test_a_missing_folder_is_refused(tmp_path):
    assert refusal(tmp_path / "nowhere").endswith("nowhere: no such folder; put the images there")


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (Expected(classes=NEU_CLS[:5]), "class 'Sc' is not published in this dataset"),
        (Expected(classes=(*NEU_CLS, "Zz")), "class 'Zz' is missing in this dataset"),
        (Expected(counts={"all": 300}), "5 images of class 'Cr', but 300 are published"),
        (
            Expected(counts={"all": dict.fromkeys(NEU_CLS, 5) | {"RS": 4}}),
            "5 images of class 'RS', but 4 are published",
        ),
        (Expected(counts={"train": 5}), "holds all images, but only train are published"),
        (Expected(shape=(200, 200)), "20×20 pixels, but 200×200 are published: this is another set of images"),
    ],
)
def test_other_files_than_the_official_ones_are_named(tmp_path, expected, message):
    write_neu_cls(tmp_path)
    assert message in refusal(tmp_path, expected)


def test_neu_cls_64_is_not_taken_for_neu(tmp_path):
    write_neu_cls(tmp_path, size=64)
    message = refusal(tmp_path, Expected(NEU_CLS, {"all": 5}, (200, 200)))
    assert "Cr_1.bmp: 64×64 pixels, but 200×200 are published" in message


def test_the_shape_of_stored_arrays_is_checked(tmp_path):
    write_cifar10(tmp_path)
    assert read_all(tmp_path, Expected(shape=(32, 32)))
    assert "data_batch_1 row 0: 32×32 pixels, but 64×64" in refusal(tmp_path, Expected(shape=(64, 64)))


def test_one_image_of_another_size_is_named(tmp_path):
    from PIL import Image

    Image.fromarray(pixels(1, 21)).save(write_neu_cls(tmp_path) / "Pa_4.bmp")
    assert "Pa_4.bmp: 21×21 pixels" in refusal(tmp_path, Expected(shape=(20, 20)))
