"""Trains one cell; if its settings hold candidate learning rates, chooses the best one on the validation images."""

import math
from dataclasses import replace
from typing import Any

from fdl.core.console import Say
from fdl.training import engine
from fdl.training.checkpoint import Checkpoint
from fdl.training.state import CellData, CellSettings, Diverged, Trained


def train(
    settings: CellSettings,
    data: CellData,
    *,
    device: str,
    progress: Say = print,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train one cell. With `learning_rates`, train it in full with each rate and keep the best on validation.

    A candidate's score is the number of correctly classified validation images, summed over its members, each in
    the epoch that the first selection rule picks (`sum-small`: images of the small validation set). The highest
    score wins; of equal ones the rate whose ratio to the cell's own rate is closest to 1, then the lower rate. A
    candidate that diverges has no score.

    Args:
        settings, data, device, progress: as in `engine.train`.
        checkpoint: as in `engine.train`; every candidate has a folder of its own in its folder.

    Returns:
        The chosen training; its `tuning` holds the candidates in the order of the settings, their
        accuracies on validation (None: diverged) and the chosen rate.

    Raises:
        Diverged: the training diverged, or with all candidates; then the failure is that of the rate nearest to the
            cell's own.
        Interrupted: a signal arrived; a later call resumes the candidate that was being trained.
    """
    if not settings.learning_rates:
        return engine.train(settings, data, device=device, progress=progress, checkpoint=checkpoint)
    by_distance = sorted(settings.learning_rates, key=lambda rate: (_distance(rate, settings.learning_rate), rate))
    best: tuple[int, float, Trained] | None = None
    failure: Diverged | None = None
    scores: dict[float, float | None] = {}
    for rate in by_distance:
        folder = checkpoint and Checkpoint(checkpoint.folder / f"rate-{rate:.6g}", checkpoint.say, checkpoint.progress)
        progress(f"{settings.method} seed {settings.seed}: learning rate {rate:.3g}")
        try:
            trained = _train(replace(settings, learning_rate=rate), data, device, progress, folder)
        except Diverged as error:
            failure, scores[rate] = failure or error, None
            continue
        correct, images = _score(settings, data, trained)
        scores[rate] = correct / images
        if best is None or correct > best[0]:
            best = correct, rate, trained
    if best is None:
        assert failure is not None
        raise failure
    _, chosen, trained = best
    accuracies = [scores[rate] for rate in settings.learning_rates]
    tuning = {"learning_rates": list(settings.learning_rates), "validation_accuracy": accuracies, "chosen": chosen}
    return replace(trained, tuning=tuning)


def _distance(rate: float, own: float) -> float:
    # Rounded, so that a third and three times the rate are equally far.
    return round(abs(math.log(rate / own)), 9)


def _train(
    settings: CellSettings,
    data: CellData,
    device: str,
    progress: Say,
    checkpoint: Checkpoint | None,
) -> Trained:
    """Train one candidate, unless an earlier attempt has finished it."""
    finished: dict[str, Any] | None = checkpoint.load("trained") if checkpoint else None
    if finished:
        return Trained(**finished)
    trained = engine.train(settings, data, device=device, progress=progress, checkpoint=checkpoint)
    if checkpoint:
        checkpoint.save(vars(trained), "trained")
    return trained


def _score(settings: CellSettings, data: CellData, trained: Trained) -> tuple[int, int]:
    """Correct predictions of validation images by the members in their selected epochs, and all predictions."""
    rule = settings.selections[0]
    by_epoch = dict(zip(trained.validated, trained.validation_correct, strict=True))
    rows = [by_epoch[epoch][member] for member, epoch in enumerate(trained.selected[rule])]
    if rule == "sum-small":
        rows = [row[data.small.cpu()] for row in rows]
    return sum(int(row.sum()) for row in rows), sum(len(row) for row in rows)
