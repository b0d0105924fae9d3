"""Votes: how the members' outputs become one prediction without training (docs/reference.md 6).

A new one is a function and its entry in `COMBINERS`: scores, tables, MLflow and docs/report.md read it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fdl.core.protocol import HEADS


@dataclass(frozen=True)
class Combiner:
    """How the members' outputs become one, and how that is shown; or what they are compared with."""

    title: str
    # Logits (M, N, C) → predicted classes (N,).
    vote: Callable[[NDArray[np.floating]], NDArray[np.int64]] | None = None
    # Instead of a vote: logits → probabilities (N, C), of which the highest counts.
    probabilities: Callable[[NDArray[np.floating]], NDArray[np.float64]] | None = None
    trained: bool = False  # a head (`fdl.training.heads`)
    table: bool = False  # accuracy in the paper's layout; trained ones have it where a preset asks for them
    shown: bool = True  # False: the other rule for ties of a vote that is shown

    @property
    def combines(self) -> bool:
        """Whether it is a combiner of its own: not a member, and no other rule for the ties of one."""
        return self.shown and bool(self.vote or self.probabilities or self.trained)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Class probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    odds = np.exp(shifted)
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def hard_vote(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """Class with the most members' votes; a tie goes to the lowest class index, as the authors' did.

    Args:
        logits: (M, N, C).

    Returns:
        (N,) class indices.
    """
    return np.asarray(_votes(logits).argmax(axis=-1))


def mean_probabilities(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The soft vote: logits (M, N, C) → (N, C)."""
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
