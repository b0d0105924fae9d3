"""Which epoch of a training counts, by every rule that is asked for."""

from collections.abc import Callable

from torch import Tensor

from fdl.training.state import CellData, CellSettings, State, Trained


class Selector:
    """Keeps, per selection rule, the states of the best epoch so far.

    A rule's score is a number of correct validation images; only a strictly higher one replaces. Members
    with batches of their own are scored one by one: no rule adds them up.
    """

    def __init__(self, settings: CellSettings, data: CellData, result: Trained) -> None:
        self.settings, self.small, self.result = settings, data.small, result
        self.best: dict[str, list[int]] = {}

    def add(self, correct: Tensor, state_of: Callable[[int], State], epoch: int) -> dict[str, float]:
        """Score an epoch; the validation columns of the history.

        Args:
            correct: which validation images each member gets right, (M, N) booleans.
            state_of: makes a copy of a member's state, as it was evaluated.
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
