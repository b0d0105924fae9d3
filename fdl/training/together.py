"""Trains those cells of a bundle that can be fused, in as few programs as possible.

A program trains several ensembles as one network (`fdl.training.fused`). This comes before `run` goes through the
cells one by one, and leaves the finished training of each cell where `run` looks for it, in the cell's folder below
`scratch/`. The checkpoint of a program is in the folder of its first cell.
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
    """A cell to be trained: its run, the checkpoint in its folder, and the digest of its training."""

    run: Run
    checkpoint: Checkpoint
    digest: str


def can_be_fused(settings: CellSettings) -> bool:
    """Whether a cell can be part of a program.

    It must have the authors' networks, batches that all members share, one learning rate, and a method that consists
    of weighted terms of the distance loss.
    """
    authors = torchvision_nets.parse(settings.backbone) is None
    return authors and settings.has_distance and not settings.learning_rates and distance_weights(settings) is not None


def is_fused(settings: CellSettings, device: str) -> bool:
    """Whether a cell is trained in a program on this device: on a CPU only narrow nets, which alone get faster by it;
    on a GPU all nets that fit.
    """
    return can_be_fused(settings) and (_runs_at_once(settings) > 0 if device == "cuda" else settings.width <= NARROW)


def _runs_at_once(settings: CellSettings) -> int:
    net = extent(settings.backbone, settings.dataset, settings.image_size, settings.width)
    bytes_each = 2 if settings.autocast else 4
    return runs_at_once(net, settings.members, settings.batch_size, bytes_each=bytes_each, memory=gpu_memory())


def groups(waiting: Sequence[Waiting], device: str) -> list[list[Waiting]]:
    """Divide cells into groups, each of which will be a program.

    On a GPU the cells of a group differ only in seed and method, with those of the same seed next to each other. A
    group is as large as the GPU allows (`fdl.training.extent`). On a CPU the cells of a group differ only in method:
    there larger programs are not faster, and so a cell's numbers depend neither on other seeds nor on a restart.
    """
    cells_by_common: dict[Any, list[Waiting]] = {}
    for ensemble in waiting:
        settings, data = ensemble.run.settings, ensemble.run.data
        seed = settings.seed if device == "cpu" else 0
        common_settings = repr(replace(settings, method="", method_params={}, seed=seed))
        common = common_settings, len(data.train), id(data.validation.pixels)
        cells_by_common.setdefault(common, []).append(ensemble)
    by_seed = [sorted(group, key=lambda ensemble: ensemble.run.settings.seed) for group in cells_by_common.values()]
    return by_seed if device == "cpu" else [part for group in by_seed for part in _parts(group)]


def _parts(group: list[Waiting]) -> list[list[Waiting]]:
    if len(group) <= max(1, _runs_at_once(group[0].run.settings)):
        return [group]
    return [part for half in _halves(group) for part in _parts(half)]


def train_together(
    waiting: Sequence[Waiting], *, device: str, say: Say, progress: Say
) -> dict[str, Trained | Diverged]:
    """Train cells that can be fused, each group as one program, or as two halves if memory is exhausted.

    Args:
        waiting: the cells. A group is skipped only if all its cells are finished; otherwise all are trained.
        device: "cpu" or "cuda", where their images are.
        say: takes warnings.
        progress: takes one line per epoch and program.

    Returns:
        The trainings that could not be saved in their cells' checkpoints, by digest.

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
    """Whether the checkpoint holds a finished training, including one that diverged."""
    return checkpoint.has("trained") or checkpoint.has("diverged")


def _train(group: list[Waiting], device: str, say: Say, progress: Say, halved: bool) -> dict[str, Trained | Diverged]:
    keeper, stage = group[0].checkpoint, _stage(group)
    results = None
    if not keeper.has(f"{stage}-halved"):
        results = _attempt(group, device, say, progress, halved)
        release_gpu_memory()  # that of the program, for its halves or for what follows the training
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
    """Train a group, from its checkpoint if there is one; returns the results, or None if memory is exhausted."""
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
            message = str(error).splitlines()[0]
            raise InputError(
                f"one ensemble does not fit into the memory of this GPU ({message}); set device: cpu"
            ) from None
        return None


def _halve(group: list[Waiting], say: Say) -> None:
    """Note that a group must be halved, and split its checkpoint into checkpoints of the two halves."""
    keeper, stage = group[0].checkpoint, _stage(group)
    halves = _halves(group)
    sizes = " and ".join(str(len(half)) for half in halves)
    say(f"{len(group)} runs do not fit into the memory together; going on with {sizes}")
    if state := keeper.load(stage):
        kept = dict(zip((ensemble.digest for ensemble in group), state["runs"], strict=True))
        state.pop("back_ends", None)  # the forms of the convolutions were chosen for the whole group
        for half in halves:
            half[0].checkpoint.save(state | {"runs": [kept[ensemble.digest] for ensemble in half]}, _stage(half))
    keeper.save({}, f"{stage}-halved")


def _halves(group: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """Halve the seeds of a group, or the methods if there is only one seed."""
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
    """Name of a group's checkpoint.

    It depends on which cells are in the group, because a different program rounds differently and must not resume it.
    """
    return f"fused-{digest([ensemble.digest for ensemble in group])[:12]}"
