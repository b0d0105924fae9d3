"""A throw-away project: a few images, the settings of a tiny grid."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from fdl.core.settings import resolve

ROOT = Path(__file__).parents[1]
FILE = yaml.safe_load((ROOT / "params.yaml").read_text())

TINY = {
    "source": "local",
    "data_dir": "images",
    "datasets": ["bsd"],
    "image_size": 32,
    "backbones": ["alexnet"],
    "shots": [3],
    "seeds": [0, 1],
    "members": 2,
    "width": 0.0625,
    "epochs": 2,
    "heads": [],
    "head_epochs": 3,
    "threads": 1,
    "device": "cpu",
}


def tiny(**overrides):
    """Settings of two methods and two seeds in one bundle, on the images of `write_images`."""
    return resolve(FILE, preset="demo", overrides=TINY | overrides)


def write_params(path, **overrides):
    """The same as a file; returns its path."""
    path.write_text(yaml.safe_dump(FILE | {"preset": "demo", "overrides": TINY | overrides}))
    return path


def write_images(folder=Path("images/bsd"), *, train=6, validation=4, test=5):
    """Noise with a bright disc in one of two places, in folders of pools and classes."""
    generator = np.random.default_rng(0)
    for pool, count in (("train", train), ("validation", validation), ("test", test)):
        for label, name in enumerate(("no pitting", "pitting")):
            (folder / pool / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 200, (32, 32, 3), dtype=np.uint8)
                pixels[4:12, 4 + 16 * label : 12 + 16 * label] = 255
                Image.fromarray(pixels).save(folder / pool / name / f"{number}.png")


BOLTS = {"name": "bolts", "folder": "photos/bolts", "image_size": 32, "like": "neu"}
# What people call their folders; the second name would be markup in a page.
BOLT_CLASSES = ("gut", "<b>große Öffnung", "Riss & Bruch 100 %")


def write_photographs(folder, counts, *, pool=""):
    """Photographs of unequal shape with a bright disc, a folder per class: `<folder>/<pool>/<class>/*.png`."""
    generator = np.random.default_rng(len(pool))
    for label, (name, count) in enumerate(counts.items()):
        place = Path(folder, pool, name)
        place.mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 200, (40, 50 + number, 3), dtype=np.uint8)
            pixels[5 * label : 5 * label + 10, 10:20] = 255
            Image.fromarray(pixels).save(place / f"Foto {number}.png")


def wait_for(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds; fail after some seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
