"""Brings in records that were trained elsewhere, after checking that they are what would be trained here."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fdl import layout, records
from fdl.currency import compare, has_predictions, has_todays_scores, require
from fdl.data.archives import SUFFIXES, extract, is_archive
from fdl.data.prepare import Prepared
from fdl.data.splits import Split
from fdl.errors import InputError
from fdl.live_lines import Say
from fdl.locks import bundle_lock
from fdl.params import Bundle, Cell, Params
from fdl.receipts import write_receipt
from fdl.training.digests import PreparedImages


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
        source: a folder `results/<preset>` or any above or in it, or an archive of one (.tar, .tar.gz, .zip).
        dry_run: only say what would be done.
        say: takes a line for each record that is left out for a reason worth reading.

    Raises:
        InputError: there are no records in `source`, it is not to be trusted, or a bundle is in training here.
    """
    counts = Imported()
    cells = {cell.key: cell for cell in params.cells()}
    with _opened(source) as folder:
        found = sorted(path.parent for path in folder.absolute().rglob("run.json") if path.parent.name[:1] != ".")
        if not found:
            raise InputError(f"{source}: holds no records (…/<dataset>/<backbone>/<k>shot/<method>/seed<s>/run.json)")
        images = PreparedImages(params)
        wanted: dict[Bundle, dict[Cell, tuple[Path, dict[str, Any]]]] = {}
        for record in found:
            cell = cells.get("/".join(record.parts[-5:]))
            if cell is None:
                counts.elsewhere += 1
                continue
            if run := _acceptable(params, cell, record, images, counts, say):
                wanted.setdefault(cell.bundle, {})[cell] = record, run
        for bundle, of_bundle in wanted.items():
            with bundle_lock(params.preset, bundle.key):
                for cell, (record, run) in of_bundle.items():
                    _put_in_place(params, cell, record, run, images, counts, dry_run=dry_run)
                if not dry_run and (receipt := _receipt(params, bundle, images)):
                    write_receipt(params, bundle, receipt)
                    counts.receipts.append(bundle.key)
    return counts


@contextmanager
def _opened(source: Path) -> Iterator[Path]:
    """The folder, or that into which the archive was extracted, for the time of the block."""
    if source.is_dir():
        yield source
    elif is_archive(source):
        layout.SCRATCH.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="import-", dir=layout.SCRATCH) as folder:
            extract(source, Path(folder))
            yield Path(folder)
    elif source.exists():
        raise InputError(f"{source}: neither a folder nor an archive ({', '.join(SUFFIXES)})")
    else:
        raise InputError(f"{source}: no such folder or archive")


def _acceptable(
    params: Params, cell: Cell, record: Path, images: PreparedImages, counts: Imported, say: Say
) -> dict[str, Any] | None:
    """The `run.json` of a record that may be taken; else it is counted, and None."""
    try:
        run = records.read_run(record)
        require(run)
        assert run is not None
        if run["key"] != cell.key:
            raise InputError(f"{record / 'run.json'}: of the cell {run['key']!r}, not of its folder's")
        if any(Path(name).name != name for name in run["files"]):
            raise InputError(f"{record / 'run.json'}: names files outside the record")
        records.verify(record, run)
    except InputError as error:
        counts.damaged += 1
        say(f"left out: {error}")
        return None
    changed = compare(params, cell, run, images).changed
    if not has_todays_scores(run) and not has_predictions(run):
        changed.append("scored by another version of the code, without the predictions to score again")
    if changed:
        counts.stale += 1
        say(f"left out: {record}: {'; '.join(changed)}")
        return None
    return run


def _put_in_place(
    params: Params,
    cell: Cell,
    record: Path,
    run: dict[str, Any],
    images: PreparedImages,
    counts: Imported,
    *,
    dry_run: bool,
) -> None:
    folder = layout.record_folder(params, cell)
    if _current_run(params, cell, images):
        counts.same += 1
        return
    if (folder / "run.json").exists():
        counts.replaced += 1
    else:
        counts.new += 1
    counts.unchecked += not images.are_there(cell)
    if dry_run:
        return
    temporary = records.fresh_folder(folder)
    for name in run["files"]:
        shutil.copyfile(record / name, temporary / name)
    if run["status"] == "done" and images.are_there(cell):
        _put_images_back(temporary / "cam.npz", *images.of(cell))
    records.publish(temporary, folder, run)
    if not has_todays_scores(run):
        from fdl.combine.scores import rescore_record  # torch takes two seconds

        rescore_record(folder, run)


def _put_images_back(path: Path, split: Split, prepared: Prepared) -> None:
    """Give maps that were exported without their test images these images."""
    with np.load(path, allow_pickle=False) as stored:
        maps: dict[str, Any] = dict(stored)
    if "pixels" not in maps:
        maps["pixels"] = prepared.rows(split.test[maps["positions"]])
        np.savez(path, allow_pickle=False, **maps)


def _current_run(params: Params, cell: Cell, images: PreparedImages) -> dict[str, Any] | None:
    """The `run.json` of the cell's record here, if it is whole and what today's settings ask for."""
    folder = layout.record_folder(params, cell)
    try:
        run = records.read_run(folder)
        if run is None or compare(params, cell, require(run), images).changed:
            return None
        records.verify(folder, run)
    except InputError:
        return None
    return run


def _receipt(params: Params, bundle: Bundle, images: PreparedImages) -> dict[str, dict[str, str]] | None:
    """What the receipt of a bundle says of its cells; None while one has no current record."""
    runs = {cell.key: _current_run(params, cell, images) for cell in params.bundles()[bundle]}
    receipt = {key: {"digest": run["digests"]["training"], "status": run["status"]} for key, run in runs.items() if run}
    return receipt if len(receipt) == len(runs) else None
