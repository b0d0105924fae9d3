"""What a grid is made of: datasets, backbones, blocks of cells, cells and their bundles."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from fdl.core import torchvision_nets
from fdl.core.errors import InputError
from fdl.core.protocol import BACKBONES, DATASETS, HEADS

if TYPE_CHECKING:  # it cannot read the names from there
    Dataset = str
    HeadName = str
else:
    Dataset, HeadName = Literal[*DATASETS], Literal[*HEADS]


def _backbone(name: str) -> str:
    try:
        return torchvision_nets.checked(name)
    except InputError as error:
        raise ValueError(str(error)) from None


# One of the authors', or one of torchvision's classifiers, `torchvision:resnet18`; its form with a dash goes into
# names of folders. The pattern is for editors: what is wrong is said by `torchvision_nets.checked`.
_BACKBONES = rf"^({'|'.join(BACKBONES)}|torchvision[:-][a-z0-9_]+(@[A-Za-z0-9_.]+)?)$"
Backbone = Annotated[str, Field(max_length=100, json_schema_extra={"pattern": _BACKBONES}), AfterValidator(_backbone)]
Pixels = Annotated[int, Field(ge=16, le=1024)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, le=10_000)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")]
# A registered method, or the user's own function, `module:function`; its dotted form goes into names of folders.
_METHOD = r"^([a-z0-9][a-z0-9_-]{0,40}|[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*[.:][A-Za-z_][A-Za-z0-9_]*)$"
MethodName = Annotated[str, Field(pattern=_METHOD, max_length=100), AfterValidator(lambda name: name.replace(":", "."))]
# No dash: in the names of folders it parts a dataset from its size.
DatasetName = Annotated[str, Field(pattern=r"^[a-z0-9]{1,40}$")]


@dataclass(frozen=True, order=True)
class Bundle:
    """All cells of one dataset, backbone and number of shots: one process, one job."""

    dataset: str
    backbone: str
    shots: int

    @property
    def key(self) -> str:
        """The bundle's folder below `results/<preset>/`."""
        return f"{self.dataset}/{self.backbone}/{self.shots}shot"


@dataclass(frozen=True, order=True)
class Cell:
    """One trained ensemble."""

    dataset: str
    backbone: str
    shots: int
    method: str
    seed: int

    @property
    def bundle(self) -> Bundle:
        """The bundle that the cell belongs to."""
        return Bundle(self.dataset, self.backbone, self.shots)

    @property
    def key(self) -> str:
        """The cell's folder below `results/<preset>/`."""
        return f"{self.bundle.key}/{self.method}/seed{self.seed}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """The cell of a key; raises `ValueError` where it is the key of none."""
        parts = re.fullmatch(r"([^/]+)/([^/]+)/(\d+)shot/([^/]+)/seed(\d+)", key)
        if parts is None:
            raise ValueError(f"{key}: not <dataset>/<backbone>/<k>shot/<method>/seed<s>")
        dataset, backbone, shots, method, seed = parts.groups()
        return cls(dataset, backbone, int(shots), method, int(seed))


class Strict(BaseModel):
    """Settings that know their keys and types, and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class OwnDataset(Strict):
    """The user's own images: a folder of class folders, or of train, validation, test with class folders."""

    name: DatasetName = Field(description="what the grid and the folders call it")
    title: Annotated[str, Field(min_length=1, max_length=60)] | None = Field(
        default=None, description="what tables, figures and pages call it; null: its name"
    )
    folder: Annotated[str, Field(min_length=1)] = Field(
        description="relative to the working directory, or absolute; may begin with $FDL_DATA_DIR"
    )
    image_size: Pixels = Field(description="side in pixels that the images are resized to")
    like: Dataset = Field(description="whose networks, learning rates, loss weights, epochs and selection are used")
    antialias: bool = Field(default=True, description="false: photographs are shrunk by nearest neighbour")

    @property
    def path(self) -> Path:
        """`folder` with the home directory and the environment's variables put in."""
        return Path(os.path.expandvars(self.folder)).expanduser()


# The branch is chosen by the form: so a wrong key or value is explained by the model that was meant.
DatasetItem = Annotated[
    Annotated[Dataset, Tag("published")] | Annotated[OwnDataset, Tag("own")],
    Discriminator(lambda item: "own" if isinstance(item, Mapping | OwnDataset) else "published"),
]


class GridBlock(Strict):
    """Some cells; what is left out is taken from the lists at the top level."""

    datasets: list[DatasetName] | None = Field(default=None, min_length=1)
    backbones: list[Backbone] | None = Field(default=None, min_length=1)
    shots: list[Count] | None = Field(default=None, min_length=1)
    methods: list[MethodName] | None = Field(default=None, min_length=1)
    seeds: list[Seed] | None = Field(default=None, min_length=1)
    epochs: Count | None = Field(default=None, description="epochs of these cells")


class Claims(Strict):
    """What the verdicts rest on."""

    grid: list[GridBlock] | None = Field(min_length=1, description="the frozen cells; null: no verdict is given")
    rules: Literal[1, 2] = Field(default=2, description="version of the rules in docs/claims.md; 1: for preset lite")
    remark: str | None = Field(default=None, description="a caveat that is printed beside the verdicts")
    reruns: dict[DatasetName, Annotated[float, Field(ge=0)]] | None = Field(
        default=None,
        description="points (s.d.) by which the difference of a pair moves when it is trained again with the same seed "
        "and other rounding, by dataset; null: not measured",
    )
