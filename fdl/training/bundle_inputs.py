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
from fdl.data.images import FULL
from fdl.data.prepare import Prepared
from fdl.results.digests import PreparedImages
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
        self.images = PreparedImages(params)
        self._on_device: dict[bytes, Images] = {}  # by their rows: validation and test images
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

    def checkpoint(self, cell: Cell, training: str) -> Checkpoint:
        """The checkpoint of a cell in training, which also publishes its progress; `training` is its digest."""
        folder, settings = layout.SCRATCH / training, self.params.settings_digest(cell)
        about = {"preset": self.params.preset, "cell": cell.key, "settings": settings, "by": self.holder}
        return Checkpoint(folder, self.say, ProgressFile(folder, about))

    def data(self, cell: Cell) -> CellData:
        """The cell's images on the device; validation and test images are read once per bundle."""
        split, prepared = self.images.of(cell)
        train = self._read(prepared, split.train)
        validation, test = self._read_once(prepared, split.validation), self._read_once(prepared, split.test)
        position = {row: index for index, row in enumerate(split.validation.tolist())}
        small = torch.tensor([position[row] for row in split.validation_small.tolist()], device=self.device)
        near = None if split.near_duplicates is None else torch.from_numpy(np.isin(split.test, split.near_duplicates))
        return CellData(train, validation, test, small, len(prepared.classes), near)

    def about(self, cell: Cell, training: str, heads: HeadSettings | None, data: CellData) -> dict[str, Any]:
        """The part of a record that is known before the training: digests, settings, images and draw.

        Args:
            cell: whose record.
            training: digest of its training.
            heads: settings of its heads; None: it has none.
            data: its images.
        """
        split, prepared = self.images.of(cell)
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

    def _read_once(self, prepared: Prepared, rows: NDArray[np.int64]) -> Images:
        key = rows.tobytes()
        if key not in self._on_device:
            self._on_device[key] = self._read(prepared, rows)
        return self._on_device[key]

    def _read(self, prepared: Prepared, rows: NDArray[np.int64]) -> Images:
        pixels = torch.from_numpy(prepared.rows(rows)).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(prepared.labels[rows].astype(np.int64))
        return Images(pixels.to(self.device), labels.to(self.device))
