"""Synthetic twins of the six datasets: small images made by formulas, written in the published file format.

They exist so that the whole path, from the published files to the report, runs in minutes without a
network or anybody's images. They are no substitute for the real ones: accuracies on them say nothing
about any method, and a comparison made on them is only a check that the comparison runs.

Every image holds objects or defects at random places on textured ground, so that a class activation
map has something to point at, and position and mean colour alone do not give the class away. Steel and
textile are grey, as their photographs are; the others are RGB.
"""

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from fdl.core.protocol import DATASETS

SIZE = 32  # pixels
MAX_CLASSES = 10
# Images per class in each of the published files, or in the one set of them.
IMAGES = {
    "cifar10": {"train": 30, "test": 30},
    "cifar100": {"train": 30, "test": 30},
    "miniimagenet": {"all": 60},
    "neu": {"all": 100},
    "bsd": {"all": 135},
    "tex": {"train": 30, "test": 50},
}
Array = NDArray[np.float64]
X: Array
Y: Array
Y, X = np.mgrid[:SIZE, :SIZE] + 0.5  # pixel centres


def write_twin(dataset: str, folder: Path) -> None:
    """Write one dataset's twin in the format that the dataset is published in, see `synthetic_files`.

    The classes are the first ten of the protocol's, or all where there are fewer; `IMAGES` gives the
    images per class. Equal library versions write equal bytes.
    """
    from fdl.data.synthetic_files import WRITERS

    classes = DATASETS[dataset].classes[:MAX_CLASSES]
    images: dict[str, list[list[NDArray[np.uint8]]]] = {}
    first = 0
    for file, count in IMAGES[dataset].items():
        numbers = range(first, first + count)
        images[file] = [[_pixels(draw(dataset, label, number)) for number in numbers] for label in range(len(classes))]
        first += count
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[dataset](folder, classes, images)


def draw(dataset: str, label: int, number: int) -> Array:
    """Image `number` of a class: (32, 32) or (32, 32, 3), in [0, 1]."""
    rng = np.random.default_rng([*dataset.encode(), label, number])
    return np.clip(SCENES[dataset](rng, label), 0, 1)


def _pixels(image: Array) -> NDArray[np.uint8]:
    return np.rint(image * 255).astype(np.uint8)


# Drawing. Images are floats, (32, 32) grey or (32, 32, 3) RGB; coverages are (32, 32) in [0, 1]; points are
# (x, y) in pixels.


def _cloud(rng: Generator, rows: int, columns: int) -> Array:
    """Smooth noise (mean 0, variance 1) with this many cells down and across."""
    from PIL import Image

    cells = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
    noise = np.asarray(cells.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float64)
    scaled: Array = (noise - noise.mean()) / noise.std()
    return scaled


def _streaks(rng: Generator, angle: float, period: float) -> Array:
    """Noise (variance about 1) that is constant along lines at `angle` and changes every `period` pixels across."""
    across = X * np.sin(angle) - Y * np.cos(angle)
    knots = np.arange(-2 * SIZE, 2 * SIZE, period)
    noise: Array = np.interp(across, knots, rng.standard_normal(len(knots)))
    return noise


def _discs(points: ArrayLike, radii: ArrayLike) -> Array:
    """Coverage of a union of discs: dots, or with points in a row a line."""
    x, y = np.asarray(points, dtype=np.float64).T[:, :, None, None]
    depth = np.reshape(radii, (-1, 1, 1)) - np.hypot(X - x, Y - y)
    coverage: Array = np.clip(depth.max(axis=0) + 0.5, 0, 1)
    return coverage


def _curve(centre: Array, angle: float, length: float, bend: float = 0.0) -> Array:
    """Points of a line through `centre` whose direction turns by `bend` from one end to the other."""
    directions = angle + bend * np.linspace(-0.5, 0.5, 40)
    points: Array = np.cumsum(np.stack([np.cos(directions), np.sin(directions)], axis=1), axis=0) * length / 40
    points += centre - points[20]
    return points


def _paint(image: Array, coverage: Array, colour: ArrayLike) -> Array:
    if image.ndim == 3:
        coverage = coverage[..., None]
    return image + coverage * (np.asarray(colour) - image)


def _hsv(hue: float, saturation: float, value: float) -> Array:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _place(rng: Generator, margin: float = 6.0) -> Array:
    return rng.uniform(margin, SIZE - margin, 2)


# CIFAR-10, CIFAR-100 and miniImageNet: one large object of the class, small ones of any shape around it.

# Outline of each class: corners, how far the sides are drawn in, stretch, radius of a central hole.
_OUTLINES = (
    (4, 0.0, 1.0, 0.0), (3, 0.0, 1.0, 0.0), (24, 0.0, 1.0, 0.6), (5, 0.5, 1.0, 0.0), (4, 0.0, 2.6, 0.0),
    (24, 0.0, 1.0, 0.0), (4, 0.6, 1.0, 0.0), (24, 0.0, 2.2, 0.0), (3, 0.6, 1.0, 0.0), (8, 0.35, 1.0, 0.35),
)  # fmt: skip
_WAVES = 7.0  # of a class's pattern, in radians per radius of the object


def _outline(label: int, u: Array, v: Array) -> Array:
    """How far inside the outline of a class (radius 1) each point lies; negative outside."""
    corners, waist, stretch, hole = _OUTLINES[label]
    u, v = u / np.sqrt(stretch), v * np.sqrt(stretch)
    radius, sector = np.hypot(u, v), 2 * np.pi / corners
    off_middle = np.abs(np.arctan2(v, u) % sector - sector / 2)  # 0 in the middle of a side
    edge: Array = np.cos(sector / 2) / np.cos(off_middle) * (1 - waist * (1 - off_middle / (sector / 2)))
    inside: Array = np.minimum(edge - radius, radius - hole if hole else 1.0)
    return inside


def _pattern(label: int, u: Array, v: Array) -> Array:
    """Pattern of a class on its object: plain, stripes, checks, rings or spokes, between 0 and 1."""
    stripes, across = np.sin(_WAVES * u), np.sin(_WAVES * v)
    rings, spokes = np.sin(1.3 * _WAVES * np.hypot(u, v)), np.sin(6 * np.arctan2(v, u))
    return np.clip((0 * u - 1, stripes, stripes * across * 2, rings, spokes)[label % 5] * 2 + 0.5, 0, 1)


def _objects(rng: Generator, label: int, ground: Array, hue_spread: float, *, lit: bool = False) -> Array:
    """A large object of class `label` and three small distractors on coloured ground."""
    image = ground
    for shape, size in [*((int(rng.integers(10)), rng.uniform(1.5, 3)) for _ in range(3)), (label, rng.uniform(7, 12))]:
        (x, y), angle = _place(rng, 3 if size < 4 else 9), rng.uniform(-0.4, 0.4)
        u = ((X - x) * np.cos(angle) + (Y - y) * np.sin(angle)) / size
        v = ((Y - y) * np.cos(angle) - (X - x) * np.sin(angle)) / size
        if lit:
            image = _paint(image, 0.6 * np.clip(_outline(shape, u - 0.25, v - 0.25) * 3, 0, 1), 0.05)
        hue = shape / 10 + rng.normal(0, hue_spread)
        main, second = _hsv(hue, 0.8, rng.uniform(0.6, 0.95)), _hsv(hue + 0.15, 0.5, rng.choice([0.25, 1.0]))
        body = main + _pattern(shape, u, v)[..., None] * (second - main)
        if lit:
            body = body * (0.9 - 0.35 * (u + v))[..., None]
        image = _paint(image, np.clip(_outline(shape, u, v) * size + 0.5, 0, 1), body)
    return image + rng.normal(0, 0.02, image.shape)


def _clutter(rng: Generator, label: int) -> Array:
    """CIFAR-10: on ground of two colours in large blots."""
    first, second = (_hsv(rng.random(), rng.uniform(0.1, 0.45), rng.uniform(0.3, 0.8)) for _ in range(2))
    ground = _paint(np.tile(first, (SIZE, SIZE, 1)), np.clip(_cloud(rng, 5, 5) + 0.5, 0, 1), second)
    return _objects(rng, label, ground + 0.03 * _cloud(rng, 16, 16)[..., None], 0.05)


def _meadow(rng: Generator, label: int) -> Array:
    """CIFAR-100: on ground of fine blades in one direction."""
    first, second = _hsv(rng.random(), 0.35, 0.35), _hsv(rng.random(), 0.3, 0.7)
    blades = _streaks(rng, rng.uniform(0, np.pi), 1.5) + 0.7 * _cloud(rng, 4, 4)
    ground = _paint(np.tile(first, (SIZE, SIZE, 1)), np.clip(0.5 + 0.35 * blades, 0, 1), second)
    return _objects(rng, 9 - label, ground, 0.07)


def _room(rng: Generator, label: int) -> Array:
    """miniImageNet: lit from the upper left, with a shadow, before a wall and a floor."""
    wall, floor = _hsv(rng.random(), 0.25, rng.uniform(0.5, 0.9)), _hsv(rng.random(), 0.4, rng.uniform(0.25, 0.6))
    horizon = rng.uniform(10, 24) + rng.uniform(-0.2, 0.2) * X
    ground = _paint(np.tile(wall, (SIZE, SIZE, 1)), np.clip(Y - horizon, 0, 1), floor)
    texture = 0.05 * _cloud(rng, 3, 3) + 0.04 * _cloud(rng, 20, 8) * (horizon < Y)
    return _objects(rng, (label + 5) % 10, ground + texture[..., None], 0.06, lit=True)


def _steel(rng: Generator, label: int) -> Array:
    """NEU: a grey strip of rolled steel with one kind of defect."""
    grain = 0.03 * _streaks(rng, np.pi / 2, 2) + 0.04 * _cloud(rng, 2, 3) + rng.normal(0, 0.02, (SIZE, SIZE))
    steel = rng.uniform(0.45, 0.6) + grain
    match DATASETS["neu"].classes[label]:
        case "crazing":
            seeds = rng.uniform(-4, SIZE + 4, (45, 2))
            nearest = np.sort(np.hypot(X - seeds[:, :1, None], Y - seeds[:, 1:, None]), axis=0)
            cracks = np.clip(1.1 - (nearest[1] - nearest[0]), 0, 1)  # borders between the seeds' cells
            steel -= cracks * np.clip(0.3 + 0.12 * _cloud(rng, 3, 3), 0, 1)
        case "inclusion":
            for _ in range(rng.integers(1, 4)):
                points = _curve(_place(rng), np.pi / 2 + rng.normal(0, 0.12), rng.uniform(8, 20))
                radii = rng.uniform(0.3, 1.6, 40) * np.sin(np.linspace(0.2, np.pi - 0.2, 40))
                steel -= 0.35 * _discs(points + rng.normal(0, 0.4, (40, 2)), radii)
        case "patches":
            points = _place(rng) + rng.normal(0, 4, (7, 2)) * [0.7, 1.3]
            coverage = 0.85 * _discs(points, rng.uniform(2, 4.5, 7))
            steel = _paint(steel + 0.15, coverage, 0.25 + 0.05 * _cloud(rng, 12, 12))
        case "pitted_surface":
            points = _place(rng) + rng.normal(0, 1, (30, 2)) * rng.uniform(3, 7, 2)
            steel -= 0.3 * _discs(points, rng.uniform(0.2, 0.9, 30))
        case "rolled-in_scale":
            mottles = np.clip(_cloud(rng, 20, 9) - 0.7, 0, 1)
            steel -= 0.3 * mottles * np.clip(0.8 + 0.5 * _cloud(rng, 3, 3), 0, 1.5)
        case "scratches":
            angle = rng.choice([0, np.pi / 2], p=[0.2, 0.8])
            for _ in range(rng.integers(1, 4)):
                points = _curve(_place(rng), angle + rng.normal(0, 0.1), rng.uniform(12, 40))
                steel = _paint(steel, rng.uniform(0.5, 0.9) * _discs(points, rng.uniform(0.2, 0.8)), 0.95)
    return steel


def _spindle(rng: Generator, label: int) -> Array:
    """BSD: the brownish spindle of a ball screw drive, with or without pits."""
    angle = rng.uniform(-0.45, -0.1)
    light = 0.115 * _streaks(rng, angle, 6) + 0.04 * _streaks(rng, angle, 1.2) + 0.05 * _cloud(rng, 3, 3)
    tint = _hsv(rng.normal(0.1, 0.03), rng.uniform(0.1, 0.4), 1)
    image = (rng.uniform(0.45, 0.7) + light)[..., None] * tint
    if label == 1:
        points = _place(rng, 8) + rng.normal(0, 1, (16, 2)) * rng.uniform(2.5, 4.5, 2)
        radii = rng.uniform(0.6, 2.4, 16)
        image = _paint(image, 0.35 * _discs(points - 0.8, radii), 1.0)  # the lit rims
        image = _paint(image, 0.8 * _discs(points, radii), _hsv(0.08, 0.4, 0.16))
    return image + rng.normal(0, 0.02, image.shape)


def _carpet(rng: Generator, label: int) -> Array:
    """TEX: grey woven carpet, good or with one kind of defect."""
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 6, 2)
    warp = np.sin(1.9 * (X * np.cos(angle) + Y * np.sin(angle)) + phase[0] + 0.3 * _cloud(rng, 6, 6))
    weft = np.sin(1.9 * (Y * np.cos(angle) - X * np.sin(angle)) + phase[1] + 0.3 * _cloud(rng, 6, 6))
    cloth: Array = rng.uniform(0.4, 0.55) + 0.11 * warp * weft + 0.04 * _cloud(rng, 4, 4)
    match DATASETS["tex"].classes[label]:
        case "color":
            cloth += 0.28 * _discs(_place(rng) + rng.normal(0, 3, (8, 2)), rng.uniform(2, 4, 8))
        case "cut":
            points = _curve(_place(rng, 9), rng.uniform(0, np.pi), rng.uniform(12, 20))
            cloth = _paint(cloth, 0.5 * _discs(points, 2.0), 0.75)  # frayed edges
            cloth = _paint(cloth, _discs(points, 0.7), 0.08)
        case "hole":
            points = _place(rng, 8) + rng.normal(0, 1.2, (5, 2))
            cloth = _paint(cloth, 0.95 * _discs(points, rng.uniform(1.8, 3.5, 5)), 0.1)
        case "metal_contamination":
            points = _curve(_place(rng, 9), rng.uniform(0, np.pi), rng.uniform(7, 12))
            cloth = _paint(cloth, 0.6 * _discs(points + 1.5, 1.2), 0.1)  # its shadow
            cloth = _paint(cloth, _discs(points, 1.1), 1.0)
        case "thread":
            points = _curve(_place(rng), rng.uniform(0, np.pi), rng.uniform(30, 50), rng.normal(0, 3))
            cloth = _paint(cloth, 0.85 * _discs(points, 0.8), 0.85)
    cloth += rng.normal(0, 0.03, cloth.shape)
    return cloth


SCENES: dict[str, Callable[[Generator, int], Array]] = {
    "cifar10": _clutter,
    "cifar100": _meadow,
    "miniimagenet": _room,
    "neu": _steel,
    "bsd": _spindle,
    "tex": _carpet,
}
