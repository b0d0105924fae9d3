"""The resolved settings of a preset: which values are allowed, and what follows from them for a cell or dataset."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import astuple, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fdl.core import torchvision_nets
from fdl.core.controls import CONTROLS, Control
from fdl.core.errors import InputError, abbreviated, unknown
from fdl.core.files import write_atomically
from fdl.core.fused_methods import NARROW, distance_terms
from fdl.core.grid import (
    Backbone,
    Bundle,
    Cell,
    Claims,
    Count,
    Dataset,
    DatasetItem,
    DatasetName,
    GridBlock,
    HeadName,
    MethodName,
    Name,
    OwnDataset,
    Pixels,
    Seed,
    Strict,
)
from fdl.core.method_parameters import method_params
from fdl.core.method_sources import method_source
from fdl.core.protocol import DATASETS, BackboneProtocol, DatasetProtocol, images_name
from fdl.core.provenance import PROGRAM_VERSION, TRAINING_VERSION
from fdl.core.settings_file import dump

Source = Literal["synthetic", "local", "official"]
Selection = Literal["sum", "sum3", "own", "last", "sum-small", "authors"]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


# A larger grid is a slip of the hand, and would take minutes to list.
CELLS_AT_MOST = 100_000


class Params(Strict):
    """The resolved settings of one preset."""

    preset: Name
    source: Source = Field(description="where the images come from")
    data_dir: str | None = Field(description="folder of the local source; null: $FDL_DATA_DIR")
    datasets: list[DatasetItem] = Field(
        min_length=1, description="names, or mappings that describe the user's own images"
    )
    absent: dict[Dataset, str] = Field(
        default_factory=dict, description="published datasets without images at hand, and why: empty rows in tables"
    )
    backbones: list[Backbone] = Field(min_length=1)
    shots: list[Count] = Field(min_length=1, description="training images per class")
    methods: list[MethodName] = Field(min_length=1, description="names, or module:function: your own in a module")
    seeds: list[Seed] = Field(min_length=1)
    grid: list[GridBlock] | None = Field(
        min_length=1, description="cells as blocks; null: the product of the lists above"
    )
    draws: Literal["random", "fixed"] = Field(description="random: one draw of images per seed; fixed: draw 0")
    near_duplicates: dict[Dataset, str] = Field(
        default_factory=dict, description="ciFAIR's lists of test images that resemble a training image: CSV files"
    )
    cifar10_pools: Literal["shared", "authors"] = Field(
        description="shared: all backbones draw from one pool; authors: VGG and ResNet from a smaller one, as theirs"
    )
    members: Annotated[int, Field(ge=2, le=20)]
    image_size: Pixels | dict[Dataset, Pixels] | None = Field(description="pixels; null: the authors'; own have theirs")
    antialias: bool = Field(description="false: resize by nearest neighbour, as the authors; true: antialiased")
    width: Annotated[float, Field(gt=0, le=8, allow_inf_nan=False)] = Field(
        description="factor on all channel counts of the authors' backbones; torchvision's have their own"
    )
    weights: dict[Backbone, str] = Field(
        default_factory=dict, description="files of weights that torchvision's backbones start from"
    )
    epochs: Count | dict[DatasetName, Count] | None = Field(description="null: the authors' (300, miniImageNet 200)")
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    learning_rate: Rate | None = Field(description="constant Adam rate; null: the authors' per dataset and backbone")
    cosine_weight: Weight | None = Field(description="null: the authors' per dataset, backbone and shots")
    gaussian_weight: Weight | None = Field(description="null: the authors'")
    method_params: dict[MethodName, dict[str, Finite]] = Field(
        default_factory=dict, description="values of methods' parameters, a mapping per method"
    )
    augment: bool
    selections: list[Selection] = Field(min_length=1, description="the first is the one in the headline table")
    evaluate_every: Count | None = Field(description="epochs between validations; null: once, after the last")
    bn_statistics: Literal["moving", "reestimate"]
    precision: Literal["float32", "tf32", "bfloat16", "auto"]
    keep_weights: bool
    heads: list[HeadName] | None = Field(description="trained combiners; null: the authors', []: none")
    head_epochs: Count | None
    tuning_epochs: Annotated[int, Field(ge=0)] | None
    head_learning_rate: Rate | None
    head_augment: bool | None
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1, le=256)] = Field(description="CPU threads of one bundle process")
    claims: Claims

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        datasets = [*DATASETS, *(own.name for own in self._own_datasets())]
        for own in self._own_datasets():
            if own.name in DATASETS:
                raise ValueError(f"datasets: your own images cannot be called {own.name!r}: it is a published dataset")
        self._check_lists(datasets)
        for method in self.method_params:
            self._check_method(method)
        self._check_weights()
        self._check_near_duplicates()
        epochs = self.epochs if isinstance(self.epochs, dict) else {}
        for key, named in (("epochs", epochs), ("claims.reruns", self.claims.reruns or {})):
            for dataset in named:
                if dataset not in datasets:
                    raise ValueError(f"{key}: {unknown(dataset, datasets)}")
        if len(set(self.selections)) < len(self.selections):
            raise ValueError(f"selections: {self.selections} names a rule twice")
        if len(set(self.heads or [])) < len(self.heads or []):
            raise ValueError(f"heads: {self.heads} names a head twice")
        if self.evaluate_every is None and self.selections != ["last"]:
            raise ValueError(f"selections: {self.selections} needs validations: set evaluate_every, or use [last]")
        self._check_cells()
        return self

    def _check_lists(self, datasets: Sequence[str]) -> None:
        """The lists at the top and in blocks of the grids; `datasets`: those that there are."""
        for name, cell_blocks in (("grid", self.grid), ("claims.grid", self.claims.grid)):
            count = sum(math.prod(map(len, self._lists(block))) for block in cell_blocks or [GridBlock()])
            if count > CELLS_AT_MOST:
                raise ValueError(f"{name}: {count:,} cells are too many: at most {CELLS_AT_MOST:,}; shorten the lists")
        blocks: list[Params | GridBlock] = [self, *(self.grid or []), *(self.claims.grid or [])]
        for block in blocks:
            chosen = self.dataset_names if block is self else block.datasets or []
            for name in ("datasets", "backbones", "shots", "methods", "seeds"):
                values = chosen if name == "datasets" else getattr(block, name) or []
                if len(set(values)) < len(values):
                    raise ValueError(f"{name}: {abbreviated(values)} names a value twice")
            for method in block.methods or []:
                self._check_method(method)
            for dataset in chosen:
                if dataset not in datasets:
                    raise ValueError(f"datasets: {unknown(dataset, datasets)}")

    def _check_cells(self) -> None:
        cells = self.cells()
        if len(set(cells)) < len(cells):
            raise ValueError("grid: two blocks name the same cell")
        for dataset in {cell.dataset for cell in cells} & self.absent.keys():
            raise ValueError(f"absent: {dataset!r} is in the grid; name it in one of the two")
        for cell in cells:
            if torchvision_nets.parse(cell.backbone) and self.control(cell).one_net:
                raise ValueError(
                    f"methods: {cell.method} needs a backbone whose width can be set; {cell.backbone} has its own: "
                    "name its methods in a block of grid"
                )

    def _check_weights(self) -> None:
        for backbone, file in self.weights.items():
            net = torchvision_nets.parse(backbone)
            if net is None or net.node:
                raise ValueError(f"weights: {backbone}: only nets of torchvision start from a file, named without @")
            if not Path(file).is_file():
                raise ValueError(f"weights: {backbone}: {file}: no such file; nothing is downloaded")

    def _check_near_duplicates(self) -> None:
        for dataset, file in self.near_duplicates.items():
            if dataset not in ("cifar10", "cifar100"):
                raise ValueError(f"near_duplicates: {dataset}: ciFAIR lists only those of cifar10 and cifar100")
            if self.source != "official":
                raise ValueError(
                    f"near_duplicates: {dataset}: its list numbers the official files, but source is {self.source!r}"
                )
            if not Path(file).is_file():
                raise ValueError(f"near_duplicates: {dataset}: {file}: no such file; nothing is downloaded")

    def _check_method(self, method: str) -> None:
        try:
            self._method_params(method, (0, 0))
        except InputError as error:
            raise ValueError(str(error)) from None

    def _method_params(self, method: str, weights: tuple[float, float]) -> dict[str, float]:
        """Values of a method's parameters in a cell whose (cosine, Gaussian) weights are `weights`."""
        cosine, gaussian = weights
        known = {
            "cosine_weight": cosine if self.cosine_weight is None else self.cosine_weight,
            "gaussian_weight": gaussian if self.gaussian_weight is None else self.gaussian_weight,
        }
        return method_params(method, method_source(method), known, self.method_params.get(method, {}))

    @property
    def dataset_names(self) -> list[str]:
        """The names of `datasets`."""
        return [item.name if isinstance(item, OwnDataset) else item for item in self.datasets]

    def _own_datasets(self) -> list[OwnDataset]:
        return [item for item in self.datasets if isinstance(item, OwnDataset)]

    def own(self, dataset: str) -> OwnDataset | None:
        """The entry of a dataset of the user's own images; None for a published dataset."""
        return next((own for own in self._own_datasets() if own.name == dataset), None)

    def protocol(self, dataset: str) -> DatasetProtocol:
        """How a dataset is trained on: the authors' constants, or for the user's own images those of its `like`.

        The classes of the user's own images are the names of their folders, which only the prepared dataset knows:
        here there are none. Their training images are always drawn at random.
        """
        own = self.own(dataset)
        if own is None:
            return DATASETS[dataset]
        return replace(
            DATASETS[own.like], title=own.title or own.name, classes=(), image_size=own.image_size, first_k=False
        )

    def backbone_protocol(self, cell: Cell) -> BackboneProtocol:
        """How a cell's backbone is trained on its dataset: the authors' constants, or those of torchvision's nets."""
        if torchvision_nets.parse(cell.backbone):
            return torchvision_nets.PROTOCOL
        return self.protocol(cell.dataset).backbones[cell.backbone]

    def control(self, cell: Cell) -> Control:
        """How a control is trained; for other methods, as all are."""
        return CONTROLS.get(cell.method, Control())

    def members_of(self, cell: Cell) -> int:
        """Nets of a cell: `members`, or the one of a control."""
        return 1 if self.control(cell).one_net else self.members

    def width_of(self, cell: Cell) -> float:
        """Factor on the channel counts of a cell's nets."""
        if torchvision_nets.parse(cell.backbone):
            return 1.0
        return self.width * math.sqrt(self.members) if self.control(cell).one_net else self.width

    def fuses(self, cell: Cell) -> bool:
        """Whether a cell's training can share a fused program: the authors' nets, shared batches, a declared loss."""
        control = self.control(cell)
        alone = self.members_of(cell) == 1 or control.own_batches or control.rate_factors
        authors = torchvision_nets.parse(cell.backbone) is None
        return authors and not alone and distance_terms(cell.method) is not None

    def fuses_on_cpu(self, cell: Cell) -> bool:
        """Whether a CPU trains it in one program with its seed's other methods: narrow nets are slow one by one."""
        return self.width_of(cell) <= NARROW and self.fuses(cell)

    def weights_of(self, cell: Cell) -> str | None:
        """File of the weights that a cell's nets start from; None: random ones."""
        net = torchvision_nets.parse(cell.backbone)
        return self.weights.get(f"torchvision-{net.name}") if net else None

    def source_of(self, dataset: str) -> str:
        """Where a dataset's images come from: `source`, or `own`."""
        return "own" if self.own(dataset) else self.source

    def cells(self) -> list[Cell]:
        """Every cell of the grid, ordered by bundle, method and seed as the lists are."""
        cells = []
        for block in self.grid or [GridBlock()]:
            cells += [Cell(*values) for values in product(*self._lists(block))]
        return cells

    def _lists(self, block: GridBlock) -> tuple[Sequence[Any], ...]:
        """What a block is the product of, in the order of a cell's fields."""
        return (
            block.datasets or self.dataset_names,
            block.backbones or self.backbones,
            block.shots or self.shots,
            block.methods or self.methods,
            block.seeds or self.seeds,
        )

    def bundles(self) -> dict[Bundle, list[Cell]]:
        """The cells of every bundle."""
        bundles: dict[Bundle, list[Cell]] = {}
        for cell in self.cells():
            bundles.setdefault(cell.bundle, []).append(cell)
        return bundles

    def image_size_of(self, dataset: str) -> int:
        """Side of the square images in pixels."""
        own = self.own(dataset)
        return own.image_size if own else _of(self.image_size, dataset) or DATASETS[dataset].image_size

    def antialias_of(self, dataset: str) -> bool:
        """Whether images are shrunk with antialiasing: the user's own have a setting of their own."""
        own = self.own(dataset)
        return own.antialias if own else self.antialias

    def epochs_of(self, cell: Cell) -> int:
        """Epochs that the cell is trained for."""
        for block in self.grid or []:
            lists = zip(astuple(cell), self._lists(block), strict=True)
            if block.epochs and all(value in values for value, values in lists):
                return block.epochs
        return _of(self.epochs, cell.dataset) or self.protocol(cell.dataset).epochs

    def pool_of(self, dataset: str, backbone: str) -> int | None:
        """Images per class in the training pool that is the backbone's own; None: it shares the dataset's."""
        if self.cifar10_pools == "shared" or self.own(dataset):
            return None
        own = DATASETS[dataset].backbones.get(backbone)
        return own.pool if own else None

    def images(self) -> dict[str, tuple[str, int | None]]:
        """Dataset and pool of all images that the grid uses, by their name (`images_name`)."""
        used = dict.fromkeys(
            (bundle.dataset, self.pool_of(bundle.dataset, bundle.backbone)) for bundle in self.bundles()
        )
        return {images_name(dataset, pool): (dataset, pool) for dataset, pool in used}

    def draw_of(self, seed: int) -> int:
        """Index of the k-shot draw that a seed uses."""
        return seed if self.draws == "random" else 0

    def selections_of(self, dataset: str) -> list[str]:
        """The selection rules for a dataset, `authors` resolved to the authors' own."""
        rules = [self.protocol(dataset).selection if rule == "authors" else rule for rule in self.selections]
        return list(dict.fromkeys(rules))

    def training_settings(self, cell: Cell) -> dict[str, Any]:
        """What decides the numbers of a cell's training, as requested (not what the machine made of it).

        The settings digest is taken over these; keys that decide nothing (device, threads,
        keep_weights) stay out, so that changing them retrains nothing.
        """
        own = self.own(cell.dataset)
        protocol = self.backbone_protocol(cell)
        control, weights = self.control(cell), self.weights_of(cell)
        learning_rate = self.learning_rate or protocol.learning_rate
        pool = self.pool_of(cell.dataset, cell.backbone)
        return {
            "cell": cell.key,
            "source": self.source_of(cell.dataset),
            **({"pool": pool} if pool else {}),
            "draw": self.draw_of(cell.seed),
            "method_digest": method_source(cell.method).digest,
            "method_params": self._method_params(cell.method, protocol.weights_for(cell.shots)),
            "variant": protocol.variant,
            **({"like": own.like} if own else {}),
            "members": self.members_of(cell),
            "image_size": self.image_size_of(cell.dataset),
            "width": self.width_of(cell),
            **({"weights_sha256": torchvision_nets.weights_hash(weights)} if weights else {}),
            **({"own_batches": True} if control.own_batches else {}),
            "epochs": self.epochs_of(cell),
            "batch_size": self.batch_size,
            "learning_rate": learning_rate,
            **(
                {"learning_rates": [factor * learning_rate for factor in control.rate_factors]}
                if control.rate_factors
                else {}
            ),
            "augment": self.augment,
            "selections": self.selections_of(cell.dataset),
            "evaluate_every": self.evaluate_every,
            "bn_statistics": self.bn_statistics,
            "precision": self.precision,
            **({"antialias": True} if self.antialias_of(cell.dataset) else {}),
            "training_version": TRAINING_VERSION,
            **({"program_version": PROGRAM_VERSION} if self.fuses_on_cpu(cell) else {}),
        }

    def settings_digest(self, cell: Cell) -> str:
        """Digest of `training_settings`: a cell is trained again when it changes."""
        return digest(self.training_settings(cell))

    def hash(self) -> str:
        """Hash over all resolved values."""
        return digest(self.model_dump(mode="json"))[:12]

    def write(self, folder: Path) -> Path:
        """Write the resolved settings into `<folder>/<preset>/params/`, unless they are there; return the file."""
        path = folder / self.preset / "params" / f"{self.hash()}.yaml"
        if not path.exists():
            write_atomically(path, dump(self.model_dump(mode="json")).encode())
        return path


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _of(value: Any, dataset: str) -> Any:
    return value.get(dataset) if isinstance(value, dict) else value
