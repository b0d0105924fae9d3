"""Writes the published k-shot index lists of CIFAR-10 and CIFAR-100: `python -m fdl.data.make_splits`.

They are the authors' draws (seed 0) and four more by the same algorithm, as JSON that anyone can use
without this package: `cifar10.json` and `cifar100.json`, and `cifar10-pool3750.json` with the smaller pool
of the authors' VGG and ResNet on CIFAR-10 (docs/reference.md 4.1). The lists refer to the official
training files through each class's own images, so they can be made, and checked, without the files.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fdl.core import files
from fdl.core.protocol import DATASETS

FOLDER = Path(__file__).parent / "published_splits"
IMAGES = {"cifar10": 5000, "cifar100": 500}  # per class in the official training file
# By the name of the file: dataset, images per class in the pool, and who drew from it.
LISTS = {
    "cifar10": ("cifar10", 4000, "AlexNet; VGG and ResNet drew from that of cifar10-pool3750.json"),
    "cifar10-pool3750": ("cifar10", 3750, "VGG and ResNet; AlexNet drew from that of cifar10.json"),
    "cifar100": ("cifar100", 400, "all backbones"),
}
SHOTS = (3, 5, 10, 20, 50, 100, 400)
SEEDS = (0, 1, 2, 3, 4)

_ABOUT = """\
k-shot training sets of {title}, drawn from the official training set of 50,000 images.
The pool is that of the authors' {drawn_by}.
images: in the official training file, per class.
pool: of every class (outer list, in label order) the {pool} images that may be drawn, as ranks: rank r is the \
image number r, from 0, among the images of its class in the official order of the training file \
(data_batch_1 to 5 of CIFAR-10, train of CIFAR-100).
validation: likewise, images that belong to no pool.
draws: for each number of images per class one list per seed (0 to 4; only 0 where a draw is the whole pool, as its \
order alone differs). Entry n is the image at position \
n % {pool} of the pool of class n // {pool}; the order is the training order. With the file's labels as an array, \
its index is flatnonzero(labels == n // {pool})[pool[n // {pool}][n % {pool}]].
Rule (docs/reference.md 4.1, 4.2): scikit-learn's train_test_split(test_size={hold_out}, random_state=0, \
stratify=labels), whose training part is the pool; train_test_split(test_size={validation}, random_state=0, \
stratify=labels) of its test part, whose test part is the validation set; then Python's random.seed(seed), \
random.sample of k pool positions class by class, and one random.shuffle. Seed 0 is the authors' draw. \
That the pool is theirs image by image, and not only by rule, cannot be checked: they published no list."""


def make(name: str) -> dict[str, Any]:
    """The content of one file of `LISTS`, as `about` in it describes it."""
    from fdl.data.splits import draw

    dataset, per_class, drawn_by = LISTS[name]
    protocol = DATASETS[dataset]
    count = len(protocol.classes)
    hold_out, validation = (IMAGES[dataset] - per_class) * count, protocol.validation * count
    labels = np.repeat(np.arange(count), per_class)
    about = _ABOUT.format(
        title=protocol.title, drawn_by=drawn_by, pool=per_class, hold_out=hold_out, validation=validation
    )
    return {
        "about": about.splitlines(),
        "dataset": dataset,
        "images": IMAGES[dataset],
        "classes": list(protocol.classes),
        **_pools(IMAGES[dataset], count, hold_out, validation),
        "draws": {
            str(shots): [draw(labels, shots, seed).tolist() for seed in (SEEDS if shots < per_class else SEEDS[:1])]
            for shots in SHOTS
        },
    }


def _pools(images: int, classes: int, hold_out: int, validation: int) -> dict[str, list[list[int]]]:
    """Ranks of the pool and of the validation images per class, in the order that the authors' split gives.

    Args:
        images: per class in the training file.
        hold_out: images of all classes that are in no pool; validation is cut from them.
        validation: images of all classes.

    Stratified splitting shuffles class by class, so the ranks do not depend on how the classes are
    interleaved in the file: images sorted by class give the same ones.
    """
    from sklearn.model_selection import train_test_split

    labels = np.repeat(np.arange(classes), images)
    pool, held_out = train_test_split(np.arange(len(labels)), test_size=hold_out, random_state=0, stratify=labels)
    _, kept = train_test_split(held_out, test_size=validation, random_state=0, stratify=labels[held_out])
    return {
        name: [(chosen[chosen // images == label] % images).tolist() for label in range(classes)]
        for name, chosen in (("pool", pool), ("validation", kept))
    }


def to_text(content: dict[str, Any]) -> str:
    """Compact JSON with a line per key, so that a change can be read."""
    lines = (f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    for name in LISTS:
        files.write_atomically(FOLDER / f"{name}.json", to_text(make(name)).encode())
        print(FOLDER / f"{name}.json")
