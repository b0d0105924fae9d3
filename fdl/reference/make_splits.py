"""Writes the published k-shot index lists of CIFAR-10 and CIFAR-100: `python -m fdl.reference.make_splits`.

They are the authors' draws (seed 0) and four more by the same algorithm, as JSON that anyone can use
without this package. The lists refer to the official training files through each class's own images, so
they can be made, and checked, without the files.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fdl import records
from fdl.reference.protocol import DATASETS

FOLDER = Path(__file__).parent / "splits"
IMAGES = {"cifar10": 5000, "cifar100": 500}  # per class in the official training file
SHOTS = (3, 5, 10, 20, 50, 100, 400)
SEEDS = (0, 1, 2, 3, 4)
_HOLD_OUT = 10_000  # images of all classes, before validation is cut from them

_ABOUT = """\
k-shot training sets of {title}, drawn from the official training set of 50,000 images.
images: in the official training file, per class.
pool: of every class (outer list, in label order) the {pool} images that may be drawn, as ranks: rank r is the \
image number r, from 0, among the images of its class in the official order of the training file \
(data_batch_1 to 5 of CIFAR-10, train of CIFAR-100).
validation: likewise, images that belong to no pool.
draws: for each number of images per class one list per seed (0 to 4; only 0 where a draw is the whole pool, as its \
order alone differs). Entry n is the image at position \
n % {pool} of the pool of class n // {pool}; the order is the training order. With the file's labels as an array, \
its index is flatnonzero(labels == n // {pool})[pool[n // {pool}][n % {pool}]].
Rule (docs/reference.md 4.1, 4.2): scikit-learn's train_test_split(test_size=10000, random_state=0, \
stratify=labels), whose training part is the pool; train_test_split(test_size={validation}, random_state=0, \
stratify=labels) of its test part, whose test part is the validation set; then Python's random.seed(seed), \
random.sample of k pool positions class by class, and one random.shuffle. Seed 0 is the authors' draw. \
That the pool is theirs image by image, and not only by rule, cannot be checked: they published no list."""


def make(dataset: str) -> dict[str, Any]:
    """The content of one file, as `about` in it describes it."""
    from fdl.data.splits import draw

    protocol, pool = DATASETS[dataset], _pools(dataset)
    per_class = len(pool["pool"][0])
    labels = np.repeat(np.arange(len(protocol.classes)), per_class)
    about = _ABOUT.format(title=protocol.title, pool=per_class, validation=protocol.validation * len(protocol.classes))
    return {
        "about": about.splitlines(),
        "dataset": dataset,
        "images": IMAGES[dataset],
        "classes": list(protocol.classes),
        **pool,
        "draws": {
            str(shots): [draw(labels, shots, seed).tolist() for seed in (SEEDS if shots < per_class else SEEDS[:1])]
            for shots in SHOTS
        },
    }


def _pools(dataset: str) -> dict[str, list[list[int]]]:
    """Ranks of the pool and of the validation images per class, in the order that the authors' split gives.

    Stratified splitting shuffles class by class, so the ranks do not depend on how the classes are
    interleaved in the file: images sorted by class give the same ones.
    """
    from sklearn.model_selection import train_test_split

    count, classes = IMAGES[dataset], len(DATASETS[dataset].classes)
    labels = np.repeat(np.arange(classes), count)
    images = np.arange(len(labels))
    pool, held_out = train_test_split(images, test_size=_HOLD_OUT, random_state=0, stratify=labels)
    size = DATASETS[dataset].validation * classes
    _, validation = train_test_split(held_out, test_size=size, random_state=0, stratify=labels[held_out])
    return {
        name: [(chosen[chosen // count == label] % count).tolist() for label in range(classes)]
        for name, chosen in (("pool", pool), ("validation", validation))
    }


def to_text(content: dict[str, Any]) -> str:
    """Compact JSON with a line per key, so that a change can be read."""
    lines = (f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    for name in IMAGES:
        records.write_atomically(FOLDER / f"{name}.json", to_text(make(name)).encode())
        print(FOLDER / f"{name}.json")
