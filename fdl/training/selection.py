"""Selects the epoch whose weights are used, by every selection rule of the settings."""

from collections.abc import Callable

from torch import Tensor

from fdl.training.state import CellData, CellSettings, State, Trained


class Selector:
    """Keeps the members' states of the best epoch so far, for each selection rule.

    The score of an epoch is a number of correctly classified validation images, and only a strictly higher score
    replaces the best one. Members with batches of their own are scored one by one, whatever the rule.

    Args:
        settings: the cell's settings, with the rules.
        data: the cell's images; only `small` is used, the subset of the validation images for the rule `sum-small`.
        result: takes states, selected epochs and validations.
    """

    def __init__(self, settings: CellSettings, data: CellData, result: Trained) -> None:
        self.settings, self.small, self.result = settings, data.small, result
        self.best: dict[str, list[int]] = {}

    def add(self, correct: Tensor, state_of: Callable[[int], State], epoch: int) -> dict[str, float]:
        """Score an epoch; returns the validation columns of its row in the history.

        Args:
            correct: booleans (M, N): whether a member classifies a validation image correctly.
            state_of: returns a copy of a member's state.
            epoch: 0-based.
        """
        for rule in self.settings.selections:
            self._select(rule, correct, state_of, epoch)
        self.result.validated.append(epoch)
        self.result.validation_correct.append(correct.cpu())
        accuracies = correct.double().mean(dim=1).tolist()
        return {f"validation_accuracy_{m}": value for m, value in enumerate(accuracies)}

    def _select(self, rule: str, correct: Tensor, state_of: Callable[[int], State], epoch: int) -> None:
        members = len(correct)
        if rule == "last":
            scores = [int(epoch == self.settings.epochs - 1)] * members
        else:
            counted = correct[:, self.small] if rule == "sum-small" else correct
            scores = counted.sum(dim=1).tolist()
            if rule != "own" and not self.settings.own_batches:
                scores = [sum(scores[:3] if rule == "sum3" else scores)] * members
        best = self.best.setdefault(rule, [0 if rule == "last" else -1] * members)
        states = self.result.states.setdefault(rule, [{}] * members)
        epochs = self.result.selected.setdefault(rule, [-1] * members)
        for member in range(members):
            if scores[member] > best[member]:
                best[member], epochs[member] = scores[member], epoch
                states[member] = state_of(member)
