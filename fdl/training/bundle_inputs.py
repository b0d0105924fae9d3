"""The inputs of a bundle's trainings: settings, images on the device, and the folders of the checkpoints."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fdl.core import layout
from fdl.core.console import Say
from fdl.core.head_settings import HeadSettings
from fdl.core.provenance import SCORES_VERSION
from fdl.core.settings import Bundle, Cell, Params
from fdl.data import prepare, splits
from fdl.data.images import FULL
from fdl.results.digests import training_digest
from fdl.results.unfinished import ProgressFile
from fdl.training.checkpoint import Checkpoint
from fdl.training.device import autocast_bfloat16
from fdl.training.state import CellData, CellSettings, Diverged, Images, Trained


class BundleInputs:
    """The prepared dataset of a bundle, and what is derived from it for each cell.

    Args:
        params, bundle: the settings, and the bundle of their grid.
        device: "cpu" or "cuda", where the images are put.
        holder: the process that trains, shown by `fdl status` and in MLflow.
        say, progress: take lines for the log, and a line per epoch.
    """

    def __init__(self, params: Params, bundle: Bundle, device: str, holder: str, say: Say, progress: Say) -> None:
        self.params, self.bundle, self.device, self.holder = params, bundle, device, holder
        self.say, self.progress = say, progress
        self.pool = params.pool_of(bundle.dataset, bundle.backbone)
        self.prepared = prepare.load(layout.prepared_folder(params, bundle.dataset, self.pool))
        self._images: dict[bytes, Images] = {}
        self.unsaved: dict[str, Trained | Diverged] = {}  # training digest → a training that the disk had no room for

    def settings(self, cell: Cell) -> CellSettings:
        """The settings of a cell as the training functions take them."""
        settings = self.params.training_settings(cell)
        return CellSettings(
            backbone=cell.backbone,
            dataset=settings.get("like", cell.dataset),  # whose networks are built
            method=cell.method,
            seed=cell.seed,
            weights=self.params.weights_of(cell),
            autocast=autocast_bfloat16(self.params.precision, self.device),
            **{name: settings[name] for name in CellSettings.__dataclass_fields__ if name in settings},
        )

    def split(self, cell: Cell) -> splits.Split:
        """The draw of a cell's seed."""
        draw = self.params.draw_of(cell.seed)
        path = layout.split_file(self.params, cell.dataset, cell.shots, draw, self.pool)
        return splits.load_split(path, self.prepared)

    def training_digest(self, cell: Cell) -> str:
        """Digest of everything that decides the cell's numbers: settings, draw, pixels."""
        return training_digest(self.params, cell, self.split(cell).hash, self.prepared.hash)

    def checkpoint(self, cell: Cell, training: str) -> Checkpoint:
        """The checkpoint of a cell in training, which also publishes its progress; `training` is its digest."""
        folder, settings = layout.SCRATCH / training, self.params.settings_digest(cell)
        about = {"preset": self.params.preset, "cell": cell.key, "settings": settings, "by": self.holder}
        return Checkpoint(folder, self.say, ProgressFile(folder, about))

    def data(self, cell: Cell) -> tuple[CellData, splits.Split]:
        """The cell's images on the device, and its draw; validation and test images are read once per bundle."""
        split = self.split(cell)
        train = self._read(split.train)
        validation, test = self._read_once(split.validation), self._read_once(split.test)
        position = {row: index for index, row in enumerate(split.validation.tolist())}
        small = torch.tensor([position[row] for row in split.validation_small.tolist()], device=self.device)
        near = None if split.near_duplicates is None else torch.from_numpy(np.isin(split.test, split.near_duplicates))
        return CellData(train, validation, test, small, len(self.prepared.classes), near), split

    def about(
        self, cell: Cell, training: str, heads: HeadSettings | None, data: CellData, split: splits.Split
    ) -> dict[str, Any]:
        """The part of a record that is known before the training: digests, settings, images and draw.

        Args:
            cell: whose record.
            training: digest of its training.
            heads: settings of its heads; None: it has none.
            data, split: its images and its draw.
        """
        prepared = self.prepared
        return {
            "key": cell.key,
            "cell": asdict(cell),
            "digests": {
                "settings": self.params.settings_digest(cell),
                "training": training,
                "heads": heads and heads.digest,
                "scores": SCORES_VERSION,
            },
            "settings": self.params.training_settings(cell),
            "data": {
                "source": prepared.source,
                "synthetic": prepared.synthetic,
                "notes": list(prepared.notes),
                "classes": list(prepared.classes),
                "hash": prepared.hash,
                **({"white": prepared.white} if prepared.white < FULL else {}),  # how `predict` scales 16-bit files
                "train": len(data.train),
                "validation": len(data.validation),
                "test": len(data.test),
            },
            "split": {"hash": split.hash, "draw": split.draw, "rule": split.rule},
        }

    def _read_once(self, rows: NDArray[np.int64]) -> Images:
        key = rows.tobytes()
        if key not in self._images:
            self._images[key] = self._read(rows)
        return self._images[key]

    def _read(self, rows: NDArray[np.int64]) -> Images:
        pixels = torch.from_numpy(self.prepared.rows(rows)).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(np.asarray(self.prepared.labels)[rows].astype(np.int64))
        return Images(pixels.to(self.device), labels.to(self.device))
