"""Writes tiny datasets in every format that the six are published in, byte for byte as their publishers write it.

`PUBLISHED` lists the writers by name: each puts into a new folder what a download puts there. Pixels are
`image(label, number, size)`, so that a test knows every one of them.
"""

import csv
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.data.published import BSD, Row, encoded, pixels, write_parquet

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NEU_CLS = ("Cr", "In", "Pa", "PS", "RS", "Sc")
NEU_DET = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
TEX = ("good", "color", "cut", "hole", "thread", "metal_contamination")  # as its csv numbers them
Pixels = NDArray[np.uint8]


def image(label: int, number: int, size: int) -> Pixels:
    """Image `number` of a class: (size, size, 3)."""
    return pixels(1000 * label + number, size)


def grey(label: int, number: int, size: int) -> Pixels:
    """The grey image `number` of a class: (size, size)."""
    return np.ascontiguousarray(image(label, number, size)[..., 0])


def cifar_rows(classes: int, first: int, per_class: int) -> tuple[list[int], Pixels]:
    """Labels, and planes (N, 3072), of images `first` … of every class, classes interleaved."""
    rows = [(label, image(label, number, 32)) for number in range(first, first + per_class) for label in range(classes)]
    return [label for label, _ in rows], np.stack([pixels.transpose(2, 0, 1).ravel() for _, pixels in rows])


def binary_rows(*columns: list[int] | Pixels) -> bytes:
    """Labels and planes as CIFAR's binary files hold them, image by image."""
    return np.column_stack([np.asarray(column, np.uint8) for column in columns]).tobytes()


def write_cifar10(folder: Path) -> Path:
    """`cifar-10-batches-py` with one image per class and file, written by Python 2."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch"]):
        labels, data = cifar_rows(10, number, 1)
        names = [f"{CIFAR10[label]}_s_{number:06d}.png" for label in labels]
        batch = {"batch_label": f"training batch {number + 1} of 5", "labels": labels, "data": data, "filenames": names}
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"num_cases_per_batch": 10, "label_names": list(CIFAR10), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    return folder


def write_cifar100(folder: Path, classes: int = 100) -> Path:
    """`cifar-100-python` with two training images and a test image per class, written by Python 2."""
    folder = folder / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, first, per_class in (("train", 0, 2), ("test", 2, 1)):
        labels, data = cifar_rows(classes, first, per_class)
        coarse = [label // 5 for label in labels]
        content = {"data": data, "fine_labels": labels, "coarse_labels": coarse, "batch_label": name, "filenames": []}
        (folder / name).write_bytes(python2_pickle(content))
    names = [f"fine_{label:02d}" for label in range(classes)]
    (folder / "meta").write_bytes(python2_pickle({"fine_label_names": names, "coarse_label_names": ["all"]}))
    return folder


def write_cifar10_binary(folder: Path) -> Path:
    """`cifar-10-batches-bin` with one image per class and file."""
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch"]):
        labels, data = cifar_rows(10, number, 1)
        (folder / f"{name}.bin").write_bytes(binary_rows(labels, data))
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n\n")
    return folder


def write_cifar100_binary(folder: Path, classes: int = 100) -> Path:
    """`cifar-100-binary` with two training images and a test image per class."""
    folder = folder / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, first, per_class in (("train", 0, 2), ("test", 2, 1)):
        labels, data = cifar_rows(classes, first, per_class)
        coarse = [label // 5 for label in labels]
        (folder / f"{name}.bin").write_bytes(binary_rows(coarse, labels, data))
    (folder / "fine_label_names.txt").write_text("\n".join(f"fine_{label:02d}" for label in range(classes)) + "\n")
    return folder


def write_mini_imagenet(folder: Path, *, validation: str = "validation", per_class: int = 5, size: int = 8) -> Path:
    """`mini-imagenet-cache-*.pkl` with 64, 16 and 20 classes; small images stand for 84×84."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in (("train", range(64)), (validation, range(64, 80)), ("test", range(80, 100))):
        images = [image(label, number, size) for label in labels for number in range(per_class)]
        rows = np.arange(len(images)).reshape(-1, per_class).tolist()
        names = (f"n{label:08d}" for label in labels)
        content = {"image_data": np.stack(images), "class_dict": dict(zip(names, rows, strict=True))}
        (folder / f"mini-imagenet-cache-{name}.pkl").write_bytes(python2_pickle(content))
    return folder


def write_neu_cls(folder: Path, per_class: int = 5, size: int = 20) -> Path:
    """`NEU-CLS` with `Cr_1.bmp` …, grey."""
    numbers = range(1, per_class + 1)
    images = {f"{name}_{n}.bmp": grey(label, n, size) for label, name in enumerate(NEU_CLS) for n in numbers}
    return _write_images(folder / "NEU-CLS", images)


def write_neu_det(folder: Path, per_class: int = 5, size: int = 20) -> Path:
    """`NEU-DET` with `IMAGES/crazing_1.jpg` … and `ANNOTATIONS/crazing_1.xml` …"""
    numbers = range(1, per_class + 1)
    names = {f"{name}_{n}": grey(label, n, size) for label, name in enumerate(NEU_DET) for n in numbers}
    _write_images(folder / "NEU-DET/IMAGES", {f"{name}.jpg": pixels for name, pixels in names.items()})
    (folder / "NEU-DET/ANNOTATIONS").mkdir()
    for name in names:
        (folder / f"NEU-DET/ANNOTATIONS/{name}.xml").write_text("<annotation/>")
    return folder / "NEU-DET"


def write_neu_det_kaggle(folder: Path, per_class: int = 5, size: int = 20) -> Path:
    """`NEU-DET` with `train/images/crazing/crazing_1.jpg` …; the last number of every class in `validation`."""
    for label, name in enumerate(NEU_DET):
        for number in range(1, per_class + 1):
            pool = "validation" if number == per_class else "train"
            place = folder / "NEU-DET" / pool / "images" / name
            _write_images(place, {f"{name}_{number}.jpg": grey(label, number, size)})
    return folder / "NEU-DET"


def write_bsd_pngs(folder: Path, per_class: int = 5, size: int = 15) -> Path:
    """Flat `N (1).png`, `P (1).png` …; image 2 of a class has a rotated copy, `N (2)_.png`."""
    images = {}
    for label, name in enumerate(BSD):
        for number in range(1, per_class + 1):
            images[f"{name} ({number}).png"] = image(label, number, size)
        images[f"{name} (2)_.png"] = np.ascontiguousarray(np.rot90(image(label, 2, size)))
    return _write_images(folder / "bsd", images)


def write_bsd_parquet(folder: Path, per_class: int = 5, size: int = 15) -> Path:
    """The same as one parquet file in two shards, as its Hugging Face mirror has it."""
    images = [(label, number) for label in range(2) for number in range(1, per_class + 1)]
    rows: list[Row] = [
        (encoded(image(*named, size)), f"{BSD[named[0]]} ({named[1]}).png", named[0]) for named in images
    ]
    for shard, part in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
        write_parquet(folder / f"data/train-{shard:05d}-of-00002.parquet", part, BSD)
    return folder


def write_tex(folder: Path, per_class: int = 4, size: int = 64) -> Path:
    """`train64.h5`, `test64.h5`: grey floats in 0 to 1, labelled by a csv beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for first, name in enumerate(("train", "test")):
        rows = [(kind, label, first * per_class + k) for label, kind in enumerate(TEX) for k in range(per_class)]
        images = np.stack([grey(label, number, 64) for _, label, number in rows])[..., None]
        with h5py.File(folder / f"{name}{size}.h5", "w") as file:
            file["images"] = (images / 255).astype(np.float32)
        with (folder / f"{name}{size}.csv").open("w", newline="") as text:
            table = csv.writer(text)
            table.writerow(["", "index", "angle", "indication_type", "indication_value", "split"])
            table.writerows([row, row, 0, kind, label, name] for row, (kind, label, _) in enumerate(rows))
    return folder


def write_tex_groups(folder: Path, per_class: int = 4, size: int = 64) -> Path:
    """`matchingtDATASET_train_64.h5` and its test file: groups class / angle, half of the images at each of two."""
    folder.mkdir(parents=True, exist_ok=True)
    for first, name in enumerate(("train", "test")):
        with h5py.File(folder / f"matchingtDATASET_{name}_{size}.h5", "w") as file:
            for label, kind in enumerate(TEX):
                numbers = np.arange(per_class) + first * per_class
                for angle, chosen in zip(("20", "100"), np.array_split(numbers, 2), strict=True):
                    images = np.stack([grey(label, number, size) for number in chosen.tolist()])[..., None]
                    file[f"{kind}/{angle}"] = images / 255.0
    return folder


def write_tex_pngs(folder: Path) -> Path:
    """`color 0.png` … as the authors exported it: numbers of the test file start at 72,000."""
    starts = {name: 12_000 * label for label, name in enumerate(sorted(TEX))}
    images: dict[str, Pixels] = {}
    for label, (name, start) in enumerate(starts.items()):
        images |= {f"{name} {start + number}.png": grey(label, number, 64) for number in range(3)}
        images |= {f"{name} {72_000 + start // 2 + number}.png": grey(label, 3 + number, 64) for number in range(2)}
    return _write_images(folder / "tex", images)


def _write_images(folder: Path, images: dict[str, Pixels]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in images.items():
        Image.fromarray(values).save(folder / name)
    return folder


def python2_pickle(value: Any) -> bytes:
    """A pickle of protocol 2 as Python 2 writes it: text as bytes, numpy 1's names."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, np.ndarray):
        dtype = b"cnumpy\ndtype\n(" + _python2(value.dtype.str[1:]) + b"K\x00K\x01tR(K\x03" + _python2("|")
        dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"(" + b"".join(map(_python2, value.shape)) + b"t"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + _python2("b") + b"tR"
        return empty + b"(K\x01" + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"
    text = value.encode() if isinstance(value, str) else value
    return b"T" + struct.pack("<i", len(text)) + text


def tarred(archive: Path, folder: Path, *, mode: Any = "w:gz") -> None:
    """Pack a folder, under its own name."""
    with tarfile.open(archive, mode) as tar:
        tar.add(folder, folder.name)


def zipped(archive: Path, folder: Path) -> None:
    """Pack a folder, under its own name."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, Path(folder.name) / path.relative_to(folder))


def rar(files: dict[str, bytes]) -> bytes:
    """A RAR archive (version 4) of uncompressed files."""
    blocks = [b"Rar!\x1a\x07\x00", _rar_block(0x73, 0, bytes(6))]
    for name, content in files.items():
        sizes = struct.pack("<II", len(content), len(content))
        about = struct.pack("<BIIBBHI", 3, zlib.crc32(content), 0x5A21_0000, 20, 0x30, len(name), 0o100644)
        blocks += [_rar_block(0x74, 0x8000, sizes + about + name.encode()), content]
    return b"".join([*blocks, _rar_block(0x7B, 0x4000, b"")])


def _rar_block(kind: int, flags: int, content: bytes) -> bytes:
    header = struct.pack("<BHH", kind, flags, 7 + len(content)) + content
    return struct.pack("<H", zlib.crc32(header) & 0xFFFF) + header


def packed_by(
    write: Callable[[Path], Path], name: str, pack: Callable[[Path, Path], None] = tarred
) -> Callable[[Path], None]:
    """A writer that leaves only the archive `name` in the folder, with what `write` writes."""

    def write_packed(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        unpacked = write(folder.with_name(f"{folder.name}-unpacked"))
        pack(folder / name, unpacked)

    return write_packed


def rarred(archive: Path, folder: Path) -> None:
    """Pack a folder, under its own name."""
    files = {f"{folder.name}/{path.relative_to(folder)}": path.read_bytes() for path in sorted(folder.rglob("*.*"))}
    archive.write_bytes(rar(files))


PUBLISHED: dict[str, Callable[[Path], object]] = {
    "cifar10": write_cifar10,
    "cifar10 binary": write_cifar10_binary,
    "cifar10 tar": packed_by(write_cifar10, "cifar-10-python.tar.gz"),
    "cifar10 binary tar": packed_by(write_cifar10_binary, "cifar-10-binary.tar.gz"),
    "cifar100": write_cifar100,
    "cifar100 binary": write_cifar100_binary,
    "cifar100 tar": packed_by(write_cifar100, "cifar-100-python.tar.gz"),
    "miniimagenet": write_mini_imagenet,
    "miniimagenet tar": packed_by(lambda folder: write_mini_imagenet(folder, validation="val"), "mini-imagenet.tar.gz"),
    "neu": write_neu_cls,
    "neu rar": packed_by(write_neu_cls, "NEU-CLS.rar", rarred),
    "neu zip": packed_by(write_neu_cls, "NEU-CLS.zip", zipped),
    "neu det zip": packed_by(write_neu_det, "NEU-DET.zip", zipped),
    "neu det kaggle zip": packed_by(write_neu_det_kaggle, "archive.zip", zipped),
    "bsd": write_bsd_pngs,
    "bsd parquet": write_bsd_parquet,
    "bsd zip": packed_by(write_bsd_pngs, "bsd.zip", zipped),
    "tex": write_tex,
    "tex groups": write_tex_groups,
    "tex png": write_tex_pngs,
    "tex zip": packed_by(write_tex, "textiledefectdetection.zip", zipped),
}
