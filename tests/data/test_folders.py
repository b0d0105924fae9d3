"""Image files in folders: class folders, and files named by class and number."""

import os
from pathlib import Path

import pytest

from fdl.data.formats import Expected, open_images
from fdl.errors import InputError
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


def test_a_pipe_is_no_image(tmp_path):
    write_folder(tmp_path, ["a/1.png", "b/1.png"])
    os.mkfifo(tmp_path / "b/2.png")
    assert "b/2.png: not one of .png" in refusal(tmp_path)
