"""The authors' protocol: every per-dataset constant, once.

Source: docs/reference.md, sections 1.5, 1.6, 2.4, 4, 5 and 6.1 (read from the authors' notebooks
and solved from their logs).
"""

from dataclasses import dataclass, field

BACKBONES = ("alexnet", "vgg", "resnet")
MEMBERS = 5
BATCH_SIZE = 10
HEAD_EPOCHS, TUNING_EPOCHS, TUNING_LEARNING_RATE = 50, 20, 1e-5


@dataclass(frozen=True)
class HeadProtocol:
    """A head: the small net of a trained combiner, which `fdl.training.heads` builds."""

    title: str
    units: int | None = None  # of its hidden layer; None: the dataset's
    learning_rate: float | None = None  # None: the `fusion_learning_rate` of backbone and dataset


HEADS = {"fusion": HeadProtocol("fusion"), "stacking": HeadProtocol("stacking", 128, 1e-3)}


@dataclass(frozen=True)
class BackboneProtocol:
    """What the authors used for one backbone on one dataset."""

    variant: str  # "alexnet", "vgg-a", "vgg-b", "vgg-c", "resnet-3", "resnet-4"
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

DATASETS: dict[str, DatasetProtocol] = {
    "cifar10": DatasetProtocol(
        "CIFAR-10", _CIFAR10, 32, 128, 1, 300, "sum", 4000, 200, (1000,), False,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (0.5, 0.05), 1e-3, False, {400: (0.5, 0.01)}),
            "vgg": BackboneProtocol("vgg-a", 1e-3, (1, 10), 1e-3, False, pool=3750),
            "resnet": BackboneProtocol("resnet-3", 1e-3, (1, 10), 1e-3, False, pool=3750),
        },
        heads=("fusion", "stacking"),
    ),
    "cifar100": DatasetProtocol(
        "CIFAR-100", _CIFAR100, 32, 512, 1, 300, "sum", 400, 20, (100,), False,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (1, 0.1), 1e-4, False, {400: (0.5, 0.1)}),
            "vgg": BackboneProtocol("vgg-b", 1e-3, (0.1, 5), 1e-4, True),
            "resnet": BackboneProtocol("resnet-3", 1e-3, (1, 10), 1e-4, True),
        },
    ),
    "miniimagenet": DatasetProtocol(
        "miniImageNet", _MINI, 84, 512, 2, 200, "sum", 400, 20, (120,), False,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (1, 0.01), 1e-3, False),
            "vgg": BackboneProtocol("vgg-c", 1e-4, (1, 10), 1e-5, True),
            "resnet": BackboneProtocol("resnet-4", 1e-3, (1, 10), 1e-4, True),
        },
    ),
    "neu": DatasetProtocol(
        "NEU", ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"),
        200, 128, 2, 300, "sum3", 180, 60, (60,), True,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (1, 10), 1e-3, True),
            "vgg": BackboneProtocol("vgg-c", 1e-3, (1, 10), 1e-3, True),
            "resnet": BackboneProtocol("resnet-4", 1e-4, (1, 10), 1e-5, True),
        },
    ),
    "bsd": DatasetProtocol(
        "BSD", ("no pitting", "pitting"), 100, 128, 2, 300, "sum3", None, 1000, (2072, 2000), True,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (0.5, 0.05), 1e-3, True),
            "vgg": BackboneProtocol("vgg-c", 1e-3, (1, 10), 1e-5, True),
            "resnet": BackboneProtocol("resnet-4", 1e-4, (1, 1), 1e-3, True),
        },
    ),
    "tex": DatasetProtocol(
        "TEX", ("color", "cut", "good", "hole", "metal_contamination", "thread"),
        64, 128, 2, 300, "sum3", 12000, 400, (3600,), True,
        {
            "alexnet": BackboneProtocol("alexnet", 1e-4, (1, 0.03), 1e-3, True),
            "vgg": BackboneProtocol("vgg-c", 1e-4, (1, 10), 1e-4, True),
            "resnet": BackboneProtocol("resnet-4", 1e-4, (1, 0.1), 1e-5, False),
        },
    ),
}  # fmt: skip


def images_name(dataset: str, pool: int | None) -> str:
    """What files and folders call a dataset's images: its name, with the pool where that is a backbone's own."""
    return dataset if pool is None else f"{dataset}-pool{pool}"
