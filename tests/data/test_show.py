"""Contact sheets: every image of the draw is there and framed, nothing is drawn over an image."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.data.prepare import load, prepare
from fdl.data.show import write_contact_sheets
from fdl.data.splits import load_split, write_split
from tests.data import published

FRAME = 0x0072B2
TILE = 64  # pixels: an image of 16 enlarged


def packed(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colours as one number: (H, W)."""
    colours: NDArray[np.int32] = image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    return colours


def read(path: Path) -> NDArray[np.int32]:
    with Image.open(path) as sheet:
        return packed(np.asarray(sheet.convert("RGB")))


def found(sheet: NDArray[np.int32], image: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Rows and columns at which an enlarged image lies on the sheet."""
    enlarged = packed(image).repeat(TILE // len(image), axis=0).repeat(TILE // len(image), axis=1)
    rows, columns = np.nonzero(sheet[:-TILE, :-TILE] == enlarged[0, 0])
    return [
        (row, column)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        if (sheet[row : row + TILE, column : column + TILE] == enlarged).all()
    ]


@pytest.mark.parametrize("draw", [0, 1])
def test_the_images_of_the_draw_and_no_others_are_framed(project: Path, draw: int) -> None:
    prepared = published.prepared_bsd(project, count=60)
    params = published.settings(project / "images", "bsd")
    (path,) = write_contact_sheets(params, "bsd", 3, draw)
    assert path == layout.REPORTS / "data/local/bsd-16" / f"3shot-draw{draw}.png"
    split = load_split(layout.split_file(params, "bsd", 3, draw), prepared)
    sheet = read(path)
    others = np.setdiff1d(np.flatnonzero(prepared.pools == 0), split.train)[::4]
    for row in [*split.train.tolist(), *others.tolist()]:
        places = found(sheet, prepared.images[row])
        framed = [bool((sheet[top - 4 : top, left + 5] == FRAME).any()) for top, left in places]
        assert framed == ([True] if row in split.train else [False] * len(places))
    assert sum(len(found(sheet, prepared.images[row])) for row in others) > len(others) // 2


def test_one_image_per_class_is_enough(project: Path) -> None:
    published.prepared_bsd(project, count=2, validation=[])
    (path,) = write_contact_sheets(published.settings(project / "images", "bsd"), "bsd", 2, 0)
    assert (read(path) == FRAME).any()


def test_many_shots_are_shown_in_more_lines_and_all_of_them(project: Path) -> None:
    prepared = published.prepared_bsd(project, count=160, validation=[])
    params = published.settings(project / "images", "bsd")
    sheets = [read(path) for path in write_contact_sheets(params, "bsd", 100, 1)]
    split = load_split(layout.split_file(params, "bsd", 100, 1), prepared)
    for row in split.train[:20]:
        assert sum(len(found(sheet, prepared.images[row])) for sheet in sheets) == 1


def test_many_classes_go_to_several_sheets(project: Path) -> None:
    names = [f"n{label:08d}" for label in range(100)]
    for pool, count, first in (("train", 2, 0), ("validation", 1, 1000), ("test", 1, 2000)):
        rows = [
            (published.encoded(published.pixels(first + 3 * label + number)), None, label)
            for label in range(100)
            for number in range(count)
        ]
        published.write_parquet(project / f"images/miniimagenet/{pool}.parquet", rows, names)
    params = published.settings(project / "images", "miniimagenet")
    prepared = load(prepare(params, "miniimagenet"))
    paths = write_contact_sheets(params, "miniimagenet", 1, 0)
    assert [path.name for path in paths] == [f"1shot-draw0-{number}of5.png" for number in range(1, 6)]
    sheets = [read(path) for path in paths]
    for row in np.flatnonzero((prepared.pools == 0) & (prepared.labels % 33 == 0)):
        assert [len(found(sheet, prepared.images[row])) for sheet in sheets].count(1) == 1


def test_a_long_or_foreign_class_name_stays_in_its_column(project: Path) -> None:
    folder = project / "images/own"
    for name in ("x" * 200, "Größe ≥ 3 mm"):
        for number in range(10):
            (folder / name).mkdir(parents=True, exist_ok=True)
            content = published.encoded(published.pixels(number + 100 * len(name)))
            (folder / name / f"{number}.png").write_bytes(content)
    own = {"name": "mine", "folder": str(folder), "image_size": 16, "like": "neu"}
    params = published.settings(project / "images", "mine", datasets=[own])
    prepared = load(prepare(params, "mine"))
    (path,) = write_contact_sheets(params, "mine", 2, 0)
    assert path.parent == layout.REPORTS / "data/own/mine-16"
    sheet = read(path)
    for row in np.flatnonzero(prepared.pools == 0):
        assert len(found(sheet, prepared.images[row])) == 1  # nothing is written over it


def test_equal_images_give_equal_bytes(project: Path) -> None:
    published.prepared_bsd(project)
    params = published.settings(project / "images", "bsd")
    first = write_contact_sheets(params, "bsd", 2, 0)[0].read_bytes()
    assert write_contact_sheets(params, "bsd", 2, 0)[0].read_bytes() == first


def test_what_is_not_prepared_is_said(project: Path) -> None:
    with pytest.raises(InputError, match="data prepare"):
        write_contact_sheets(published.settings(project / "images", "bsd"), "bsd", 2, 0)


def test_a_draw_of_older_images_is_refused(project: Path) -> None:
    published.prepared_bsd(project)
    params = published.settings(project / "images", "bsd")
    write_split(params, "bsd", 2, 0)
    published.prepared_bsd(project, count=25)
    with pytest.raises(InputError, match="drawn from other images"):
        write_contact_sheets(params, "bsd", 2, 0)
