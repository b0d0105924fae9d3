"""The authors' protocol, and the published datasets: all that is known of each in one entry of `DATASETS`.

Source: docs/reference.md, sections 1.5, 1.6, 2.4, 4, 5 and 6.1 (read from the authors' notebooks
and solved from their logs).
"""

from dataclasses import dataclass, field
from typing import Literal

from fdl.core.places import File, Place, Publication

BACKBONES = {  # with their printed names
    "alexnet": "AlexNet",
    "vgg": "VGG",
    "resnet": "ResNet",
}
MEMBERS = 5
BATCH_SIZE = 10
HEAD_EPOCHS, TUNING_EPOCHS, TUNING_LEARNING_RATE = 50, 20, 1e-5


@dataclass(frozen=True)
class HeadProtocol:
    """A head: the small net of a trained combiner, two dense layers, which `fdl.training.heads` builds."""

    title: str
    reads: Literal["maps", "probabilities"]  # of the members
    batch_norm: bool = False  # after the hidden layer
    dropout: float = 0.0  # before the output layer
    units: int | None = None  # of the hidden layer; None: the dataset's
    learning_rate: float | None = None  # None: the `fusion_learning_rate` of backbone and dataset


HEADS = {  # a new one comes last: the place in this order is part of the key of its weights and dropout
    "fusion": HeadProtocol("fusion", "maps", batch_norm=True, dropout=0.5),
    "stacking": HeadProtocol("stacking", "probabilities", units=128, learning_rate=1e-3),
}


@dataclass(frozen=True)
class BackboneProtocol:
    """What the authors used for one backbone on one dataset."""

    variant: str  # of the network, such as "vgg-a": the module of `fdl.models`, a dash, which of its variants
    learning_rate: float  # constant Adam rate of the base training
    weights: tuple[float, float]  # (cosine, Gaussian) weight of the distance loss
    fusion_learning_rate: float
    fusion_augmentation: bool
    # Shots with weights of their own. None of the paper's 3 to 100: with weights that change on the way, the effect of
    # the shots and that of the weights could not be told apart (docs/deviations.md).
    weights_at: dict[int, tuple[float, float]] = field(default_factory=dict)
    pool: int | None = None  # training pool, images per class, where it is not the dataset's

    def weights_for(self, shots: int) -> tuple[float, float]:
        """The (cosine, Gaussian) weights at this number of images per class."""
        return self.weights_at.get(shots, self.weights)


@dataclass(frozen=True)
class DatasetProtocol:
    """What the authors used for one dataset. Counts are images per class unless said otherwise."""

    title: str
    classes: tuple[str, ...]  # in label order
    image_size: int  # pixels, square
    hidden_units: int  # dense layer of AlexNet, VGG and the fusion head
    conv1_stride: int  # of AlexNet
    epochs: int
    selection: str  # the authors' own checkpoint rule
    pool: int | None  # training pool; None: not recorded
    validation: int
    test: tuple[int, ...]  # one number per class, or one for all
    first_k: bool  # the authors took the first k files instead of drawing at random
    backbones: dict[str, BackboneProtocol]
    source: Publication  # where it is published, and what must be said of it
    heads: tuple[str, ...] = ("fusion",)  # that the authors trained


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Alphabetical, as in the published `fine_label_names`.
_CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
# miniImageNet's labels are its 100 WordNet ids in sorted order; they are read from the data.
_MINI = tuple(f"class {label:02d}" for label in range(100))

# Hashes of the archives: torchvision and Keras have the same ones; that of NEU is from one source only.
_CIFAR10_ARCHIVE = "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_CIFAR100_ARCHIVE = "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
_NEU_CLS = "sha256:a85bcc6bfa1a40e76f28079e135694aaf5f6a4ee01203f7eaacff0ebafaa96f8"
_TORONTO = "https://www.cs.toronto.edu/~kriz"
_KRIZHEVSKY = "Krizhevsky: Learning Multiple Layers of Features from Tiny Images. University of Toronto, 2009."


DATASETS: dict[str, DatasetProtocol] = {
    "cifar10": DatasetProtocol(
        "CIFAR-10", _CIFAR10, 32, 128, 1, 300, "sum", 4000, 200, (1000,), False,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (0.5, 0.05), 1e-3, False, {400: (0.5, 0.01)}),
            "vgg": BackboneProtocol("vgg-a", 1e-3, (1, 10), 1e-3, False, pool=3750),
            "resnet": BackboneProtocol("resnet-3", 1e-3, (1, 10), 1e-3, False, pool=3750),
        },
        heads=("fusion", "stacking"),
        source=Publication(
            citation=_KRIZHEVSKY,
            licence="none stated",
            terms="No licence is stated; cite the report if you use the images.",
            places=(
                Place("web", _TORONTO, (File("cifar-10-python.tar.gz", 170_498_071, _CIFAR10_ARCHIVE),)),
                Place("huggingface", "uoft-cs/cifar10"),
            ),
            published={"train": 5000, "test": 1000},
            images=60_000,
            download="170 MB",
            stored=(32, 32),
            formats="pickles in a tar file, or parquet",
        ),
    ),
    "cifar100": DatasetProtocol(
        "CIFAR-100", _CIFAR100, 32, 512, 1, 300, "sum", 400, 20, (100,), False,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (1, 0.1), 1e-4, False, {400: (0.5, 0.1)}),
            "vgg": BackboneProtocol("vgg-b", 1e-3, (0.1, 5), 1e-4, True),
            "resnet": BackboneProtocol("resnet-3", 1e-3, (1, 10), 1e-4, True),
        },
        source=Publication(
            citation=_KRIZHEVSKY,
            licence="none stated",
            terms="No licence is stated; cite the report if you use the images.",
            places=(
                Place("web", _TORONTO, (File("cifar-100-python.tar.gz", 169_001_437, _CIFAR100_ARCHIVE),)),
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
    ),
    "miniimagenet": DatasetProtocol(
        "miniImageNet", _MINI, 84, 512, 2, 200, "sum", 400, 20, (120,), False,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (1, 0.01), 1e-3, False),
            "vgg": BackboneProtocol("vgg-c", 1e-4, (1, 10), 1e-5, True),
            "resnet": BackboneProtocol("resnet-4", 1e-3, (1, 10), 1e-4, True),
        },
        source=Publication(
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
            parted_by_class=True,
            note="own split: the authors' lists are not published",
        ),
    ),
    "neu": DatasetProtocol(
        "NEU", ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"),
        200, 128, 2, 300, "sum3", 180, 60, (60,), True,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (1, 10), 1e-3, True),
            "vgg": BackboneProtocol("vgg-c", 1e-3, (1, 10), 1e-3, True),
            "resnet": BackboneProtocol("resnet-4", 1e-4, (1, 10), 1e-5, True),
        },
        source=Publication(
            citation="Song, Yan: A noise robust method based on completed local binary patterns for hot-rolled steel "
            "strip surface defects. Applied Surface Science 285, 2013; He et al.: An End-to-End Steel Surface Defect "
            "Detection Approach via Fusing Multiple Hierarchical Features. IEEE TIM 69, 2020.",
            licence="none stated",
            terms="No licence is stated: do not republish the images; cite both papers if you use them.",
            places=(
                Place("drive", "1NGlXT9sIaQpyxUoT6MLKm1Pr6x8oxOvc", (File("NEU-CLS.rar", hash=_NEU_CLS),)),
                Place(
                    "page",
                    "http://faculty.neu.edu.cn/songkc/en/zdylm/263265/list/",
                    by_hand="NEU-CLS (not NEU-CLS-64)",
                ),
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
    ),
    "bsd": DatasetProtocol(
        "BSD", ("no pitting", "pitting"), 100, 128, 2, 300, "sum3", None, 1000, (2072, 2000), True,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (0.5, 0.05), 1e-3, True),
            "vgg": BackboneProtocol("vgg-c", 1e-3, (1, 10), 1e-5, True),
            "resnet": BackboneProtocol("resnet-4", 1e-4, (1, 1), 1e-3, True),
        },
        source=Publication(
            citation="Schlagenhauf: Ball Screw Drive Surface Defect Dataset for Classification. "
            "Karlsruhe Institute of Technology, 2021, DOI 10.5445/IR/1000133819.",
            licence="CC BY-SA 4.0 or CC BY-NC 4.0",
            terms="Its copies disagree: CC BY-SA 4.0 or CC BY-NC 4.0. Keep to both: attribute, share alike, no "
            "commerce.",
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
    ),
    "tex": DatasetProtocol(
        "TEX", ("color", "cut", "good", "hole", "metal_contamination", "thread"),
        64, 128, 2, 300, "sum3", 12000, 400, (3600,), True,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (1, 0.03), 1e-3, True),
            "vgg": BackboneProtocol("vgg-c", 1e-4, (1, 10), 1e-4, True),
            "resnet": BackboneProtocol("resnet-4", 1e-4, (1, 0.1), 1e-5, False),
        },
        source=Publication(
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
            validation_in_test=True,
        ),
    ),
}  # fmt: skip


def images_name(dataset: str, pool: int | None) -> str:
    """What files and folders call a dataset's images: its name, with the pool where that is a backbone's own."""
    return dataset if pool is None else f"{dataset}-pool{pool}"
