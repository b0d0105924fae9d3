"""Trains cells of a bundle together, as few programs as possible, before `run` goes through them one by one.

Every cell's training is left where the loop would leave it, in its folder below `scratch/`; the state of a
program in training is kept in the folder of its first cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fdl.core import torchvision_nets
from fdl.core.console import Say
from fdl.core.errors import InputError
from fdl.core.fused_methods import NARROW
from fdl.core.settings import digest
from fdl.evaluation.parts import release_gpu_memory
from fdl.training.checkpoint import Checkpoint
from fdl.training.convolution_choice import described
from fdl.training.extent import extent, gpu_memory, runs_at_once
from fdl.training.fused import Program, Run, distance_weights
from fdl.training.progress import runs_name
from fdl.training.state import CellSettings, Diverged, Trained


@dataclass(frozen=True)
class Waiting:
    """A cell that is to be trained; `digest`: of its training."""

    run: Run
    checkpoint: Checkpoint
    digest: str


def can_be_fused(settings: CellSettings) -> bool:
    """Whether a cell can share a program: the authors' networks, shared batches, weights as the method."""
    authors = torchvision_nets.parse(settings.backbone) is None
    return authors and settings.has_distance and not settings.learning_rates and distance_weights(settings) is not None


def is_fused(settings: CellSettings, device: str) -> bool:
    """Whether a cell shares a program on this device: on a CPU only narrow nets gain by it, on a GPU all that fit."""
    return can_be_fused(settings) and (_runs_at_once(settings) > 0 if device == "cuda" else settings.width <= NARROW)


def _runs_at_once(settings: CellSettings) -> int:
    net = extent(settings.backbone, settings.dataset, settings.image_size, settings.width)
    bytes_each = 2 if settings.autocast else 4
    return runs_at_once(net, settings.members, settings.batch_size, bytes_each=bytes_each, memory=gpu_memory())


def groups(waiting: Sequence[Waiting], device: str) -> list[list[Waiting]]:
    """Cells that differ in nothing but seed and method, those of a seed side by side; on a CPU only in method.

    There more runs at once gain nothing, and so a cell's numbers depend neither on other seeds nor on a restart. On a
    GPU a group is as large as may be: see `fdl.training.extent`.
    """
    alike: dict[Any, list[Waiting]] = {}
    for ensemble in waiting:
        settings, data = ensemble.run.settings, ensemble.run.data
        seed = settings.seed if device == "cpu" else 0
        rest = repr(replace(settings, method="", method_params={}, seed=seed))
        alike.setdefault((rest, len(data.train), id(data.validation.pixels)), []).append(ensemble)
    whole = [sorted(group, key=lambda ensemble: ensemble.run.settings.seed) for group in alike.values()]
    return whole if device == "cpu" else [part for group in whole for part in _parts(group)]


def _parts(group: list[Waiting]) -> list[list[Waiting]]:
    if len(group) <= max(1, _runs_at_once(group[0].run.settings)):
        return [group]
    return [part for half in _halves(group) for part in _parts(half)]


def train_together(
    waiting: Sequence[Waiting], *, device: str, say: Say, progress: Say
) -> dict[str, Trained | Diverged]:
    """Train cells that can be fused, each group as one program, or as halves where the memory ends.

    Args:
        waiting: the cells; what is finished of a group is not trained again if all of it is.
        device: of their images.
        say: takes warnings.
        progress: takes one line per epoch and program.

    Returns:
        By digest what could not be saved in the cells' checkpoints.

    Raises:
        Interrupted: a signal arrived; the state is saved.
        InputError: not even one run fits into the memory.
    """
    unsaved: dict[str, Trained | Diverged] = {}
    for group in groups(waiting, device):
        if not all(is_finished(ensemble.checkpoint) for ensemble in group):
            unsaved |= _train(group, device, say, progress, halved=False)
    return unsaved


def is_finished(checkpoint: Checkpoint) -> bool:
    """Whether a training, or its failure, is kept there."""
    return checkpoint.has("trained") or checkpoint.has("diverged")


def _train(group: list[Waiting], device: str, say: Say, progress: Say, halved: bool) -> dict[str, Trained | Diverged]:
    keeper, stage = group[0].checkpoint, _stage(group)
    results = None
    if not keeper.has(f"{stage}-halved"):
        results = _attempt(group, device, say, progress, halved)
        release_gpu_memory()  # of the program, for its halves or for what comes after the trainings
        if results is None:
            _halve(group, say)
    if results is None:
        first, second = _halves(group)
        return _train(first, device, say, progress, True) | _train(second, device, say, progress, True)
    unsaved = {}
    for ensemble, result in zip(group, results, strict=True):
        ensemble.checkpoint.save(vars(result), "diverged" if isinstance(result, Diverged) else "trained")
        if ensemble.checkpoint.disabled:
            unsaved[ensemble.digest] = result
    return unsaved


def _attempt(
    group: list[Waiting], device: str, say: Say, progress: Say, halved: bool
) -> list[Trained | Diverged] | None:
    """Train a group from its checkpoint: the results, None if the memory does not suffice."""
    keeper, stage = group[0].checkpoint, _stage(group)
    epochs = group[0].run.settings.epochs
    try:
        program = Program([ensemble.run for ensemble in group], device, say)
        if state := keeper.load(stage):
            program.restore(state)
            say(f"{runs_name([ensemble.run.settings for ensemble in group])}: going on after epoch {program.epoch + 1}")

        def show() -> None:
            for ensemble, result in zip(group, program.results, strict=True):
                ensemble.checkpoint.show(result.history, epochs)

        def epoch_end() -> None:
            show()
            keeper.epoch_end(program.state, stage)

        show()
        results = program.train(progress=progress, epoch_end=epoch_end)
        show()
        layout = f"fused, {len(group)} runs" + (", halved for want of memory" if halved else "")
        for result in results:
            result.layout = layout + described(program.nets.back_ends)
            result.seconds = program.seconds / len(group)
        return results
    except torch.OutOfMemoryError as error:
        if len(group) == 1:
            said = str(error).splitlines()[0]
            raise InputError(
                f"one ensemble does not fit into the memory of this GPU ({said}); set device: cpu"
            ) from None
        return None


def _halve(group: list[Waiting], say: Say) -> None:
    """Part what is kept of a group among its halves."""
    keeper, stage = group[0].checkpoint, _stage(group)
    halves = _halves(group)
    sizes = " and ".join(str(len(half)) for half in halves)
    say(f"{len(group)} runs do not fit into the memory together; going on with {sizes}")
    if state := keeper.load(stage):
        kept = dict(zip((ensemble.digest for ensemble in group), state["runs"], strict=True))
        state.pop("back_ends", None)  # which were the fastest of the whole group
        for half in halves:
            half[0].checkpoint.save(state | {"runs": [kept[ensemble.digest] for ensemble in half]}, _stage(half))
    keeper.save({}, f"{stage}-halved")


def _halves(group: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """Half of the seeds each, or half of the methods of one seed."""
    seeds = sorted({ensemble.run.settings.seed for ensemble in group})
    if len(seeds) == 1:
        middle = (len(group) + 1) // 2
        return group[:middle], group[middle:]
    low = seeds[: (len(seeds) + 1) // 2]
    return (
        [ensemble for ensemble in group if ensemble.run.settings.seed in low],
        [ensemble for ensemble in group if ensemble.run.settings.seed not in low],
    )


def _stage(group: list[Waiting]) -> str:
    """Name of a group's checkpoint: of another layout it would continue with other roundings."""
    return f"fused-{digest([ensemble.digest for ensemble in group])[:12]}"
