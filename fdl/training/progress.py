"""The progress lines that a training prints at the end of an epoch."""

import time
from collections.abc import Callable, Mapping, Sequence

from fdl.core.console import Say
from fdl.training.state import CellSettings


class Pace:
    """Measures the speed of a training since this object was created.

    Args:
        epochs: number of epochs in all, including those before this object was created.
        images: number of training images in an epoch; an image that several members see counts once.
        clock: returns seconds.
    """

    def __init__(self, epochs: int, images: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.epochs, self.images, self.clock = epochs, images, clock
        self.start, self.done = clock(), 0

    def line(self, epoch: int) -> str:
        """Images per second, validation included, and the time left; `epoch`: the one that ended, 0-based."""
        self.done += 1
        seconds = max(self.clock() - self.start, 1e-9) / self.done
        return f"{self.images / seconds:.0f} images/s, {_duration((self.epochs - epoch - 1) * seconds)} left"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def progress_line(settings: CellSettings, row: Mapping[str, float], pace: str) -> str:
    """The progress line of one epoch of a cell."""
    name = f"{settings.method} seed {settings.seed}"
    return f"{name}: epoch {int(row['epoch']) + 1}/{settings.epochs}  {figures(settings, row)}  {pace}"


def runs_name(runs: Sequence[CellSettings]) -> str:
    """The name of runs that are trained together: their seed if they share it, otherwise their number."""
    seeds = {settings.seed for settings in runs}
    return f"seed {runs[0].seed}" if len(seeds) == 1 else f"{len(runs)} runs"


def fused_line(runs: Sequence[CellSettings], rows: Sequence[Mapping[str, float]], pace: str) -> str:
    """The progress line of one epoch of runs that are trained together; it gives means over the runs of each method."""
    by_method: dict[str, list[Mapping[str, float]]] = {}
    for settings, row in zip(runs, rows, strict=True):
        by_method.setdefault(settings.method, []).append(row)
    parts = []
    for method, method_rows in by_method.items():
        mean = {name: sum(row[name] for row in method_rows) / len(method_rows) for name in method_rows[0]}
        parts.append(f"{method}: {figures(runs[0], mean)}")
    return f"{runs_name(runs)}: epoch {int(rows[0]['epoch']) + 1}/{runs[0].epochs}  {'; '.join(parts)}  {pace}"


def figures(settings: CellSettings, row: Mapping[str, float]) -> str:
    """Losses and accuracies of a row of the history as text; accuracies are means over the members."""

    def mean(name: str) -> float:
        return sum(row[f"{name}_{m}"] for m in range(settings.members)) / settings.members

    text = f"loss {row['loss']:.3f}"
    if settings.has_distance:
        text += f"  cosine {row['cosine']:.2f}  gaussian {row['gaussian']:.2f}"
    text += f"  train {mean('train_accuracy'):.1%}"
    return text + (f"  validation {mean('validation_accuracy'):.1%}" if "validation_accuracy_0" in row else "")


class Throttle:
    """Passes on at most one line per interval and drops the others.

    Args:
        say: takes the lines.
        seconds: shortest time between two lines.
        clock: returns seconds.
    """

    def __init__(self, say: Say, seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.say, self.seconds, self.clock, self.last = say, seconds, clock, clock()

    def __call__(self, line: str) -> None:
        if (now := self.clock()) - self.last >= self.seconds:
            self.say(line)
            self.last = now
