"""Folders: images of another source, size or resizing never lie in the same one."""

from fdl.core import layout
from tests.projects import BOLTS, tiny


def test_the_folder_says_what_its_images_are():
    def folder(**overrides):
        return layout.prepared_folder(tiny(**overrides), "bsd").as_posix()

    assert folder(image_size=None) == "data/prepared/local/bsd"
    assert folder(image_size=100) == "data/prepared/local/bsd"
    assert folder() == "data/prepared/local/bsd-32"
    assert folder(source="official", antialias=True) == "data/prepared/official/bsd-32-aa"
    assert folder(image_size=None, antialias=True) == "data/prepared/local/bsd-aa"


def test_own_images_lie_apart_whatever_the_source():
    params = tiny(datasets=["bsd", BOLTS], source="synthetic")
    assert layout.prepared_folder(params, "bolts").as_posix() == "data/prepared/own/bolts-32"
    assert layout.split_file(params, "bolts", 3, 1).as_posix() == "data/splits/own/bolts-32/3shot/draw1.json"
    assert layout.split_file(params, "bsd", 3, 1).as_posix() == "data/splits/synthetic/bsd-32/3shot/draw1.json"


def test_the_authors_size_of_the_dataset_that_own_images_are_like_is_not_theirs():
    params = tiny(datasets=[BOLTS | {"image_size": 200}])
    assert layout.dataset_name(params, "bolts") == "bolts-200"
