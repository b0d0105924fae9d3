"""Votes: ways to form one prediction from the members' outputs without training (docs/reference.md 6).

A combiner is any way to form one prediction from the members' outputs: a vote, or a head, which is a small trained net.
To add a vote, write a function and give it an entry in `COMBINERS`. Scores, tables, MLflow and docs/report.md read the
entries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fdl.core.protocol import HEADS


@dataclass(frozen=True)
class Combiner:
    """A combiner and how it is shown; or a number about the members with which combiners are compared."""

    title: str
    # Logits (M, N, C) → predicted classes (N,).
    vote: Callable[[NDArray[np.floating]], NDArray[np.int64]] | None = None
    # Instead of `vote`: logits (M, N, C) → probabilities (N, C); the class with the highest one is predicted.
    probabilities: Callable[[NDArray[np.floating]], NDArray[np.float64]] | None = None
    trained: bool = False  # whether it is a head (`fdl.training.heads`)
    # Whether a table in the paper's layout shows its accuracy. Heads have such a table if the preset asks for them.
    table: bool = False
    shown: bool = True  # False for a vote that differs from a shown one only in its rule for ties

    @property
    def combines(self) -> bool:
        """Whether it combines the members and is shown, unlike `mean`, `best` and a vote with another rule for ties."""
        return self.shown and bool(self.vote or self.probabilities or self.trained)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Class probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    odds = np.exp(shifted)
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def hard_vote(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """The class for which most members vote; a tie goes to the lowest class index, as in the authors' code.

    Args:
        logits: (M, N, C).

    Returns:
        (N,) class indices.
    """
    return np.asarray(_votes(logits).argmax(axis=-1))


def mean_probabilities(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The soft vote, that is, the mean of the members' probabilities: logits (M, N, C) → (N, C)."""
    return np.asarray(softmax(logits).mean(axis=0))


def hard_vote_by_probability(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """As `hard_vote`, but a tie goes to the tied class with the highest mean probability; logits (M, N, C) → (N,)."""
    votes = _votes(logits)
    tied = votes == votes.max(axis=-1, keepdims=True)
    return np.asarray(np.where(tied, mean_probabilities(logits), -1.0).argmax(axis=-1))


def _votes(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """How many members vote for each class: logits (M, N, C) → (N, C)."""
    chosen = logits.argmax(axis=-1)[..., None] == np.arange(logits.shape[-1])
    return np.asarray(chosen.sum(axis=0))


COMBINERS: dict[str, Combiner] = {  # in the order of tables
    "mean": Combiner("mean of the members"),
    "best": Combiner("member best on validation"),
    "hard": Combiner("hard vote", vote=hard_vote, table=True),
    "hard-probability": Combiner("hard vote, ties by probability", vote=hard_vote_by_probability, shown=False),
    "soft": Combiner("soft vote", probabilities=mean_probabilities),
}
for _name, _head in HEADS.items():
    COMBINERS |= {
        _name: Combiner(_head.title, trained=True),
        f"{_name}-tuned": Combiner(f"{_head.title}, tuned", trained=True),
    }
