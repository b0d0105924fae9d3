"""Settings: one `params.yaml`, validated and typed.

The values are the file's defaults, then the block of `presets:` that `preset:` names, then
`overrides:`. Every key must stand in the file: it is the one place where defaults are written.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fdl.errors import InputError
from fdl.reference.protocol import DATASETS

Source = Literal["synthetic", "local"]
Dataset = Literal["cifar10", "cifar100", "miniimagenet", "neu", "bsd", "tex"]
Backbone = Literal["alexnet", "vgg", "resnet"]
Selection = Literal["sum", "sum3", "own", "last", "sum-small", "authors"]
Pixels = Annotated[int, Field(ge=16, le=1024)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, le=10_000)]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")]


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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GridBlock(_Strict):
    """Some cells; what is left out is taken from the lists at the top level."""

    datasets: list[Dataset] | None = Field(default=None, min_length=1)
    backbones: list[Backbone] | None = Field(default=None, min_length=1)
    shots: list[Count] | None = Field(default=None, min_length=1)
    methods: list[Name] | None = Field(default=None, min_length=1)
    seeds: list[Seed] | None = Field(default=None, min_length=1)
    epochs: Count | None = Field(default=None, description="epochs of these cells")


class Claims(_Strict):
    """What the verdicts rest on."""

    grid: list[GridBlock] | None = Field(description="the frozen cells; null: no verdict is given")


class Params(_Strict):
    """The resolved settings of one preset."""

    preset: Name
    source: Source = Field(description="where the images come from")
    data_dir: str | None = Field(description="folder of the local source; null: $FDL_DATA_DIR")
    datasets: list[Dataset] = Field(min_length=1)
    backbones: list[Backbone] = Field(min_length=1)
    shots: list[Count] = Field(min_length=1, description="training images per class")
    methods: list[Name] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    grid: list[GridBlock] | None = Field(description="cells as blocks; null: the product of the lists above")
    draws: Literal["random", "fixed"] = Field(description="random: one draw of images per seed; fixed: draw 0")
    members: Annotated[int, Field(ge=2, le=20)]
    image_size: Pixels | dict[Dataset, Pixels] | None = Field(description="pixels; null: the authors'")
    width: Annotated[float, Field(gt=0, le=8, allow_inf_nan=False)] = Field(description="factor on all channel counts")
    epochs: Count | dict[Dataset, Count] | None = Field(description="null: the authors' (300, miniImageNet 200)")
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    learning_rate: Rate | None = Field(description="constant Adam rate; null: the authors' per dataset and backbone")
    cosine_weight: Weight | None = Field(description="null: the authors' per dataset, backbone and shots")
    gaussian_weight: Weight | None = Field(description="null: the authors'")
    augment: bool
    selections: list[Selection] = Field(min_length=1, description="the first is the one in the headline table")
    evaluate_every: Count | None = Field(description="epochs between validations; null: once, after the last")
    bn_statistics: Literal["moving", "reestimate"]
    precision: Literal["float32", "tf32", "bfloat16", "auto"]
    keep_weights: bool
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1, le=256)] = Field(description="CPU threads of one bundle process")
    claims: Claims

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        from fdl.provenance import method_names

        known = method_names()
        blocks: list[Params | GridBlock] = [self, *(self.grid or []), *(self.claims.grid or [])]
        for block in blocks:
            for name in ("datasets", "backbones", "shots", "methods", "seeds"):
                values = getattr(block, name) or []
                if len(set(values)) < len(values):
                    raise ValueError(f"{name}: {values} names a value twice")
            for method in block.methods or []:
                if method not in known:
                    raise ValueError(f"methods: {_unknown(method, known)}")
        if len(set(self.selections)) < len(self.selections):
            raise ValueError(f"selections: {self.selections} names a rule twice")
        if self.evaluate_every is None and self.selections != ["last"]:
            raise ValueError(f"selections: {self.selections} needs validations: set evaluate_every, or use [last]")
        cells = self.cells()
        if len(set(cells)) < len(cells):
            raise ValueError("grid: two blocks name the same cell")
        return self

    def cells(self) -> list[Cell]:
        """Every cell of the grid, ordered by bundle, method and seed as the lists are."""
        cells = []
        for block in self.grid or [GridBlock()]:
            cells += [
                Cell(*values)
                for values in product(
                    block.datasets or self.datasets,
                    block.backbones or self.backbones,
                    block.shots or self.shots,
                    block.methods or self.methods,
                    block.seeds or self.seeds,
                )
            ]
        return cells

    def bundles(self) -> dict[Bundle, list[Cell]]:
        """The cells of every bundle."""
        bundles: dict[Bundle, list[Cell]] = {}
        for cell in self.cells():
            bundles.setdefault(cell.bundle, []).append(cell)
        return bundles

    def image_size_of(self, dataset: str) -> int:
        """Side of the square images in pixels."""
        return _of(self.image_size, dataset) or DATASETS[dataset].image_size

    def epochs_of(self, cell: Cell) -> int:
        """Epochs that the cell is trained for."""
        for block in self.grid or []:
            if block.epochs and cell in self._block_cells(block):
                return block.epochs
        return _of(self.epochs, cell.dataset) or DATASETS[cell.dataset].epochs

    def _block_cells(self, block: GridBlock) -> list[Cell]:
        return self.model_copy(update={"grid": [block]}).cells()

    def draw_of(self, seed: int) -> int:
        """Index of the k-shot draw that a seed uses."""
        return seed if self.draws == "random" else 0

    def selections_of(self, dataset: str) -> list[str]:
        """The selection rules for a dataset, `authors` resolved to the authors' own."""
        rules = [DATASETS[dataset].selection if rule == "authors" else rule for rule in self.selections]
        return list(dict.fromkeys(rules))

    def training_settings(self, cell: Cell) -> dict[str, Any]:
        """What decides the numbers of a cell's training, as requested (not what the machine made of it).

        The settings digest is taken over these; keys that decide nothing (device, threads,
        keep_weights) stay out, so that changing them retrains nothing.
        """
        from fdl.provenance import TRAINING_VERSION, method_digest

        protocol = DATASETS[cell.dataset].backbones[cell.backbone]
        cosine, gaussian = protocol.weights_for(cell.shots)
        weights = {
            "cosine_weight": cosine if self.cosine_weight is None else self.cosine_weight,
            "gaussian_weight": gaussian if self.gaussian_weight is None else self.gaussian_weight,
        }
        return {
            "cell": cell.key,
            "source": self.source,
            "draw": self.draw_of(cell.seed),
            "method_digest": method_digest(cell.method),
            "method_params": weights if cell.method.startswith("fdl") else {},
            "variant": protocol.variant,
            "members": self.members,
            "image_size": self.image_size_of(cell.dataset),
            "width": self.width,
            "epochs": self.epochs_of(cell),
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate or protocol.learning_rate,
            "augment": self.augment,
            "selections": self.selections_of(cell.dataset),
            "evaluate_every": self.evaluate_every,
            "bn_statistics": self.bn_statistics,
            "precision": self.precision,
            "training_version": TRAINING_VERSION,
        }

    def settings_digest(self, cell: Cell) -> str:
        """Digest of `training_settings`: a cell is trained again when it changes."""
        return digest(self.training_settings(cell))

    def hash(self) -> str:
        """Hash over all resolved values."""
        return digest(self.model_dump(mode="json"))[:12]

    def write(self, results: Path) -> Path:
        """Write the resolved settings below `results/<preset>/params/`, unless they are there; return the file."""
        from fdl.records import write_atomically

        path = results / self.preset / "params" / f"{self.hash()}.yaml"
        if not path.exists():
            text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            write_atomically(path, text.encode())
        return path


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _of(value: Any, dataset: str) -> Any:
    return value.get(dataset) if isinstance(value, dict) else value


def load(
    path: str | Path = "params.yaml", preset: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Params:
    """Read and resolve settings.

    Args:
        path: a `params.yaml`, or a resolved file below `results/<preset>/params/`.
        preset: block of `presets:` to use instead of the one that the file names.
        overrides: values on top of the file's `overrides:`.

    Raises:
        InputError: the file cannot be read, or a key or value is wrong.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run in the project's folder or name one with --params") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {_one_line(error)}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {_one_line(error)}") from None
    return resolve(raw, preset=preset, overrides=overrides, where=str(path))


def resolve(
    raw: Any, *, preset: str | None = None, overrides: Mapping[str, Any] | None = None, where: str = "params.yaml"
) -> Params:
    """Resolve settings that were already read (what Snakemake calls its config); see `load`."""
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: must be a mapping of keys to values, not {type(raw).__name__}")
    values = {key: value for key, value in raw.items() if key not in ("presets", "overrides")}
    if preset is not None:
        values["preset"] = preset
    if "presets" in raw:
        presets = _mapping(raw["presets"], "presets", where)
        name = values.get("preset")
        if not isinstance(name, str) or name not in presets:
            raise InputError(f"{where}: preset: {_unknown(name, presets)}")
        _merge(values, _mapping(presets[name], f"presets.{name}", where))
    elif preset is not None and preset != raw.get("preset"):
        raise InputError(
            f"{where}: preset: the file holds the resolved settings of {raw.get('preset')!r}, not {preset!r}"
        )
    _merge(values, _mapping(raw.get("overrides"), "overrides", where))
    _merge(values, overrides or {})
    for key in values:
        if key not in Params.model_fields:
            raise InputError(f"{where}: {_unknown(key, Params.model_fields, what='key')}")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error)}") from None


def _mapping(value: Any, key: str, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: {key}: must be a mapping, not {value!r}")
    return value


def _merge(values: dict[str, Any], block: Mapping[str, Any]) -> None:
    for key, value in block.items():
        if key in ("preset", "presets", "overrides"):
            raise InputError(f"params: {key!r} cannot be set inside a preset or an override")
        values[key] = value


def _unknown(value: Any, known: Any, what: str = "") -> str:
    close = get_close_matches(str(value), [str(name) for name in known], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(str(name) for name in known)}"
    return f"unknown {what + ' ' if what else ''}{value!r}; {hint}"


def _explain(error: ValidationError) -> str:
    """The first of pydantic's errors in one line: key, value, what is allowed."""
    first = error.errors()[0]
    # Branches of a union ('int', 'dict[...]') stand in the location too; only keys and positions help a reader.
    loc = [str(part) for part in first["loc"]]
    names = {*Params.model_fields, *GridBlock.model_fields, *Claims.model_fields, *DATASETS}
    key = ".".join(part for part in loc if part in names or part.isdigit())
    if first["type"] == "missing":
        return f"{key or '.'.join(loc)}: missing; every setting must be in the file"
    message = _one_line(first["msg"].removeprefix("Value error, "))
    if first["type"] == "value_error":
        return message
    value = repr(first["input"])
    value = value if len(value) < 80 else value[:77] + "..."
    return f"{key}: {value} is not allowed: {message[0].lower()}{message[1:]}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def json_schema() -> dict[str, Any]:
    """The JSON schema of `params.yaml`, for Snakemake's `validate` and for editors."""
    schema = Params.model_json_schema()
    partial = {"type": "object", "additionalProperties": False, "properties": schema["properties"]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "fdl settings"
    schema["$defs"]["Partial"] = partial
    schema["properties"] = {
        **schema["properties"],
        "presets": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Partial"}},
        "overrides": {"anyOf": [{"$ref": "#/$defs/Partial"}, {"type": "null"}]},
    }
    return schema
