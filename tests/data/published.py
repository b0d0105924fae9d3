"""Writes small datasets of noise as parquet files; `published_formats` writes all the other published formats."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from fdl.core.settings import Params
from fdl.core.settings import load as load_params
from fdl.data.prepare import Prepared, load, prepare

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"
BSD = ("N", "P")
NEU = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")

Row = tuple[bytes | None, str | None, int | None]  # encoded image, name, label


def settings(folder: Path, dataset: str, **overrides: Any) -> Params:
    """Settings that read one dataset from below a folder, at 16 pixels."""
    values = {"source": "local", "data_dir": str(folder), "datasets": [dataset], "image_size": 16, "shots": [2]}
    return load_params(PARAMS_FILE, preset="demo", overrides=values | overrides)


def pixels(seed: int, size: int = 16) -> NDArray[np.uint8]:
    """An image of noise: (size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def encoded(image: NDArray[Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def write_parquet(
    path: Path, rows: Sequence[Row], classes: Sequence[str], *, image: str = "image", label: str = "label"
) -> None:
    """Write rows in the Hugging Face image layout."""
    features = {"info": {"features": {image: {"_type": "Image"}, label: {"names": classes, "_type": "ClassLabel"}}}}
    images = pa.array(
        [{"bytes": content, "path": name} for content, name, _ in rows],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({image: images, label: pa.array([row[2] for row in rows], pa.int64())})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)


def noise_rows(classes: int, per_class: int, *, first: int = 0) -> list[Row]:
    """Different images, classes interleaved, named `<class>_<number>.png` from `first` + 1 on."""
    return [
        (encoded(pixels(1000 * label + first + number)), f"{label}_{first + number + 1}.png", label)
        for number in range(per_class)
        for label in range(classes)
    ]


def write_bsd(folder: Path, count: int = 20, **rows: list[Row]) -> None:
    """A BSD of noise: `bsd/train.parquet` and `bsd/test.parquet`; `rows` are added to a file."""
    write_parquet(folder / "bsd/train.parquet", noise_rows(2, count) + rows.get("train", []), BSD)
    write_parquet(folder / "bsd/test.parquet", noise_rows(2, 5, first=500) + rows.get("test", []), BSD)
    if "validation" in rows:
        validation = noise_rows(2, 5, first=700) + rows["validation"]
        write_parquet(folder / "bsd/validation.parquet", validation, BSD)


def prepared_bsd(project: Path, count: int = 20, **rows: list[Row]) -> Prepared:
    write_bsd(project / "images", count, **rows)
    return load(prepare(settings(project / "images", "bsd"), "bsd"))
