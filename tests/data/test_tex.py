"""Broken TEX files, each refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fdl.data.formats import open_images
from tests.data.published_formats import write_tex, write_tex_groups
from tests.data.reading import read_all, refusal

FLOATS = np.zeros((24, 64, 64, 1), np.float32)


def external(file: Any) -> None:
    file.create_dataset("images", FLOATS.shape, "f4", external=[("elsewhere.bin", 0, FLOATS.nbytes)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout(FLOATS.shape, "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "images", FLOATS.shape)
    file.create_virtual_dataset("images", layout)


def reference(file: Any) -> None:
    file.create_dataset("images", (24, 4, 4), h5py.ref_dtype)


def bomb(file: Any) -> None:
    file.create_dataset("images", (2**34, 64, 64, 1), "f4", chunks=(1, 64, 64, 1), compression="gzip")


def bomb_in_a_chunk(file: Any) -> None:
    file.create_dataset("images", (90_000, 64, 64, 1), "f4", chunks=(90_000, 64, 64, 1), compression="gzip")


def stored(values: Any) -> Callable[[Any], None]:
    return lambda file: file.create_dataset("images", data=values)


def changed(row: int, value: float) -> Any:
    images = FLOATS.copy()
    images[row, 5, 6, 0] = value
    return images


def nothing(file: Any) -> None:
    """A file without a key."""


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (nothing, "no 'images' (it has nothing)"),
        (lambda file: file.create_dataset("pixels", data=FLOATS), "no 'images' (it has pixels)"),
        (lambda file: file.create_group("images"), "'images' is not an array of grey images"),
        (stored(0.5), "'images' is not an array of grey images"),
        (stored(FLOATS.repeat(3, axis=3)), "'images' is not an array of grey images"),
        (stored(FLOATS.ravel()), "'images' is not an array of grey images"),
        (stored(FLOATS[:0]), "'images' is not an array of grey images"),
        (stored(FLOATS.astype(np.int16)), "'images' holds int16, not floats or bytes"),
        (stored(FLOATS.astype("S4")), "'images' holds |S4, not floats or bytes"),
        (reference, "'images' holds object, not floats or bytes"),
        (stored(FLOATS[:20]), "index '20' is not one of 0 to 19"),
        (stored(FLOATS[[*range(24), 0]]), "no line for image 24 of train64.h5"),
        (stored(changed(3, 1.5)), "train64.h5 images row 3: holds values outside 0 to 1"),
        (stored(changed(7, -0.1)), "train64.h5 images row 7: holds values outside 0 to 1"),
        (stored(changed(9, np.nan)), "train64.h5 images row 9: holds values outside 0 to 1"),
        (external, "'images' lies in another file"),
        (virtual, "'images' lies in another file"),
        (lambda file: file.__setitem__("images", h5py.ExternalLink("elsewhere.h5", "/images")), "'images' is a link"),
        (lambda file: file.__setitem__("images", h5py.SoftLink("/images")), "'images' is a link"),
        (bomb, "'images' has the absurd size (17179869184, 64, 64, 1)"),
        (bomb_in_a_chunk, "'images' has the absurd size (90000, 64, 64, 1)"),
    ],
)
def test_wrong_files_are_named(tmp_path, write, message):
    write_tex(tmp_path)
    with h5py.File(tmp_path / "train64.h5", "w") as file:
        write(file)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "no column 'index'"),
        (lambda text: text.replace("indication_type", "kind"), "no column 'indication_type'"),
        (lambda text: "".join(text.splitlines(keepends=True)[:-1]), "no line for image 23 of train64.h5"),
        (lambda text: text + "24,24,0,good,0,train\n", "line 26: index '24' is not one of 0 to 23"),
        (lambda text: text + "3,3,0,good,0,train\n", "line 26: index '3' is not one of 0 to 23 once"),
        (lambda text: text.replace("3,3,0,good", "3,-3,0,good"), "line 5: index '-3' is not one of"),
        (lambda text: text.replace("3,3,0,good", "3,three,0,good"), "line 5: index 'three' is not one of"),
        (lambda text: text.replace("3,3,0,good,0", "3,3,0,good,1"), "line 5: class 'good' has another number"),
        (lambda text: text.replace("3,3,0,good,0", "3,3,0,,0"), "line 5: class '' has another number"),
        (lambda text: text.replace("thread,4", "thread,3"), "two of the classes good, color, cut"),
        (lambda text: text.replace("good", '"go'), "not a readable table"),
    ],
)
def test_wrong_labels_are_named(tmp_path, change, message):
    write_tex(tmp_path)
    table = tmp_path / "train64.csv"
    table.write_text(change(table.read_text()))
    assert message in refusal(tmp_path)


def test_a_table_that_is_no_text_is_named(tmp_path):
    (write_tex(tmp_path) / "test64.csv").write_bytes(b"index,\xff\xfe")
    assert "test64.csv: not a readable table" in refusal(tmp_path)


def test_rows_of_the_table_may_come_in_any_order(tmp_path):
    files, images = read_all(write_tex(tmp_path), size=64)
    lines = (tmp_path / "train64.csv").read_text().splitlines(keepends=True)
    (tmp_path / "train64.csv").write_text("".join([lines[0], *reversed(lines[1:])]))
    again, images_again = read_all(tmp_path, size=64)
    labels = [[found.classes[record.label] for record in found.records] for found in (files, again)]
    assert labels[0] == labels[1]
    np.testing.assert_array_equal(images, images_again)


def test_bytes_are_read_as_they_are(tmp_path):
    write_tex(tmp_path)
    with h5py.File(tmp_path / "train64.h5", "w") as file:
        file["images"] = np.full((24, 64, 64), 77, np.uint8)
    assert (np.array(read_all(tmp_path)[1][:24]) == 77).all()


def test_tables_that_a_spreadsheet_program_saved_are_read(tmp_path):
    write_tex(tmp_path)
    before = open_images(tmp_path).records
    for name in ("train64.csv", "test64.csv"):
        text = (tmp_path / name).read_text().replace(",", ";").replace("\n", "\r\n")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert open_images(tmp_path).records == before


@pytest.mark.parametrize("name", ["train64.csv", "test64.csv", "test64.h5"])
def test_a_missing_file_is_named(tmp_path, name):
    (write_tex(tmp_path) / name).unlink()
    assert f"{name}: no such file" in refusal(tmp_path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut_short, lambda path: path.write_bytes(b""), lambda path: path.write_text("<!")])
def test_a_damaged_file_is_named(tmp_path, damage):
    damage(write_tex(tmp_path) / "test64.h5")
    assert "test64.h5: not a readable HDF5 file" in refusal(tmp_path)
    (tmp_path / "groups").mkdir()
    damage(write_tex_groups(tmp_path / "groups") / "matchingtDATASET_train_64.h5")
    assert "matchingtDATASET_train_64.h5: not a readable HDF5 file" in refusal(tmp_path / "groups")


def test_a_damaged_chunk_is_named(tmp_path):
    write_tex(tmp_path)
    noise = np.random.default_rng(0).random((24, 64, 64, 1)).astype(np.float32)
    with h5py.File(tmp_path / "train64.h5", "w") as file:
        images = file.create_dataset("images", data=noise, chunks=(1, 64, 64, 1), compression="gzip", fletcher32=True)
        place = images.id.get_chunk_info(20).byte_offset
    content = bytearray((tmp_path / "train64.h5").read_bytes())
    content[place + 100 : place + 200] = bytes(100)
    (tmp_path / "train64.h5").write_bytes(content)
    assert "train64.h5: not a readable HDF5 file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.create_dataset("sand", data=FLOATS), "'sand' is not a group of angles"),
        (lambda file: file.create_group("cut/40"), "'cut/40' holds 0 arrays, not one"),
        (lambda file: file.create_dataset("cut/40", data="text"), "'cut/40' is not an array of grey images"),
        (lambda file: file["cut"].__setitem__("40", h5py.ExternalLink("x.h5", "/")), "'cut/40' is a link"),
        (lambda file: file.__setitem__("sand", h5py.SoftLink("/cut")), "'sand' is a link"),
    ],
)
def test_wrong_groups_are_named(tmp_path, write, message):
    write_tex_groups(tmp_path)
    with h5py.File(tmp_path / "matchingtDATASET_test_64.h5", "a") as file:
        write(file)
    if ("sand" in message and "no images" in message) or not message:
        assert len(read_all(tmp_path)[0].records) >= 48
    else:
        assert message in refusal(tmp_path)


def test_a_group_file_without_a_group_is_refused(tmp_path):
    write_tex_groups(tmp_path)
    for name in ("train", "test"):
        h5py.File(tmp_path / f"matchingtDATASET_{name}_64.h5", "w").close()
    assert "holds no images" in refusal(tmp_path)
