"""Broken miniImageNet pickles, each refused in one line."""

import shutil

import numpy as np
import pytest

from tests.data.published_formats import python2_pickle, write_mini_imagenet
from tests.data.reading import read_all, refusal

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
CLASSES = {"n90": [0, 1], "n91": [2, 3]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"class_dict": CLASSES}, "'image_data' is NoneType, not uint8 (N, 84, 84, 3)"),
        ({"image_data": IMAGES / 255, "class_dict": CLASSES}, "'image_data' is float64 (4, 8, 8, 3)"),
        ({"image_data": IMAGES[..., 0], "class_dict": CLASSES}, "'image_data' is uint8 (4, 8, 8)"),
        ({"image_data": IMAGES[..., :2], "class_dict": CLASSES}, "'image_data' is uint8 (4, 8, 8, 2)"),
        ({"image_data": IMAGES[:0], "class_dict": CLASSES}, "'image_data' is uint8 (0, 8, 8, 3)"),
        ({"image_data": IMAGES}, "'class_dict' is not a dictionary of classes"),
        ({"image_data": IMAGES, "class_dict": {}}, "'class_dict' is not a dictionary of classes"),
        ({"image_data": IMAGES, "class_dict": {"n90": [0, 1], "n91": [2]}}, "row 3: no class lists this image"),
        ({"image_data": IMAGES, "class_dict": {"n90": [0, 1], "n91": [1, 2, 3]}}, "lists an image twice or one of"),
        ({"image_data": IMAGES, "class_dict": {"n90": [0, 0, 1], "n91": [2, 3]}}, "lists an image twice or one of"),
        ({"image_data": IMAGES, "class_dict": CLASSES | {"n92": [4]}}, "class 'n92' does not list rows 0 to 3"),
        ({"image_data": IMAGES, "class_dict": CLASSES | {"n92": [-1]}}, "class 'n92' does not list rows 0 to 3"),
        ({"image_data": IMAGES, "class_dict": CLASSES | {"n92": ["a"]}}, "class 'n92' does not list rows 0 to 3"),
        ({"image_data": IMAGES, "class_dict": CLASSES | {"n92": 7}}, "class 'n92' does not list rows 0 to 3"),
        ({"image_data": IMAGES, "class_dict": CLASSES | {"n92": []}}, "class 'n92' holds no images"),
        ({"image_data": IMAGES, "class_dict": {"n00000000": [0, 1], "n91": [2, 3]}}, "is in another file too"),
    ],
)
def test_wrong_contents_are_named(tmp_path, content, message):
    write_mini_imagenet(tmp_path)
    (tmp_path / "mini-imagenet-cache-test.pkl").write_bytes(python2_pickle(content))
    assert message in refusal(tmp_path)


def test_rows_of_a_class_may_be_an_array(tmp_path):
    write_mini_imagenet(tmp_path)
    content = {"image_data": IMAGES, "class_dict": {"n90": np.array([3, 1]), "n91": np.array([0, 2])}}
    (tmp_path / "mini-imagenet-cache-test.pkl").write_bytes(python2_pickle(content))
    files, _ = read_all(tmp_path)
    assert [files.classes[record.label] for record in files.records[-4:]] == ["n91", "n90", "n91", "n90"]


def test_a_missing_or_doubled_file_is_named(tmp_path):
    write_mini_imagenet(tmp_path)
    shutil.copy(tmp_path / "mini-imagenet-cache-validation.pkl", tmp_path / "mini-imagenet-cache-val.pkl")
    assert "is there twice, mini-imagenet-cache-val.pkl too" in refusal(tmp_path)
    for name in ("validation", "val"):
        (tmp_path / f"mini-imagenet-cache-{name}.pkl").unlink()
    assert "mini-imagenet-cache-validation.pkl: is missing" in refusal(tmp_path)
