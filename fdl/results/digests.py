"""Which training a cell needs today; nothing here imports torch."""

import json
from pathlib import Path
from threading import RLock

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Cell, Params, digest
from fdl.data import prepare, splits


class PreparedImages:
    """The prepared datasets and draws of a grid, each opened once, by however many threads.

    Args:
        params: the settings.
        verified: `hashes` checks the files that state them; without it they are believed.
    """

    def __init__(self, params: Params, *, verified: bool = True) -> None:
        self.params, self.verified = params, verified
        self._lock = RLock()
        self._prepared: dict[Path, prepare.Prepared] = {}
        self._splits: dict[Path, splits.Split] = {}
        self._stated: dict[Path, str] = {}

    def of(self, cell: Cell) -> tuple[splits.Split, prepare.Prepared]:
        """A cell's draw and dataset.

        Raises:
            InputError: not prepared, not drawn, or damaged.
        """
        dataset, draw = self._files(cell)
        with self._lock:
            if dataset not in self._prepared:
                self._prepared[dataset] = prepare.load(dataset.parent)
            if draw not in self._splits:
                self._splits[draw] = splits.load_split(draw, self._prepared[dataset])
            return self._splits[draw], self._prepared[dataset]

    def hashes(self, cell: Cell) -> tuple[str, str]:
        """Hashes of a cell's draw and dataset; raises as `of`."""
        if self.verified:
            split, prepared = self.of(cell)
            return split.hash, prepared.hash
        dataset, draw = self._files(cell)
        return self._stated_hash(draw), self._stated_hash(dataset)

    def training_digest(self, cell: Cell) -> str:
        """Digest of everything that decides a cell's numbers: settings, draw, pixels; raises as `of`."""
        return digest([self.params.settings_digest(cell), *self.hashes(cell)])

    def are_there(self, cell: Cell) -> bool:
        """Whether the cell's images are prepared and drawn here."""
        return all(file.is_file() for file in self._files(cell))

    def _files(self, cell: Cell) -> tuple[Path, Path]:
        """`dataset.json` of a cell's dataset, and the file of its draw."""
        pool, draw = self.params.pool_of(cell.dataset, cell.backbone), self.params.draw_of(cell.seed)
        folder = layout.prepared_folder(self.params, cell.dataset, pool)
        return folder / "dataset.json", layout.split_file(self.params, cell.dataset, cell.shots, draw, pool)

    def _stated_hash(self, file: Path) -> str:
        with self._lock:
            if file not in self._stated:
                try:
                    self._stated[file] = str(json.loads(file.read_bytes())["hash"])
                except (OSError, ValueError, KeyError, TypeError, RecursionError):
                    raise InputError(f"{file}: damaged; delete it and run the same command again") from None
            return self._stated[file]
