"""Which training a cell needs today; nothing here imports torch."""

from fdl import layout
from fdl.data import prepare, splits
from fdl.params import Cell, Params, digest


def training_digest(params: Params, cell: Cell, split: splits.Split, prepared: prepare.Prepared) -> str:
    """Digest of everything that decides a cell's numbers: settings, draw, pixels."""
    return digest([params.settings_digest(cell), split.hash, prepared.hash])


class PreparedImages:
    """The prepared datasets and draws of a grid, each opened once."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._prepared: dict[tuple[str, int | None], prepare.Prepared] = {}
        self._splits: dict[tuple[str, int, int, int | None], splits.Split] = {}

    def of(self, cell: Cell) -> tuple[splits.Split, prepare.Prepared]:
        """A cell's draw and dataset.

        Raises:
            InputError: not prepared, not drawn, or damaged.
        """
        pool, draw = self.params.pool_of(cell.dataset, cell.backbone), self.params.draw_of(cell.seed)
        if (cell.dataset, pool) not in self._prepared:
            folder = layout.prepared_folder(self.params, cell.dataset, pool)
            self._prepared[cell.dataset, pool] = prepare.load(folder)
        prepared = self._prepared[cell.dataset, pool]
        key = cell.dataset, cell.shots, draw, pool
        if key not in self._splits:
            self._splits[key] = splits.load_split(layout.split_file(self.params, *key), prepared)
        return self._splits[key], prepared

    def training_digest(self, cell: Cell) -> str:
        """The digest that a current record of the cell has; raises as `of`."""
        return training_digest(self.params, cell, *self.of(cell))

    def are_there(self, cell: Cell) -> bool:
        """Whether the cell's images are prepared and drawn here."""
        pool, draw = self.params.pool_of(cell.dataset, cell.backbone), self.params.draw_of(cell.seed)
        folder = layout.prepared_folder(self.params, cell.dataset, pool)
        split = layout.split_file(self.params, cell.dataset, cell.shots, draw, pool)
        return (folder / "dataset.json").is_file() and split.is_file()
