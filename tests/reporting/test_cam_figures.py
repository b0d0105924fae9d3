"""The figures of maps: which cells and images they show, what they say of them, the same bytes twice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from pandas import DataFrame

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Params
from fdl.evaluation.overlay import ALPHA, COLOURS, IMAGES, SIDE, enlarged
from fdl.reporting.cam_figures import cam_caption, cam_figure, descriptor_caption, descriptor_figure
from fdl.reporting.drawing import DPI, save_picture
from fdl.reporting.panels import Rows, Sheet, Text, _font, read_rows
from fdl.reporting.record_figures import cam_overlap
from fdl.reporting.results import Results
from fdl.reporting.targets import targets
from fdl.results import records
from fdl.results.collect import CellState, Collected
from tests.reporting.fabricate import facts_of_all, invented, small_grid

CLASSES = ("no pitting", "pitting", "metal_contamination and more")
WARNING = "Synthetic images: the numbers say nothing about the method."


def collected(
    params: Params, *, undone: Sequence[str] = (), synthetic: bool = False, classes: tuple[str, ...] = CLASSES[:2]
) -> Collected:
    """The grid, all of it done but for these keys."""
    states = [CellState(cell, "failed" if cell.key in undone else "done", "settings") for cell in params.cells()]
    return Collected(states, facts_of_all(params, synthetic=synthetic, classes=classes, test=4))


def write(params: Params, **by_method: dict[str, Any]) -> None:
    """A `cam.npz` in every cell's folder."""
    for cell in params.cells():
        folder = layout.record_folder(params, cell)
        temporary = records.fresh_folder(folder)
        np.savez(temporary / "cam.npz", **by_method.get(cell.method, invented()))
        records.publish(temporary, folder, {"key": cell.key})


def read(params: Params, found: Collected) -> Rows | None:
    return read_rows(Results(params, found, DataFrame()), "neu", "alexnet")


def draw(params: Params, **options: Any) -> tuple[Sheet, str]:
    found = collected(params, **options)
    rows = read(params, found)
    return cam_figure(found, "neu", "alexnet", rows), cam_caption(found, rows)


def draw_descriptors(params: Params) -> tuple[Sheet, str]:
    found = collected(params)
    rows = read(params, found)
    return descriptor_figure(found, "neu", "alexnet", rows), descriptor_caption(found, rows)


def texts(sheet: Sheet) -> list[str]:
    return [text.text for text in sheet.texts]


def lines(sheet: Sheet) -> list[list[str]]:
    """The texts line by line, from the left: titles, headings, labels below the panels, scale."""
    heights = sorted({round(text.y, 3) for text in sheet.texts if not text.upwards})
    by_line = [[text for text in sheet.texts if not text.upwards and round(text.y, 3) == y] for y in heights]
    return [[text.text for text in sorted(line, key=lambda text: text.x)] for line in by_line]


def labels(sheet: Sheet) -> list[str]:
    """What stands at the left of the lines of maps, from the top."""
    return [text.text for text in sorted(sheet.texts, key=lambda text: text.y) if text.upwards]


def panel(sheet: Sheet, column: str, line: int) -> np.ndarray:
    """The dots of a panel below a heading; `line` counts the lines of maps."""
    (heading,) = [text for text in sheet.texts if text.text == column]
    middle = sorted(text.y for text in sheet.texts if text.upwards)[line]
    y, x = round(middle * DPI - SIDE / 2), round(heading.x * DPI - SIDE / 2)
    return sheet.canvas[y : y + SIDE, x : x + SIDE]


def test_a_figure_per_dataset_and_backbone() -> None:
    params = small_grid(datasets=["neu", "tex"], backbones=["alexnet", "vgg"])
    for maker in ("cam", "descriptors"):
        subjects = {target.name: target.subject for target in targets(params) if target.maker == maker}
        assert len(subjects) == 4
        assert subjects[f"{maker}_tex_vgg"] == ("tex", "vgg")


@pytest.mark.parametrize(
    ("undone", "expected"),
    [
        ([], "5shot seed0"),
        (["neu/alexnet/5shot/fdl/seed0"], "5shot seed1"),
        (["neu/alexnet/5shot/fdl/seed0", "neu/alexnet/5shot/classical/seed1"], "3shot seed0"),
    ],
)
def test_the_most_shots_and_the_first_seed_with_both_methods(project: Path, undone: list[str], expected: str) -> None:
    params = small_grid()
    write(params)
    rows = read(params, collected(params, undone=undone))
    assert rows is not None
    assert [cell.method for cell in rows.cells] == ["classical", "fdl"]
    assert {f"{cell.shots}shot seed{cell.seed}" for cell in rows.cells} == {expected}


def test_the_baseline_stands_above_whatever_the_order_of_the_methods(project: Path) -> None:
    params = small_grid(methods=["fdl", "classical"])
    write(params)
    assert labels(draw(params)[0]) == ["classical", "FDL"] * 2


def test_panels_name_classes_and_predictions(project: Path) -> None:
    params = small_grid()
    write(params)
    sheet, _ = draw(params)
    _, headings, *rest = lines(sheet)
    assert headings == ["test image", "member 0", "member 1"]
    assert [line for line in rest if line != ["empty"]][:4] == [
        ["no pitting", "✓ no pitting", "✓ no pitting"],
        ["✓ no pitting", "✓ no pitting"],
        ["pitting", "✓ pitting", "✗ no pitting"],
        ["✓ pitting", "✗ no pitting"],
    ]
    colours = {text.text: text.colour for text in sheet.texts}
    assert colours["✗ no pitting"] != colours["✓ pitting"]


def test_maps_lie_on_their_image_on_one_scale_and_empty_ones_say_so(project: Path) -> None:
    params = small_grid()
    arm, other = invented(), invented()
    other["maps_predicted"] = other["maps_predicted"] / 2  # its maximum is half: so it must look
    write(params, classical=arm, fdl=other)
    sheet, _ = draw(params)
    image = enlarged(arm["pixels"][0])
    assert np.array_equal(panel(sheet, "test image", 0), image)
    grey = image @ np.array([0.299, 0.587, 0.114]) / 255
    for line, top in ((0, 1.0), (1, 0.5)):
        maps = panel(sheet, "member 0", line)
        corner, far = ALPHA * np.array(colormaps[COLOURS](top)[:3]), ALPHA * np.array(colormaps[COLOURS](0.0)[:3])
        assert maps[0, 0] == pytest.approx(255 * (corner + (1 - ALPHA) * grey[0, 0]), abs=1)
        assert maps[-1, -1] == pytest.approx(255 * (far + (1 - ALPHA) * grey[-1, -1]), abs=1)
    assert texts(sheet).count("empty") == 2 * 2  # member 1, of two images and two methods
    assert {text.x for text in sheet.texts if text.text == "empty"} == {
        text.x for text in sheet.texts if text.text == "member 1"
    }


def test_a_few_images_at_most_and_long_names_are_cut(project: Path) -> None:
    params = small_grid(shots=[3], seeds=[0])
    write(params, **dict.fromkeys(("classical", "fdl"), invented(classes=6)))
    sheet, caption = draw(params, classes=(*CLASSES, "d", "e", "f"))
    assert [text.text for text in sheet.texts if text.bold][1:] == ["no pitting", "pitting", "metal_contamina…"]
    assert len(labels(sheet)) == 2 * IMAGES
    assert f"each of the first {IMAGES} classes" in caption


@pytest.mark.parametrize(
    ("votes", "expected", "none_agreed"),
    [
        ({"classical": [0, 0, 1, 1], "fdl": [0, 0, 1, 1]}, [0, 2], False),
        ({"classical": [1, 0, 0, 1], "fdl": [0, 0, 1, 1]}, [1, 3], False),
        ({"classical": [0, 1, 0, 0], "fdl": [1, 0, 1, 0]}, [0, 2], True),  # no image that both know: the first
        ({"classical": [1, 0, 0, 1]}, [0, 2], True),  # an older record beside it, without votes
    ],
)
def test_the_first_image_of_a_class_that_all_methods_get_right(
    project: Path, votes: dict[str, list[int]], expected: list[int], none_agreed: bool
) -> None:
    params = small_grid()
    arms = {}
    for method in ("classical", "fdl"):
        arm = invented(classes=4)
        arm |= {"labels": np.array([0, 0, 1, 1]), "predicted": arm["predicted"] // 2}
        arms[method] = arm | ({"voted": np.array(votes[method])} if method in votes else {})
    write(params, **arms)
    sheet, caption = draw(params)
    for line, image in zip((0, 2), expected, strict=True):
        assert np.array_equal(panel(sheet, "test image", line), enlarged(arm["pixels"][image]))
    assert "It is the first of at most 2 that the soft votes of all methods get right, or (*) the first." in caption
    marked = [text.text.startswith("* ") for text in sheet.texts if text.bold][1:]
    assert marked == [none_agreed] * 2


def test_of_an_older_record_with_fewer_images_those_of_both_are_shown(project: Path) -> None:
    params = small_grid()
    new = invented(classes=4)
    new |= {"labels": np.array([0, 0, 1, 1]), "predicted": new["predicted"] // 2, "voted": np.array([1, 0, 0, 1])}
    old = {name: value for name, value in new.items() if name != "voted"}
    for name in ("labels", "positions", "pixels"):
        old[name] = old[name][[0, 2]]
    for name in ("maps_true", "maps_predicted", "descriptors", "descriptor_mask", "predicted"):
        old[name] = old[name][:, [0, 2]]
    write(params, classical=old, fdl=new)
    sheet, caption = draw(params)
    for line, image in zip((0, 2), (0, 2), strict=True):
        assert np.array_equal(panel(sheet, "test image", line), enlarged(new["pixels"][image]))
    assert "It is the first of its class." in caption


def test_the_caption_gives_the_overlap_without_what_either_method_leaves_out(project: Path) -> None:
    params = small_grid()
    one, other = invented(members=3), invented(members=3)
    one["cosines"][:, 0], other["cosines"][:, 0] = 0.9, 0.8
    empty = np.zeros((3, 4), bool)
    empty[2] = True  # pairs 02 and 12 on all images
    one["empty"] = np.packbits(empty, axis=-1)
    other["cosines"][1:] = 0  # would count if only its own empty maps were left out
    write(params, classical=one, fdl=other)
    _, caption = draw(params)
    assert "over 4 test images: classical 0.60, FDL 0.57; 66.7 % of pairs left out" in caption
    assert "5 training images per class, seed 0. A test image of each class;" in caption
    distribution = cam_overlap(Results(params, collected(params), DataFrame()))
    assert distribution.axes[0].get_title().splitlines()[1] == "67 % of pairs left out"


def test_without_any_pair_the_caption_gives_no_overlap(project: Path) -> None:
    params = small_grid()
    write(params, **dict.fromkeys(("classical", "fdl"), invented(members=1)))
    assert "overlap" not in draw(params)[1]


def test_descriptors_stand_above_what_the_loss_keeps_of_them(project: Path) -> None:
    params = small_grid()
    write(params)
    sheet, caption = draw_descriptors(params)
    assert labels(sheet) == ["classical", "classical, masked", "FDL", "FDL, masked"] * 2
    whole, masked = (panel(sheet, "member 0", line) for line in (0, 1))
    # Cells of 0.25 beside a peak of 1.25: they show in the whole descriptor, and are 0 where the mask drops them.
    grey = enlarged(invented()["pixels"][0])[-1, -1] @ np.array([0.299, 0.587, 0.114]) / 255
    for dots, value in ((whole, 0.25 / 1.25), (masked, 0)):
        expected = 255 * (ALPHA * np.array(colormaps[COLOURS](value)[:3]) + (1 - ALPHA) * grey)
        assert dots[-1, -1] == pytest.approx(expected, abs=2)
    assert "the cells at or below its mean set to 0" in caption


@pytest.mark.parametrize(
    ("methods", "images"), [(["fdl"], 2), (["fdl", "gncl", "cka"], 1), (["fdl", "gncl", "cka", "smd", "fdl-cosine"], 1)]
)
def test_descriptors_of_many_methods_stay_on_a_page(project: Path, methods: list[str], images: int) -> None:
    params = small_grid(shots=[3], seeds=[0], methods=["classical", *methods])
    write(params, **dict.fromkeys(params.methods, invented(classes=3)))
    sheet, caption = draw_descriptors(params)
    assert sheet.height <= 10.2 + 1e-9
    assert len(labels(sheet)) == 2 * (1 + len(methods)) * images
    assert ("A test image of the first class;" in caption) is (images == 1)
    lowest = max(text.y for text in sheet.texts if text.upwards)
    assert lowest < sheet.height - 0.5  # above the colour bar
    assert sheet.picture().size[1] == sheet.canvas.shape[0]


def test_records_without_descriptors_say_how_to_get_them(project: Path) -> None:
    params = small_grid()
    old = {name: value for name, value in invented().items() if not name.startswith("descriptor")}
    write(params, classical=old, fdl=old)
    sheet, caption = draw_descriptors(params)
    assert any("no descriptors" in text for text in texts(sheet))
    assert "python -m fdl cam" in caption


def test_synthetic_images_are_marked(project: Path) -> None:
    params = small_grid()
    write(params)
    sheet, caption = draw(params, synthetic=True)
    assert WARNING in texts(sheet)
    assert WARNING in caption
    assert "NEU (synthetic) · AlexNet · 5 images per class · seed 0" in texts(sheet)
    assert lines(draw(params)[0])[0] == ["NEU · AlexNet · 5 images per class · seed 0"]


def test_without_results_the_figure_says_so() -> None:
    params = small_grid()
    sheet, caption = draw(params, undone=[cell.key for cell in params.cells()])
    assert texts(sheet) == ["NEU · AlexNet", "no results"]
    assert "No finished cells" in caption


def test_a_record_without_maps_or_with_maps_of_other_images_is_refused(project: Path) -> None:
    params = small_grid()
    with pytest.raises(InputError, match=r"cam\.npz: missing.*run the bundle again"):
        read(params, collected(params))
    other = invented()
    other["pixels"] = other["pixels"][::-1]
    write(params, fdl=other)
    with pytest.raises(InputError, match="maps of different test images"):
        read(params, collected(params))


def box(text: Text) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a text in dots."""
    left, top, right, bottom = _font(text.size, text.bold).getbbox(text.text, anchor="mm")
    if text.upwards:
        left, top, right, bottom = top, left, bottom, right
    return text.x * DPI + left, text.y * DPI + top, text.x * DPI + right, text.y * DPI + bottom


@pytest.mark.parametrize("members", [1, 2, 5])
def test_no_text_is_cut_or_meets_another(project: Path, members: int) -> None:
    params = small_grid()
    write(params, **dict.fromkeys(("classical", "fdl"), invented(members=members)))
    sheet, _ = draw(params, synthetic=True, classes=("w" * 17, "no pitting at all"))
    boxes = [box(text) for text in sheet.texts]
    height, width, _ = sheet.canvas.shape
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and top >= 0 and right <= width and bottom <= height, sheet.texts[number]  # noqa: PT018
        for other, (left2, top2, right2, bottom2) in enumerate(boxes[:number]):
            apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
            assert apart, (sheet.texts[number], sheet.texts[other])


def test_saved_twice_the_bytes_are_equal(project: Path) -> None:
    params = small_grid()
    write(params)
    for name in ("one", "other"):
        save_picture(draw(params)[0].picture(), project / name)
    assert (project / "one.png").read_bytes() == (project / "other.png").read_bytes()
