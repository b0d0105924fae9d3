"""Packs the records of a preset for another machine, and brings in records from one.

The archive holds the small part of the records: all that tables, figures and statistics are made of. Left out are
the predictions and weights, which are large, and the test images that the maps are drawn on, which are not ours to
give away. Records that come in are checked: they must be what would be trained here. Images that are prepared here
are put back into their maps.
"""

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from fdl.core import files, layout
from fdl.core.console import Say
from fdl.core.errors import InputError, first_lines, one_line
from fdl.core.settings import Bundle, Cell, Params
from fdl.data.archives import SUFFIXES, extract, is_archive
from fdl.data.prepare import Prepared
from fdl.data.splits import Split
from fdl.results import records
from fdl.results.locks import bundle_lock
from fdl.results.receipts import write_receipt
from fdl.results.state import CellStatus, Judge

PACKED = ("history.parquet", "heads.parquet", "metrics.json", "correct.npz", "cam.npz")
_LINES = 10  # about records that are left out
# What reading an array file from elsewhere may raise.
_UNREADABLE = (InputError, ValueError, KeyError, IndexError, TypeError, EOFError, BadZipFile, zlib.error)


@dataclass(frozen=True)
class Exported:
    """What became of the cells of the grid."""

    packed: int
    missing: int  # without a current record
    size: int  # bytes of the archive


def export_records(params: Params, target: Path, *, force: bool = False) -> Exported:
    """Write the records of a grid into one archive, or one for each dataset and backbone; equal records, equal bytes.

    Args:
        params: the settings; records of others are left out.
        target: the archive, .tar.gz; or a folder for an archive of each dataset and backbone, of which git then keeps
            only those anew that have changed.
        force: write over an archive that git tracks.

    Raises:
        InputError: there is nothing to pack, a record is damaged, the name is that of another kind of file, or an
            archive that git tracks would become another one.
    """
    whole = target.name.endswith(".tar.gz")
    if not whole and (target.suffix or target.is_file()):
        raise InputError(f"{target}: the archive is a .tar.gz file, or a folder of them; give it such a name")
    parts: dict[Path, dict[str, bytes]] = {}
    cells = sorted(params.cells(), key=lambda cell: cell.key)
    packed = 0
    for state in Judge(params).states(cells):
        if content := _small_part(params, state):
            packed += 1
            cell, folder = state.cell, layout.record_folder(params, state.cell)
            archive = target if whole else target / f"{cell.dataset}-{cell.backbone}.tar.gz"
            parts.setdefault(archive, {}).update({str(folder / name): data for name, data in content.items()})
    if not packed:
        raise InputError(f"{layout.results_folder(params)}: no finished records of these settings; nothing to export")
    archives = {path: _archive(entries) for path, entries in parts.items()}
    for path, packed_bytes in archives.items():
        if not force and _tracked(path) and path.read_bytes() != packed_bytes:
            raise InputError(
                f"{path}: git tracks this archive, and these records are not those in it; name another with --output, "
                "or write over it with --force"
            )
    for path, packed_bytes in archives.items():
        files.write_atomically(path, packed_bytes)
    return Exported(packed, len(cells) - packed, sum(map(len, archives.values())))


def _tracked(path: Path) -> bool:
    """Whether git tracks a file that is there; not where there is no git."""
    git = shutil.which("git")
    if git is None or not path.is_file():
        return False
    command = [git, "-c", "safe.directory=*", "-C", str(path.parent), "ls-files", "--error-unmatch", "--", path.name]
    return subprocess.run(command, capture_output=True).returncode == 0


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


@dataclass
class Imported:
    """What became of the records that were found."""

    new: int = 0  # put in place
    replaced: int = 0  # put in place of a stale or damaged record
    same: int = 0  # there is a current record here already; it is kept
    elsewhere: int = 0  # of cells that are not in the grid
    stale: int = 0  # of other settings, heads or images than today's
    damaged: int = 0
    unchecked: int = 0  # of those put in place: draw and images are not here to be compared with
    receipts: list[str] = field(default_factory=list)  # bundles that are complete now

    def as_text(self) -> str:
        """The counts in one line."""
        parts = [f"{self.new} new", f"{self.replaced} replaced", f"{self.same} already here"]
        parts += [f"{self.elsewhere} not in the grid", f"{self.stale} stale", f"{self.damaged} damaged"]
        return ", ".join(parts)


def import_records(params: Params, source: Path, *, dry_run: bool = False, say: Say = print) -> Imported:
    """Copy the records of `source` into the preset's results folder.

    A record is taken if its cell is in the grid, its settings and heads are today's, every file has the
    hash that its `run.json` says, and its draw and images are those prepared here, if they are. Current
    records that are here already are kept. A bundle that is then complete gets its receipt, so that
    Snakemake does not train it.

    Args:
        params: the settings.
        source: a folder `results/<preset>` or any above or in it, an archive of one (.tar, .tar.gz, .zip), or a folder
            of such archives.
        dry_run: only say what would be done.
        say: takes a line for each record that is left out for a reason worth reading.

    Raises:
        InputError: there are no records in `source`, it is not to be trusted, or a bundle is in training here.
    """
    counts = Imported()
    cells = {cell.key: cell for cell in params.cells()}
    with _opened(source) as folder:
        folders = sorted(path.parent for path in folder.absolute().rglob("run.json") if path.parent.name[:1] != ".")
        if not folders:
            raise InputError(f"{source}: holds no records (…/<dataset>/<backbone>/<k>shot/<method>/seed<s>/run.json)")
        judge = Judge(params, running=False)
        left_out: list[str] = []
        wanted: dict[Bundle, dict[Cell, tuple[Path, CellStatus]]] = {}
        for record in folders:
            cell = cells.get("/".join(record.parts[-5:]))
            if cell is None:
                counts.elsewhere += 1
                continue
            state = judge.state_of(cell, record)
            if state.run is not None and (problem := _unreadable(record, state.run["files"])):
                state = replace(state, status="damaged", reason=problem, changed=())
            rescorable = state.trained and state.has_heads and state.scores_due
            if state.finished or (state.status == "stale" and rescorable):
                wanted.setdefault(cell.bundle, {})[cell] = record, state
                continue
            counts.damaged += state.status == "damaged"
            counts.stale += state.status == "stale"
            left_out.append(state.note if state.status == "damaged" else f"{record}: {state.note}")
        for bundle, accepted in wanted.items():
            with bundle_lock(params.preset, bundle.key):
                for record, state in accepted.values():
                    try:
                        outcome = _put_in_place(judge, record, state, dry_run=dry_run)
                    except _UNREADABLE as error:
                        counts.damaged += 1
                        left_out.append(f"{record}: {one_line(error) or type(error).__name__}")
                        continue
                    counts.new += outcome == "new"
                    counts.replaced += outcome == "replaced"
                    counts.same += outcome == "same"
                    counts.unchecked += outcome != "same" and not state.checked
                if not dry_run and write_receipt(params, bundle, judge.states(params.bundles()[bundle])):
                    counts.receipts.append(bundle.key)
    for line in first_lines(left_out, _LINES):
        say(f"left out: {line}")
    return counts


@contextmanager
def _opened(source: Path) -> Iterator[Path]:
    """The folder, or that into which its archives or the archive were extracted, for the time of the block."""
    archives = [path for path in sorted(source.iterdir()) if is_archive(path)] if source.is_dir() else [source]
    if source.is_dir() and not archives:
        yield source
    elif source.is_dir() and any(source.rglob("run.json")):
        raise InputError(f"{source}: holds records, and archives ({archives[0].name}); name one or the other")
    elif all(map(is_archive, archives)):
        layout.SCRATCH.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="import-", dir=layout.SCRATCH) as folder:
            for number, archive in enumerate(archives):
                (part := Path(folder, str(number))).mkdir()
                extract(archive, part)
            yield Path(folder)
    elif source.exists():
        raise InputError(f"{source}: neither a folder nor an archive ({', '.join(SUFFIXES)})")
    else:
        raise InputError(f"{source}: no such folder or archive")


def _unreadable(record: Path, files: Iterable[str]) -> str:
    """What in the files of a record cannot be read, although their hashes fit; empty if nothing."""
    from pyarrow import ArrowException, parquet

    for name in files:
        try:
            if name.endswith(".parquet"):
                parquet.read_table(record / name)
            elif name.endswith(".npz"):
                with (record / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                    for array in arrays.files:
                        arrays[array]
        except (*_UNREADABLE, OSError, ArrowException) as error:
            return f"{record / name}: cannot be read ({one_line(error) or type(error).__name__})"
    return ""


def _put_in_place(
    judge: Judge, record: Path, state: CellStatus, *, dry_run: bool
) -> Literal["new", "replaced", "same"]:
    """Copy a record into the preset's folder, unless a current one is there.

    Raises:
        InputError: or another of `_UNREADABLE`: the record is damaged in a way that its hashes do not show.
    """
    folder = layout.record_folder(judge.params, state.cell)
    if not dry_run:
        records.finish_exchange(folder)
    here = judge.state_of(state.cell, folder)
    if here.finished:
        return "same"
    if not dry_run:
        run = dict(state.run or {})
        temporary = records.fresh_folder(folder)
        try:
            for name in run["files"]:
                shutil.copyfile(record / name, temporary / name, follow_symlinks=False)
            if run["status"] == "done" and state.checked:
                _put_images_back(temporary / "cam.npz", *judge.images.of(state.cell))
            records.publish(temporary, folder, run)
            if state.scores_due:
                from fdl.results.scoring import rescore_record  # torch takes two seconds

                rescore_record(folder, run)
        except _UNREADABLE:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return "new" if here.status == "missing" else "replaced"


def _put_images_back(path: Path, split: Split, prepared: Prepared) -> None:
    """Give maps that were exported without their test images these images."""
    with np.load(path, allow_pickle=False) as stored:
        maps: dict[str, Any] = dict(stored)
    if "pixels" not in maps:
        maps["pixels"] = prepared.rows(split.test[maps["positions"]])
        np.savez(path, allow_pickle=False, **maps)
