"""Image files in folders: class folders, and files named by class and number."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from fdl.core.errors import InputError
from fdl.data.formats import Expected, open_images
from tests.data.published import encoded, noise_rows, pixels, write_parquet
from tests.data.reading import refusal


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def write_folder(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels(seed), path.suffix.lstrip(".").upper().replace("JPG", "JPEG")))


def test_class_folders_are_read_in_natural_order(tmp_path):
    write_folder(tmp_path, ["P/P (10).png", "P/P (9).png", "P/P (1).bmp", "N/b.jpg", "N/a.webp", "N/c.jpeg"])
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "N" / "Thumbs.db").touch()
    files = open_images(tmp_path)
    assert files.classes == ["N", "P"]
    assert [record.identity for record in files.records] == [
        *("N/a.webp", "N/b.jpg", "N/c.jpeg"),
        *("P/P (1).bmp", "P/P (9).png", "P/P (10).png"),
    ]
    assert {record.pool for record in files.records} == {"all"}
    third = list(files.contents())[5]
    assert third == (tmp_path / "P/P (10).png").read_bytes()


def test_pool_folders_keep_their_pools(tmp_path):
    write_folder(tmp_path, ["test/a/1.png", "test/b/1.png", "train/a/1.png", "train/a/2.png", "train/b/1.png"])
    files = open_images(tmp_path)
    assert [(record.pool, record.label) for record in files.records] == [
        *(("train", 0), ("train", 0), ("train", 1)),
        *(("test", 0), ("test", 1)),
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/1.png", "b.png"], "b.png: an image that lies in no class folder; labels come from folders"),
        (["train/a/1.png", "val/a/1.png", "validation/a/1.png"], "'val' and 'validation' both mean validation images"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png"], "test/b: no such folder, but the class 'b' has one"),
        (["a/1.png", "b/deep/1.png"], "b/deep: a folder within the class 'b'"),
    ],
)
def test_other_folder_layouts_are_refused(tmp_path, names, expected):
    write_folder(tmp_path, names)
    with pytest.raises(InputError) as error:
        open_images(tmp_path)
    assert expected in one_line(error)


TRAIN_AND_TEST = ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"]
CLASSES = ["a/1.png", "b/1.png"]


@pytest.mark.parametrize(
    ("names", "beside", "expected"),
    [
        (CLASSES, "labels.csv", "/labels.csv: no class folder, and no labels are read from it; move it away"),
        (CLASSES, "dataset_infos.json", "/dataset_infos.json: no class folder"),
        (CLASSES, "photos.zip", "/photos.zip: an archive beside 'a'"),
        (CLASSES, "photos.7z", "/photos.7z: an archive of a kind that is not read; unpack it"),
        (CLASSES, "photos.parquet", "/photos.parquet: not called train, validation or test"),
        (CLASSES, "LICENSE.png", "/LICENSE.png: an image that lies in no class folder"),
        (CLASSES, "train/1.png", "/a: lies beside 'train', a word reserved for the images of one pool"),
        (CLASSES, "Testing/1.png", "/a: lies beside 'Testing', a word reserved"),
        (CLASSES, "A/1.png", "'A' and 'a' differ only in case"),
        (TRAIN_AND_TEST, "others/a/1.png", "/others: lies beside 'test'"),
        (TRAIN_AND_TEST, "train/labels.csv", "train/labels.csv: no class folder"),
        (TRAIN_AND_TEST, "test/c/1.png", "train/c: no such folder, but the class 'c' has one elsewhere"),
        (TRAIN_AND_TEST, "test/b/photo.heic", "test/b/photo.heic: not one of .png"),
        (["train.parquet", "test.parquet"], "more.parquet", "/more.parquet: not called train, validation or test"),
        (["train.parquet", "test.parquet"], "a/1.png", "/a: lies beside parquet files (test.parquet)"),
        (["data/train.parquet"], "dataset_infos.json", "/dataset_infos.json: no class folder"),
        (["data_batch_1", "batches.meta"], "data_batch_6", "/data_batch_6: lies beside CIFAR-10 pickles"),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_nothing_that_lies_there_is_passed_over_in_silence(tmp_path, names, beside, expected, own):
    for name in [*names, beside]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(pixels(1)))
    with pytest.raises(InputError) as error:
        open_images(tmp_path, own=own)
    assert expected in one_line(error)


def test_what_systems_and_tools_leave_behind_is_no_image_and_no_class(tmp_path):
    write_folder(tmp_path, CLASSES)
    left = (".DS_Store", "a/._1.png", "a/Thumbs.db", "desktop.ini", "@eaDir/1.png", "__MACOSX/1.png", "a/@eaDir/1.png")
    for name in (*left, ".ipynb_checkpoints/1.png", "LICENSE", "README.dataset.txt", "CITATION.cff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [record.identity for record in open_images(tmp_path, own=True).records] == CLASSES


def test_a_class_may_be_called_like_a_note(tmp_path):
    write_folder(tmp_path, ["README/1.png", "license plate/1.png", "Terms/1.png"])
    assert open_images(tmp_path, own=True).classes == ["README", "Terms", "license plate"]


@pytest.mark.parametrize(
    "names",
    [
        [f"photos/{name}" for name in TRAIN_AND_TEST],
        [name.replace("train", "Training").replace("test", "Testing") for name in TRAIN_AND_TEST],
        [name.replace("/", "/images/", 1) for name in TRAIN_AND_TEST],
    ],
)
def test_wrappers_are_entered_and_other_names_of_pools_understood(tmp_path, names):
    write_folder(tmp_path, names)
    files = open_images(tmp_path, own=True)
    assert files.classes == ["a", "b"]
    assert [record.pool for record in files.records] == ["train", "train", "test", "test"]


def test_no_class_of_a_users_own_is_made_of_the_names_of_files(tmp_path):
    write_folder(tmp_path, ["Cr_1.bmp", "Cr_2.bmp", "In_1.bmp"])
    assert open_images(tmp_path).classes == ["Cr", "In"]
    with pytest.raises(InputError, match=r"Cr_1.bmp: an image that lies in no class folder; labels come from folders"):
        open_images(tmp_path, own=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"gro\xdf", r": the name 'gro\xdf' in it is not UTF-8"),
        (b"a/gr\xfcn.png", r"/a: the name 'gr\xfcn.png' in it is not UTF-8"),
        (b"b/two\nlines.png", r"/b: the name 'two\nlines.png' in it holds a control character"),
    ],
)
def test_names_that_no_file_could_store_are_refused_at_the_start(tmp_path, name, expected):
    write_folder(tmp_path, CLASSES)
    path = os.path.join(os.fsencode(tmp_path), name)
    if name.endswith(b".png"):
        with open(path, "wb") as file:
            file.write(encoded(pixels(3)))
    else:
        os.mkdir(path)
    with pytest.raises(InputError) as error:
        open_images(tmp_path, own=True)
    assert expected in one_line(error)


def test_classes_that_differ_only_in_how_unicode_writes_them_are_refused(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    write_folder(tmp_path, [f"train/{composed}/1.png", "train/b/1.png", f"test/{decomposed}/1.png", "test/b/1.png"])
    with pytest.raises(InputError, match="only Unicode's way to write it differs"):
        open_images(tmp_path, own=True)


def test_nothing_is_written_beside_the_archives_of_a_user(tmp_path):
    write_folder(tmp_path / "work", CLASSES)
    shutil.make_archive(str(tmp_path / "share/photos"), "zip", tmp_path / "work")
    unpacked = tmp_path / "data/extracted"
    assert open_images(tmp_path / "share", own=True, unpacked=unpacked).classes == ["a", "b"]
    assert [path.name for path in (tmp_path / "share").iterdir()] == ["photos.zip"]
    assert (unpacked / "photos.zip/a/1.png").is_file()


def test_empty_folders_and_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images; expected a folder per class"):
        open_images(tmp_path)
    write_folder(tmp_path, ["a/1.png"])
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="b: the class holds no images"):
        open_images(tmp_path)
    write_parquet(tmp_path / "files/train.parquet", noise_rows(2, 1), ["a", "b", "c"])
    with pytest.raises(InputError, match="class 'c' holds no images"):
        open_images(tmp_path / "files")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Cr_1.bmp", "notes.txt"], "notes.txt: not an image named by class and number"),
        (["Cr_1.bmp", "In_one.bmp"], "In_one.bmp: not an image named by class and number"),
        (["Cr_1.bmp", "Cr_1.png"], "Cr_1 is there twice"),
    ],
)
def test_odd_files_between_numbered_images_are_named(tmp_path, names, message):
    write_folder(tmp_path, [name for name in names if name != "notes.txt"])
    if "notes.txt" in names:
        (tmp_path / "notes.txt").touch()
    assert message in refusal(tmp_path)


def test_numbered_images_are_read_by_class_and_number(tmp_path):
    write_folder(tmp_path, ["rolled-in_scale_10.jpg", "rolled-in_scale_9.jpg", "crazing_2.jpg"])
    files = open_images(tmp_path)
    assert files.classes == ["crazing", "rolled-in_scale"]
    assert [record.identity for record in files.records] == [
        *("crazing_2.jpg", "rolled-in_scale_9.jpg", "rolled-in_scale_10.jpg")
    ]


def test_a_rotated_copy_follows_its_original(tmp_path):
    write_folder(tmp_path, ["P (2).png", "P (2)_.png", "P (10).png", "N (1).png"])
    identities = [record.identity for record in open_images(tmp_path).records]
    assert identities == ["N (1).png", "P (2).png", "P (2)_.png", "P (10).png"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html>",
        encoded(pixels(5, 64))[:3000],
        encoded(pixels(5, 64), "TGA"),
        encoded(pixels(5, 64)).replace(b"IDAT", b"IDAX"),
        encoded(pixels(5, 64))[:16] + b"\x7f\xff\xff\xff" * 2 + encoded(pixels(5, 64))[24:],
    ],
    ids=["empty", "a web page", "cut short", "a TGA", "damaged", "of absurd size"],
)
def test_unreadable_images_are_named(tmp_path, content):
    write_folder(tmp_path, ["a/1.png", "b/1.png"])
    (tmp_path / "b/2.png").write_bytes(content)
    assert "b/2.png: not a readable image" in refusal(tmp_path)
    assert "b/2.png: " in refusal(tmp_path, Expected(shape=(16, 16)))


@pytest.mark.parametrize(
    ("make", "what"),
    [(os.mkfifo, "no file"), (lambda path: path.symlink_to("nowhere.png"), "a link to nothing")],
)
def test_what_only_has_the_name_of_an_image_is_named(tmp_path, make, what):
    write_folder(tmp_path, ["a/1.png", "b/1.png"])
    make(tmp_path / "b/2.png")
    assert f"b/2.png: {what}; replace it by an image or remove it" in refusal(tmp_path)
