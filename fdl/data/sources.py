"""Where each dataset is published and lies, what its classes are called there, and what reports must say of it."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from fdl.core.errors import InputError
from fdl.core.places import Entry, File, Place
from fdl.core.protocol import DATASETS
from fdl.data.formats import Record

# Of the archives: as torchvision and Keras have them; NEU's from one source only.
_CIFAR10 = "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_CIFAR100 = "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
_NEU_CLS = "sha256:a85bcc6bfa1a40e76f28079e135694aaf5f6a4ee01203f7eaacff0ebafaa96f8"
_TORONTO = "https://www.cs.toronto.edu/~kriz"
_KRIZHEVSKY = "Krizhevsky: Learning Multiple Layers of Features from Tiny Images. University of Toronto, 2009."

SOURCES: dict[str, Entry] = {
    "cifar10": Entry(
        citation=_KRIZHEVSKY,
        licence="none stated",
        terms="No licence is stated; cite the report if you use the images.",
        places=(
            Place("web", _TORONTO, (File("cifar-10-python.tar.gz", 170_498_071, _CIFAR10),)),
            Place("huggingface", "uoft-cs/cifar10"),
        ),
        published={"train": 5000, "test": 1000},
        images=60_000,
        download="170 MB",
        stored=(32, 32),
        formats="pickles in a tar file, or parquet",
    ),
    "cifar100": Entry(
        citation=_KRIZHEVSKY,
        licence="none stated",
        terms="No licence is stated; cite the report if you use the images.",
        places=(
            Place("web", _TORONTO, (File("cifar-100-python.tar.gz", 169_001_437, _CIFAR100),)),
            Place("huggingface", "uoft-cs/cifar100"),
        ),
        published={"train": 500, "test": 100},
        images=60_000,
        download="169 MB",
        stored=(32, 32),
        formats="pickles in a tar file, or parquet",
        class_names={"cra": "crab"},  # as the Hugging Face mirror spells it
        subset_note="own split",
    ),
    "miniimagenet": Entry(
        citation="Vinyals et al.: Matching Networks for One Shot Learning. NIPS 2016; images of ImageNet, "
        "Russakovsky et al.: ImageNet Large Scale Visual Recognition Challenge. IJCV 115, 2015.",
        licence="ImageNet: research only",
        terms="ImageNet's terms: non-commercial research and teaching only, no redistribution (https://image-net.org).",
        places=(
            Place(
                "zenodo",
                "7978538",
                tuple(File(f"mini-imagenet-cache-{pool}.pkl") for pool in ("train", "validation", "test")),
            ),
            Place(
                "drive",
                "16V_ZlkW4SsnNDtnGmaBRq2OoPmUOc5mY",
                (File("mini-imagenet.tar.gz", hash="md5:b38f1eb4251fb9459ecc8e7febf9b2eb"),),
            ),
            Place("kaggle", "whitemoon/miniimagenet", (File("archive.zip"),)),
        ),
        published={"all": 600},
        images=60_000,
        download="1.3 GB",
        stored=(84, 84),
        formats="pickles",
        sorted_names=True,
        note="own split: the authors' lists are not published",
    ),
    "neu": Entry(
        citation="Song, Yan: A noise robust method based on completed local binary patterns for hot-rolled steel strip "
        "surface defects. Applied Surface Science 285, 2013; He et al.: An End-to-End Steel Surface Defect Detection "
        "Approach via Fusing Multiple Hierarchical Features. IEEE TIM 69, 2020.",
        licence="none stated",
        terms="No licence is stated: do not republish the images; cite both papers if you use them.",
        places=(
            Place("drive", "1NGlXT9sIaQpyxUoT6MLKm1Pr6x8oxOvc", (File("NEU-CLS.rar", hash=_NEU_CLS),)),
            Place("page", "http://faculty.neu.edu.cn/songkc/en/zdylm/263265/list/", by_hand="NEU-CLS (not NEU-CLS-64)"),
            Place("drive", "1qrdZlaDi272eA79b0uCwwqPrm2Q_WI3k", (File("NEU-DET.zip"),)),
            Place("kaggle", "kaustubhdikshit/neu-surface-defect-database", (File("archive.zip"),)),
        ),
        published={"all": 300},
        images=1800,
        stored=(200, 200),
        formats="BMP in a RAR file, or JPG in a ZIP file",
        class_names={
            "Cr": "crazing",
            "In": "inclusion",
            "Pa": "patches",
            "PS": "pitted_surface",
            "RS": "rolled-in_scale",
            "Sc": "scratches",
        },
        numbered=True,
        suffix_notes={".jpg": "NEU-DET JPG copy, not the authors' BMP files"},
    ),
    "bsd": Entry(
        citation="Schlagenhauf: Ball Screw Drive Surface Defect Dataset for Classification. "
        "Karlsruhe Institute of Technology, 2021, DOI 10.5445/IR/1000133819.",
        licence="CC BY-SA 4.0 or CC BY-NC 4.0",
        terms="Its copies disagree: CC BY-SA 4.0 or CC BY-NC 4.0. Keep to both: attribute, share alike, no commerce.",
        places=(
            Place("huggingface", "2OBe/Ball_Screw_Drive_Classification"),
            Place(
                "page",
                "https://publikationen.bibliothek.kit.edu/1000133819",
                by_hand="the folder of N (…).png, P (…).png",
            ),
        ),
        published={"all": 10_760},
        images=21_835,
        formats="parquet, or a folder of PNG",
        local_folders=("bsd_crops",),
        class_names={"N": "no pitting", "P": "pitting"},
        rotated_copies=True,
        folder_notes={"bsd_crops": "crops around pitting, not the BSD classification set"},
    ),
    "tex": Entry(
        citation="Belkhir: Textile Defect Detection. Kaggle; cut from Bergmann et al.: MVTec AD, a comprehensive "
        "real-world dataset for unsupervised anomaly detection. CVPR 2019.",
        licence="CC BY-NC-SA 4.0",
        terms="CC BY-NC-SA 4.0, as the MVTec AD photographs that it is cut from: no commercial use.",
        places=(Place("kaggle", "belkhirnacim/textiledefectdetection", (File("archive.zip"),)),),
        published={"all": 18_000},
        images=108_000,
        counted=False,  # inferred from file numbers in the authors' listings
        download="about 4 GB",
        stored=(64, 64),
        formats="HDF5 and CSV in a ZIP file",
    ),
}


def label_order(dataset: str, names: Sequence[str], *, synthetic: bool, where: Path) -> tuple[list[str], list[int]]:
    """The dataset's classes in label order, and the label of each of the files' classes.

    Classes are matched by name, never by the order of the files (docs/reference.md 4.1). A synthetic
    twin may have only the first of the protocol's classes; the user's own are sorted by name.

    Args:
        names: the class names in the files.

    Raises:
        InputError: a class is unknown, missing or there twice.
    """
    if dataset not in SOURCES:
        classes = sorted(names)
        return classes, [classes.index(name) for name in names]
    entry, expected = SOURCES[dataset], DATASETS[dataset].classes
    own = [entry.class_names.get(name, name) for name in names]
    if synthetic:
        classes = list(expected[: len(names)])
    elif entry.sorted_names:
        classes = sorted(own)
        if len(set(own)) != len(expected):
            raise InputError(f"{where}: {len(set(own))} classes, but {dataset} has {len(expected)}; complete the files")
    else:
        classes = list(expected)
    for name, known in zip(names, own, strict=True):
        if known not in classes:
            allowed = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
            raise InputError(f"{where}: unknown class {name!r} for {dataset}; its classes are {allowed}")
    for name in classes:
        if own.count(name) != 1:
            problem = "is missing" if name not in own else "is there twice"
            raise InputError(f"{where}: class {name!r} of {dataset} {problem}; correct the files")
    return classes, [classes.index(name) for name in own]


def file_number(identity: str) -> int | None:
    """The last number in a file's name: 17 for `crazing_17.jpg`."""
    found = re.findall(r"\d+", PurePath(identity).stem)
    return int(found[-1]) if found else None


def group(dataset: str, identity: str) -> str:
    """What an image must not be parted from when pools are drawn: for BSD, the original of a rotated copy."""
    if dataset not in SOURCES or not SOURCES[dataset].rotated_copies:
        return identity
    path = PurePath(identity)
    return str(path.with_name(path.stem.rstrip("_") + path.suffix)) if path.stem.rstrip("_") else identity


def content_notes(dataset: str, records: Sequence[Record]) -> list[str]:
    """What must be said because of what the files hold: their type, and how many were published."""
    if dataset not in SOURCES:
        return []
    entry = SOURCES[dataset]
    suffixes = {PurePath(record.identity).suffix.lower().replace(".jpeg", ".jpg") for record in records}
    notes = [entry.note] if entry.note else []
    notes += [note for suffix, note in entry.suffix_notes.items() if suffixes == {suffix}]
    missing = []
    for files, published in entry.published.items():
        per_class = Counter(
            record.label for record in records if files == "all" or (record.pool == "test") == (files == "test")
        )
        held = max(per_class.values(), default=0)
        if held < published:
            kind = {"train": "training ", "test": "test ", "all": ""}[files]
            missing.append(f"{held:,} of {published:,} {kind}")
    if missing:
        notes.append(f"subset: {'and '.join(missing)}images per class")
        notes += [entry.subset_note] if entry.subset_note else []
    return notes
