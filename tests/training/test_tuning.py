"""The tuned learning rate: the best on validation wins, and no finished candidate is trained twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fdl.training import engine, tuning
from fdl.training.checkpoint import Checkpoint, Interrupted
from fdl.training.state import CellSettings, Diverged, Trained
from tests.training import cells

RATES = (0.001, 0.003, 0.009)
PLANTED = Callable[[float], int | None]


def quiet(line: str) -> None:
    """No progress."""


def settings(**changes: Any) -> CellSettings:
    chosen: CellSettings = cells.settings(learning_rate=0.003, **changes)
    return replace(chosen, learning_rates=RATES)


def plant(monkeypatch: pytest.MonkeyPatch, right: dict[float, int | None]) -> list[float]:
    """Replace trainings by ones with given numbers of correct validation images (None: diverged); lists their rates."""
    trained: list[float] = []

    def fake(cell: CellSettings, data: object, **options: object) -> Trained:
        trained.append(cell.learning_rate)
        hits = right[cell.learning_rate]
        if hits is None:
            raise Diverged(2, f"at rate {cell.learning_rate}", [{"epoch": 0}])
        correct = torch.zeros(3, 12, dtype=torch.bool)
        correct.view(-1)[:hits] = True
        states = {"last": [{"rate": torch.tensor(cell.learning_rate)}] * 3}
        # All predictions of the epoch before are correct; only the selected epoch must count.
        return Trained([{"epoch": 2}], states, {"last": [2] * 3}, [1, 2], [torch.ones_like(correct), correct])

    monkeypatch.setattr(engine, "train", fake)
    return trained


@pytest.mark.parametrize(
    ("right", "chosen"),
    [
        ((7, 5, 6), 0.001),
        ((5, 7, 6), 0.003),
        ((5, 6, 7), 0.009),
        ((7, 7, 7), 0.003),  # ties: the nearest to the cell's own
        ((7, 5, 7), 0.001),  # equally near: the lower
        ((None, None, 0), 0.009),
    ],
)
def test_the_best_rate_on_validation_is_chosen(
    monkeypatch: pytest.MonkeyPatch, right: tuple[int | None, ...], chosen: float
) -> None:
    plant(monkeypatch, dict(zip(RATES, right, strict=True)))
    trained = tuning.train(settings(), cells.data(), device="cpu", progress=quiet)
    assert trained.tuning == {
        "learning_rates": list(RATES),
        "validation_accuracy": [None if hits is None else hits / 36 for hits in right],
        "chosen": chosen,
    }
    assert trained.states["last"][0]["rate"] == pytest.approx(chosen)


def test_where_every_rate_diverges_the_failure_is_that_of_the_cells_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, dict.fromkeys(RATES))
    with pytest.raises(Diverged, match=r"at rate 0\.003"):
        tuning.train(settings(), cells.data(), device="cpu", progress=quiet)


def test_a_cell_without_candidates_is_trained_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = plant(monkeypatch, {0.003: 4})
    alone = replace(settings(), learning_rates=())
    assert tuning.train(alone, cells.data(), device="cpu", progress=quiet).tuning is None
    assert trained == [0.003]


def test_the_chosen_training_is_that_of_its_rate() -> None:
    data = cells.data()
    tuned = tuning.train(settings(), data, device="cpu", progress=quiet)
    assert tuned.tuning is not None
    alone = replace(settings(), learning_rates=(), learning_rate=tuned.tuning["chosen"])
    assert tuned.history == engine.train(alone, data, device="cpu", progress=quiet).history


def test_the_small_validation_set_decides_where_it_selects() -> None:
    """The score of a tuned `sum-small` cell counts the same images as the selection of its epoch."""
    data = cells.data(train=6)
    tuned = tuning.train(settings(selections=["sum-small"], evaluate_every=1), data, device="cpu", progress=quiet)
    assert tuned.tuning is not None
    epoch = tuned.selected["sum-small"][0]
    right = tuned.validation_correct[tuned.validated.index(epoch)][:, data.small]
    chosen = tuned.tuning["learning_rates"].index(tuned.tuning["chosen"])
    assert tuned.tuning["validation_accuracy"][chosen] == pytest.approx(right.double().mean().item())


def test_a_finished_candidate_is_not_trained_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cell that was interrupted in its second candidate resumes there."""
    train, started = engine.train, []
    data = cells.data()
    whole = tuning.train(settings(), data, device="cpu", progress=quiet)

    def watched(cell: CellSettings, *rest: Any, **options: Any) -> Trained:
        started.append(cell.learning_rate)
        if len(started) == 2:
            raise Interrupted(15)
        return train(cell, *rest, **options)

    monkeypatch.setattr(engine, "train", watched)
    for _ in range(2):
        try:
            resumed = tuning.train(settings(), data, device="cpu", progress=quiet, checkpoint=Checkpoint(tmp_path))
        except Interrupted:
            continue
    assert started == [0.003, 0.001, 0.001, 0.009]
    assert resumed.tuning == whole.tuning
    assert resumed.history == whole.history
