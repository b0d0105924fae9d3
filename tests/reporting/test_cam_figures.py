"""The CAM figure: which cells and images it shows, what it says of them, the same bytes twice."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fdl import layout
from fdl.errors import InputError
from fdl.params import Params
from fdl.reporting.cam_figures import IMAGES, cam_caption, cam_figure, read_rows
from fdl.reporting.collect import CellState, Collected, DatasetFacts
from fdl.reporting.figures import save
from fdl.reporting.targets import cam_figures
from tests.reporting.fabricate import invented, small_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = ("no pitting", "pitting", "metal_contamination and more")
OTHER = ("tex", "vgg")


def collected(params: Params, *, undone: Sequence[str] = (), synthetic: bool = False) -> Collected:
    """The grid, all of it done but for these keys."""
    states = [CellState(cell, "failed" if cell.key in undone else "done", "settings") for cell in params.cells()]
    facts = DatasetFacts(synthetic, params.source, (), CLASSES[:2], 4)
    return Collected(states, dict.fromkeys((cell.dataset for cell in params.cells()), facts))


def write(params: Params, **by_method: dict[str, Any]) -> None:
    """A `cam.npz` in every cell's folder."""
    for cell in params.cells():
        folder = layout.record_folder(params, cell)
        folder.mkdir(parents=True)
        np.savez(folder / "cam.npz", **by_method.get(cell.method, invented()))


def draw(params: Params, **options: Any) -> "tuple[Figure, str]":
    found = collected(params, **options)
    rows = read_rows(params, found, "neu", "alexnet")
    return cam_figure(found, "neu", "alexnet", rows), cam_caption(found, rows)


def panels(figure: "Figure") -> list[tuple[str, str, str]]:
    """Row's method, column's title, label below, of every panel."""
    return [(axes.get_ylabel(), axes.get_title(), axes.get_xlabel()) for axes in figure.axes[:-1]]


def test_a_figure_per_dataset_and_backbone() -> None:
    params = small_grid(datasets=["neu", "tex"], backbones=["alexnet", "vgg"])
    names = cam_figures(params)
    assert len(names) == 4
    assert names["cam_tex_vgg"] == OTHER


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
    rows = read_rows(params, collected(params, undone=undone), "neu", "alexnet")
    assert rows is not None
    assert [cell.method for cell in rows.cells] == ["classical", "fdl"]
    assert {f"{cell.shots}shot seed{cell.seed}" for cell in rows.cells} == {expected}


def test_the_baseline_stands_above_whatever_the_order_of_the_methods(project: Path) -> None:
    params = small_grid(methods=["fdl", "classical"])
    write(params)
    figure, _ = draw(params)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["classical", "FDL"] * 2


def test_panels_name_classes_and_predictions(project: Path) -> None:
    params = small_grid()
    write(params)
    figure, _ = draw(params)
    assert panels(figure) == [
        ("", "test image", "no pitting"),
        ("classical", "member 0", "✓ no pitting"),
        ("", "member 1", "✓ no pitting"),
        ("FDL", "", "✓ no pitting"),
        ("", "", "✓ no pitting"),
        ("", "", "pitting"),
        ("classical", "", "✓ pitting"),
        ("", "", "✗ no pitting"),
        ("FDL", "", "✓ pitting"),
        ("", "", "✗ no pitting"),
    ]


def test_maps_lie_on_their_image_on_one_scale_and_empty_ones_say_so(project: Path) -> None:
    params = small_grid()
    write(params)
    figure, _ = draw(params)
    _, first, second = figure.axes[:3]
    image, cam = first.images
    assert cam.get_extent() == image.get_extent()
    assert np.asarray(cam.get_array())[0, 0] == 1
    scales = {(image.get_clim(), image.get_cmap().name) for axes in figure.axes[:-1] for image in axes.images[1:]}
    assert len(scales) == 1
    assert [[text.get_text() for text in axes.texts] for axes in (first, second)] == [[], ["empty"]]


def test_a_few_images_at_most_and_long_names_are_cut(project: Path) -> None:
    params = small_grid(shots=[3], seeds=[0])
    write(params, **dict.fromkeys(("classical", "fdl"), invented(classes=6)))
    found = collected(params)
    names = (*CLASSES, "d", "e", "f")
    found.datasets["neu"] = DatasetFacts(False, "local", (), names, 4)
    rows = read_rows(params, found, "neu", "alexnet")
    figure = cam_figure(found, "neu", "alexnet", rows)
    images = [label for _, _, label in panels(figure) if not re.match("[✓✗]", label)]
    assert images == ["no pitting", "pitting", "metal_contaminat…"]
    assert len(images) == IMAGES
    assert f"each of the first {IMAGES} classes" in cam_caption(found, rows)


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
    assert "5 training images per class, seed 0. The first test image of each class;" in caption


def test_without_any_pair_the_caption_gives_no_overlap(project: Path) -> None:
    params = small_grid()
    write(params, **dict.fromkeys(("classical", "fdl"), invented(members=1)))
    assert "overlap" not in draw(params)[1]


def test_synthetic_images_are_marked(project: Path) -> None:
    params = small_grid()
    write(params)
    figure, caption = draw(params, synthetic=True)
    for text in (figure.get_suptitle(), caption):
        assert "Synthetic images: the numbers say nothing about the method." in text
    assert "NEU (synthetic) · AlexNet · 5 images per class" in figure.get_suptitle()
    assert draw(params)[0].get_suptitle() == "NEU · AlexNet · 5 images per class"


def test_without_results_the_figure_says_so() -> None:
    params = small_grid()
    figure, caption = draw(params, undone=[cell.key for cell in params.cells()])
    assert [text.get_text() for text in figure.texts if "·" not in text.get_text()] == ["no results"]
    assert "No finished cells" in caption


def test_a_record_without_maps_or_with_maps_of_other_images_is_refused(project: Path) -> None:
    params = small_grid()
    with pytest.raises(InputError, match=r"cam\.npz: the record holds no class activation maps"):
        read_rows(params, collected(params), "neu", "alexnet")
    other = invented()
    other["pixels"] = other["pixels"][::-1]
    write(params, fdl=other)
    with pytest.raises(InputError, match="maps of different test images"):
        read_rows(params, collected(params), "neu", "alexnet")


def test_nothing_is_cut_or_collides_and_the_bytes_are_equal_twice(project: Path) -> None:
    params = small_grid()
    write(params)
    figure, _ = draw(params, synthetic=True)
    one = save(figure, project / "one")
    other = save(draw(params, synthetic=True)[0], project / "other")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    figure.draw_without_rendering()
    texts = [figure._suptitle, figure.axes[-1].xaxis.label]  # type: ignore[attr-defined]
    for axes in figure.axes[:-1]:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    for number, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(before) for before in boxes[:number])
