"""The page's gallery of class activation maps, for every dataset, backbone and number of shots.

Each map is stored as a small PNG, of 150 bytes for 4 × 4 values, and the browser enlarges it smoothly over the grey
test image, which is stored once per dataset. So the gallery of the whole paper grid takes about 2 MB, inside the page.
"""

import base64
import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fdl.core.titles import backbone_title, method_title
from fdl.evaluation.overlay import ALPHA, COLOURS, Record, image_shown
from fdl.reporting.panels import Rows, rows_of
from fdl.reporting.results import Results

IMAGES = 5  # test images per dataset, one of each of the first classes
_LARGEST = 96  # pixels; larger test images are shrunk to this


@dataclass(frozen=True)
class Picture:
    """A test image in colour and in grey. The page holds it once, as a CSS class, and shows it often."""

    style: str  # name of the CSS class
    colour: str  # data URL
    grey: str  # data URL


@dataclass(frozen=True)
class MapPanel:
    """One member's map of an image."""

    address: str  # data URL of the map
    predicted: str  # name of the predicted class
    correct: bool  # whether the prediction is correct
    empty: bool  # whether the map is 0 everywhere


@dataclass(frozen=True)
class Strip:
    """One image, and a row of panels per method."""

    picture: str  # CSS class of the image
    label: str  # name of the true class
    lines: list[tuple[str, list[MapPanel]]]  # printed name of the method, a panel per member


@dataclass(frozen=True)
class Exhibit:
    """The maps of one dataset, backbone and number of shots; names are as printed."""

    dataset: str
    backbone: str
    shots: int
    title: str
    strips: list[Strip]
    photographs: bool  # whether the record holds the test images


@dataclass(frozen=True)
class Gallery:
    """All exhibits, and the test images that they share."""

    exhibits: list[Exhibit]
    pictures: list[Picture]


def gallery(results: Results) -> Gallery:
    """An exhibit per bundle (dataset, backbone, number of shots), of the first seed that all methods have finished.

    Bundles without such a seed are left out.

    Raises:
        InputError: a record is damaged, or the methods' records hold maps of different images.
    """
    pictures: dict[bytes, Picture] = {}
    exhibits = []
    for bundle in results.bundles:
        cells = tuple(of_method[0] for of_method in results.compared_in(bundle).values())
        if not cells:
            continue
        rows = rows_of(results, cells)
        strips = [_strip(results, rows, image, pictures) for image in rows.shown(IMAGES)]
        cell = cells[0]
        dataset = results.collected.datasets[cell.dataset].title
        backbone = backbone_title(cell.backbone)
        title = f"{dataset} · {backbone} · {cell.shots} images per class · seed {cell.seed}"
        photographs = "pixels" in rows.records[0]
        exhibits.append(Exhibit(dataset, backbone, cell.shots, title, strips, photographs))
    return Gallery(exhibits, list(pictures.values()))


def _strip(results: Results, rows: Rows, image: int, pictures: dict[bytes, Picture]) -> Strip:
    record = rows.records[0]
    pixels = image_shown(record, image)
    key = pixels.tobytes()
    if key not in pictures:
        pictures[key] = _picture(f"picture{len(pictures)}", pixels)
    names = results.collected.datasets[rows.cells[0].dataset].classes
    lines = [
        (method_title(cell.method), [_panel(arm, member, image, names) for member in range(len(arm["maps_predicted"]))])
        for cell, arm in zip(rows.cells, rows.records, strict=True)
    ]
    return Strip(pictures[key].style, names[int(record["labels"][image])], lines)


def _panel(record: Record, member: int, image: int, names: tuple[str, ...]) -> MapPanel:
    values, predicted = record["maps_predicted"][member, image], int(record["predicted"][member, image])
    correct = predicted == int(record["labels"][image])
    return MapPanel(_map_address(values.tobytes(), values.shape), names[predicted], correct, not values.any())


def _picture(style: str, pixels: NDArray[np.uint8]) -> Picture:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST, _LARGEST))
    return Picture(style, _address(image), _address(image.convert("L")))


@cache
def _map_address(content: bytes, shape: tuple[int, int]) -> str:
    """A map as a partly transparent PNG in the colours of the figures; cached, because all empty maps are equal."""
    from matplotlib import colormaps
    from PIL import Image

    values = np.frombuffer(content, np.float16).reshape(shape).astype(np.float32)
    coloured = colormaps[COLOURS](values, alpha=ALPHA, bytes=True)
    return _address(Image.fromarray(coloured))


def _address(image: object) -> str:
    from PIL import Image

    assert isinstance(image, Image.Image)
    content = io.BytesIO()
    image.save(content, "png")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
