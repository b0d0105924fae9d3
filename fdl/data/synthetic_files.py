"""Writes images in the formats that the six datasets are published in (docs/datasets.md): small, but file for file.

Every writer takes the images of a dataset by file: `images["train"]` is a list of classes, each a list of uint8
arrays, (H, W) or (H, W, 3). Equal images and library versions give equal bytes.
"""

import csv
import pickle
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = Mapping[str, Sequence[Sequence[NDArray[np.uint8]]]]
Writer = Callable[[Path, Sequence[str], Images], None]

# Classes of the train, validation and test files of miniImageNet: 64, 16 and 20 of 100.
_MINI_FILES = {"train": 0.64, "validation": 0.8, "test": 1.0}
_TEX_CLASSES = ("good", "color", "cut", "hole", "thread", "metal_contamination")  # as its csv counts them
_TEX_ANGLES = range(0, 160, 20)  # degrees
_ROTATED = 10  # every so many images of BSD there is a rotated copy


def write_cifar10(folder: Path, classes: Sequence[str], images: Images) -> None:
    """`cifar-10-batches-py/`: five pickled batches, a test batch and the names."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir()
    train = _interleaved(images["train"])
    size = -(-len(train) // 5)
    batches = {f"data_batch_{number + 1}": train[number * size : (number + 1) * size] for number in range(5)}
    for name, rows in (batches | {"test_batch": _interleaved(images["test"])}).items():
        content = {
            "batch_label": name,
            "labels": [label for label, _ in rows],
            "data": np.stack([_planes(image) for _, image in rows]),
            "filenames": [f"{classes[label]}_s_{number:06d}.png" for number, (label, _) in enumerate(rows)],
        }
        _write_pickle(folder / name, content)
    names = {"label_names": list(classes), "num_cases_per_batch": size, "num_vis": train[0][1].size}
    _write_pickle(folder / "batches.meta", names)


def write_cifar100(folder: Path, classes: Sequence[str], images: Images) -> None:
    """`cifar-100-binary/`: per image a coarse label, a fine label and the planes, a byte each."""
    folder = folder / "cifar-100-binary"
    folder.mkdir()
    for name in ("train", "test"):
        rows = (bytes([0, label]) + _planes(image).tobytes() for label, image in _interleaved(images[name]))
        (folder / f"{name}.bin").write_bytes(b"".join(rows))
    (folder / "fine_label_names.txt").write_text("\n".join(classes) + "\n")
    (folder / "coarse_label_names.txt").write_text("all\n")


def write_miniimagenet(folder: Path, classes: Sequence[str], images: Images) -> None:
    """`mini-imagenet-cache-*.pkl`: the classes, not the images of a class, are parted between the files."""
    first = 0
    for name, part in _MINI_FILES.items():
        last = round(part * len(classes))
        chosen = images["all"][first:last]
        counts = np.cumsum([0, *map(len, chosen)]).tolist()
        places = zip(classes[first:last], counts, counts[1:], strict=False)
        content = {
            "image_data": np.stack(list(chain.from_iterable(chosen))),
            "class_dict": {name: list(range(start, stop)) for name, start, stop in places},
        }
        _write_pickle(folder / f"mini-imagenet-cache-{name}.pkl", content)
        first = last


def write_neu(folder: Path, classes: Sequence[str], images: Images) -> None:
    """`Cr_1.bmp` …: the beginnings of the classes' names, and numbers that decide the pools."""
    prefixes = {"pitted_surface": "PS", "rolled-in_scale": "RS"}
    for name, pictures in zip(classes, images["all"], strict=True):
        for number, image in enumerate(pictures, start=1):
            _save(image, folder / f"{prefixes.get(name, name[:2].capitalize())}_{number}.bmp")


def write_bsd(folder: Path, classes: Sequence[str], images: Images) -> None:
    """`N (1).png`, `P (1).png` …; a trailing `_` marks a copy rotated by 90°."""
    for name, pictures in zip(classes, images["all"], strict=True):
        letter = name[0].upper()
        for number, image in enumerate(pictures, start=1):
            _save(image, folder / f"{letter} ({number}).png")
            if number % _ROTATED == 0:
                _save(np.ascontiguousarray(np.rot90(image)), folder / f"{letter} ({number})_.png")


def write_tex(folder: Path, classes: Sequence[str], images: Images) -> None:
    """`train64.h5` and `test64.h5`, grey in 0 to 1, with a csv of labels beside each."""
    import h5py

    for split in ("train", "test"):
        rows = [
            (name, _TEX_ANGLES[number * len(_TEX_ANGLES) // len(pictures)], image)
            for name in _TEX_CLASSES
            for pictures in [images[split][classes.index(name)]]
            for number, image in enumerate(pictures)
        ]
        pixels = np.stack([image for _, _, image in rows])[..., None] / np.float32(255)
        with h5py.File(folder / f"{split}64.h5", "w") as file:
            file.create_dataset("images", data=pixels)
        with (folder / f"{split}64.csv").open("w", newline="") as text:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(("index", "angle", "indication_type", "indication_value", "split"))
            for index, (name, angle, _) in enumerate(rows):
                table.writerow((index, angle, name, _TEX_CLASSES.index(name), split))


WRITERS: dict[str, Writer] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "miniimagenet": write_miniimagenet,
    "neu": write_neu,
    "bsd": write_bsd,
    "tex": write_tex,
}


def _interleaved(classes: Sequence[Sequence[NDArray[np.uint8]]]) -> list[tuple[int, NDArray[np.uint8]]]:
    """Label and image: the first of every class, the second of every class, …"""
    labelled = ([(label, image) for image in pictures] for label, pictures in enumerate(classes))
    return [row for rows in zip_longest(*labelled) for row in rows if row is not None]


def _planes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The red values, the green ones, the blue ones: (3 · H · W,)."""
    return image.transpose(2, 0, 1).ravel()


def _write_pickle(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))  # that of the published files


def _save(image: NDArray[np.uint8], path: Path) -> None:
    from PIL import Image

    Image.fromarray(image).save(path)
