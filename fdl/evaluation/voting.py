"""Votes: how the members' outputs become one prediction without training (docs/reference.md 6)."""

import numpy as np
from numpy.typing import NDArray


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
    votes = logits.argmax(axis=-1)  # (M, N)
    counts = (votes[..., None] == np.arange(logits.shape[-1])).sum(axis=0)  # (N, C)
    return np.asarray(counts.argmax(axis=-1))


def soft_vote(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """Class of the highest mean probability; logits (M, N, C) → (N,)."""
    return np.asarray(softmax(logits).mean(axis=0).argmax(axis=-1))


def hard_vote_by_probability(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """As `hard_vote`, but a tie goes to the tied class with the highest mean probability; logits (M, N, C) → (N,)."""
    votes = logits.argmax(axis=-1)
    counts = (votes[..., None] == np.arange(logits.shape[-1])).sum(axis=0)  # (N, C)
    tied = counts == counts.max(axis=-1, keepdims=True)
    return np.asarray(np.where(tied, softmax(logits).mean(axis=0), -1.0).argmax(axis=-1))


# A combiner that needs no training: logits (M, N, C) → predicted classes (N,).
VOTES = {"hard": hard_vote, "hard-probability": hard_vote_by_probability, "soft": soft_vote}
