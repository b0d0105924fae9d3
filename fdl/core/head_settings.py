"""How a cell's heads are trained; nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fdl.core.protocol import HEAD_EPOCHS, HEADS, TUNING_EPOCHS, TUNING_LEARNING_RATE
from fdl.core.settings import Cell, Params, digest

# Raised by hand whenever a change alters the numbers of a head.
HEADS_VERSION = 1


@dataclass(frozen=True)
class HeadSettings:
    """How the heads of one cell are trained.

    They have a digest of their own: where the members' weights were kept, other settings train no members again.
    """

    heads: Sequence[str]  # fusion, stacking
    epochs: int  # of the head alone
    tuning_epochs: int  # of head and members together; 0: no tuned form
    learning_rates: dict[str, float]  # of each head alone
    tuning_learning_rate: float
    augment: bool
    units: dict[str, int]  # of each head's hidden layer
    version: int = HEADS_VERSION

    @property
    def digest(self) -> str:
        """Digest of all values."""
        return digest(asdict(self))


def head_settings(params: Params, cell: Cell) -> HeadSettings | None:
    """The heads that the settings ask for in this cell; None for none.

    Settings that are null take the authors' values (docs/reference.md 6.1, 6.2): fusion everywhere and
    stacking on CIFAR-10 only, a rate and augmentation of its own for every dataset and backbone. A
    single net has no heads: there is nothing to combine.
    """
    protocol = params.protocol(cell.dataset)
    heads = list(protocol.heads) if params.heads is None else params.heads
    if not heads or params.members_of(cell) == 1:
        return None
    backbone = params.backbone_protocol(cell)
    rate, augment = params.head_learning_rate, params.head_augment
    return HeadSettings(
        heads=heads,
        epochs=params.head_epochs or HEAD_EPOCHS,
        tuning_epochs=TUNING_EPOCHS if params.tuning_epochs is None else params.tuning_epochs,
        learning_rates={head: rate or HEADS[head].learning_rate or backbone.fusion_learning_rate for head in heads},
        tuning_learning_rate=TUNING_LEARNING_RATE,
        augment=backbone.fusion_augmentation if augment is None else augment,
        units={head: max(1, round((HEADS[head].units or protocol.hidden_units) * params.width)) for head in heads},
    )
