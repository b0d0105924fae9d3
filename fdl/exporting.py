"""Packs the small part of a preset's records: all that tables, figures and statistics are made of.

Left out are the predictions and weights, which are large, and the test images that the maps are drawn on,
which are not ours to give away. `fdl.importing` brings the archive in again, and puts images that are
prepared there back into the maps.
"""

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.settings import Params
from fdl.results.state import CellStatus, Judge

PACKED = ("history.parquet", "heads.parquet", "metrics.json", "correct.npz", "cam.npz")


@dataclass(frozen=True)
class Exported:
    """What became of the cells of the grid."""

    packed: int
    missing: int  # without a current record
    size: int  # bytes of the archive


def export_records(params: Params, target: Path) -> Exported:
    """Write the records of a grid into one archive; equal records make equal bytes.

    Args:
        params: the settings; records of others are left out.
        target: the archive, .tar.gz.

    Raises:
        InputError: there is nothing to pack, a record is damaged, or the name is that of another kind of file.
    """
    if not target.name.endswith(".tar.gz"):
        raise InputError(f"{target}: the archive is a .tar.gz file; give it such a name")
    entries: dict[str, bytes] = {}
    cells = sorted(params.cells(), key=lambda cell: cell.key)
    packed = 0
    for state in Judge(params).states(cells):
        if content := _small_part(params, state):
            packed += 1
            folder = layout.record_folder(params, state.cell)
            entries |= {str(folder / name): data for name, data in content.items()}
    if not packed:
        raise InputError(f"{layout.results_folder(params)}: no finished records of these settings; nothing to export")
    files.write_atomically(target, _archive(entries))
    return Exported(packed, len(cells) - packed, target.stat().st_size)


def _small_part(params: Params, state: CellStatus) -> dict[str, bytes] | None:
    """Files of a cell's record by name; None where there is no current one."""
    if state.status == "damaged":
        raise InputError(state.reason)
    if not state.finished or state.run is None:
        return None
    folder, run = layout.record_folder(params, state.cell), state.run
    content = {name: (folder / name).read_bytes() for name in PACKED if name in run["files"]}
    if "cam.npz" in content:
        content["cam.npz"] = _without_images(content["cam.npz"])
    left_out = sorted({*run.get("left_out", []), *run["files"]} - set(content))
    about = {
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in content.items()},
        "sizes": {name: len(data) for name, data in content.items()},
        "left_out": left_out,
    }
    return content | {"run.json": files.to_json({**run, **about})}


def _without_images(maps: bytes) -> bytes:
    with np.load(io.BytesIO(maps), allow_pickle=False) as stored:
        arrays: dict[str, Any] = {name: stored[name] for name in stored.files if name != "pixels"}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def _archive(entries: dict[str, bytes]) -> bytes:
    """A .tar.gz of these files, without dates and owners."""
    content = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=content, mode="wb", filename="", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, data in entries.items():
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(data), 0o644
            archive.addfile(about, io.BytesIO(data))
    return content.getvalue()
