"""Trains several runs of a bundle as one network: on a GPU all that can be, on a CPU those of a seed with narrow nets.

Runs whose methods differ only in the weights of the distance loss's two terms share a program. Their
members are one `FusedNets`, the loss is the sum of the runs' losses, one Adam updates one flat buffer. No
two nets touch, so every run has the numbers of the loop (`fdl.training.engine`) up to rounding. A step is a
function of tensors at fixed places, which CUDA captures once and replays; numbers leave the device once per
epoch.

So far this has run on CPUs only: what a GPU makes of it (graphs, memory, speed) has not been tried.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from fdl.core.console import Say
from fdl.core.fused_methods import distance_terms
from fdl.core.randomness import absorb, derive
from fdl.methods.losses import descriptor, pair_similarities
from fdl.models import Member
from fdl.models.fused import FusedNets, Pass
from fdl.models.layers import MOMENTUM
from fdl.training import convolution_choice, engine
from fdl.training.adam import FlatAdam
from fdl.training.augment import augment
from fdl.training.cuda_graph import Replays, own_stream
from fdl.training.extent import count, evaluated_at_once, gpu_memory
from fdl.training.progress import Pace, fused_line
from fdl.training.selection import Selector
from fdl.training.state import EVALUATION_BATCH, CellData, CellSettings, Diverged, State, Trained


@dataclass(frozen=True, eq=False)
class Run:
    """One ensemble to train; its images are on the device."""

    settings: CellSettings
    data: CellData


def distance_weights(settings: CellSettings) -> tuple[float, float] | None:
    """Weights of the cosine and of the Gaussian term; None where the method does not say that it is these terms."""
    terms = distance_terms(settings.method)
    if terms is None:
        return None
    cosine, gaussian = (settings.method_params[name] if name else 0.0 for name in (terms.cosine, terms.gaussian))
    return cosine, gaussian


class Program:
    """Several runs in training, as one network.

    Args:
        runs: alike but for seed and method, those of a seed side by side (`fdl.training.together`).
        device: "cpu" or "cuda"; of their images.
        say: takes a line for the log.
    """

    def __init__(self, runs: Sequence[Run], device: str, say: Say = print) -> None:
        # A graph that fails says so; the others fail alike, and one line is enough.
        self.runs, self.device, self.say = list(runs), device, cache(say)
        self.settings, self.data = runs[0].settings, runs[0].data
        self.members = self.settings.members
        by_seed: dict[int, list[Run]] = {}
        for run in runs:
            by_seed.setdefault(run.settings.seed, []).append(run)
        # Runs of a seed see the same images: in the first layer these stand once, not once per run.
        even = len({len(alike) for alike in by_seed.values()}) == 1
        self.sources = [alike[0] for alike in by_seed.values()] if even else self.runs
        built = {seed: self._initial_members(alike[0]) for seed, alike in by_seed.items()}
        self.nets = FusedNets(
            [net for run in runs for net in built[run.settings.seed]], len(self.sources), apart=device == "cpu"
        )
        self.adam = FlatAdam(self.nets.flat, self.nets.gradient, self.settings.learning_rate, self.say)
        self.results = [Trained([], {}, {}) for _ in runs]
        self.selectors = [
            Selector(run.settings, replace(run.data, small=run.data.small.cpu()), result)
            for run, result in zip(runs, self.results, strict=True)
        ]
        self.failures: dict[int, Diverged] = {}
        self.epoch = -1  # the last that is finished
        self.seconds = 0.0  # that all epochs took, those before a restart included
        self._place_images()
        self._place_losses()
        self.replays = Replays(device, self.say)
        self._own_stream: torch.cuda.Stream | None = None
        if device == "cuda":
            self._choose_convolutions()

    def train(
        self,
        *,
        progress: Say,
        epoch_end: Callable[[], None] = lambda: None,
    ) -> list[Trained | Diverged]:
        """Train all runs to their last epoch, from where they are.

        Args:
            progress: takes one line per epoch.
            epoch_end: called after every epoch but the last.

        Returns:
            In the order of the runs: what a training left behind, on the CPU, or where and why it ended.
        """
        pace = Pace(self.settings.epochs, len(self.data.train) * len(self.runs))
        for epoch in range(self.epoch + 1, self.settings.epochs):
            start = time.perf_counter()
            with self.stream():
                rows = self.train_epoch(epoch)
                self._finish(rows, epoch)
            self.epoch = epoch
            self.seconds += time.perf_counter() - start
            if len(self.failures) == len(self.runs):
                break
            alive = [number for number in range(len(self.runs)) if number not in self.failures]
            settings = [self.runs[number].settings for number in alive]
            progress(fused_line(settings, [rows[number] for number in alive], pace.line(epoch)))
            if epoch < self.settings.epochs - 1:
                epoch_end()
        return [
            self.failures.get(number) or replace(result, states=_on_cpu(result.states))
            for number, result in enumerate(self.results)
        ]

    def state(self) -> dict[str, Any]:
        """Everything that the epochs after this one depend on, parted by run."""
        first, second = self.nets.parted(self.adam.first), self.nets.parted(self.adam.second)
        runs: list[dict[str, Any]] = []
        for number, (selector, result) in enumerate(zip(self.selectors, self.results, strict=True)):
            failure = self.failures.get(number)
            runs.append(
                {
                    "nets": [self.nets.state(net) for net in self._nets_of(number)],
                    "first": [{name: part[net] for name, part in first.items()} for net in self._nets_of(number)],
                    "second": [{name: part[net] for name, part in second.items()} for net in self._nets_of(number)],
                    "best": selector.best,
                    "result": vars(result),
                    "failure": failure and vars(failure),
                }
            )
        back_ends = {kind: dict(forms) for kind, forms in self.nets.back_ends.items()}
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "steps": self.adam.steps,
            "back_ends": back_ends,
            "runs": runs,
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Put everything back as `state` found it."""
        first, second = self.nets.parted(self.adam.first), self.nets.parted(self.adam.second)
        for number, kept in enumerate(state["runs"]):
            for member, net in enumerate(self._nets_of(number)):
                self.nets.load(net, kept["nets"][member])
                for parts, name in ((first, "first"), (second, "second")):
                    for parameter, part in parts.items():
                        part[net].copy_(kept[name][member][parameter])
            self.selectors[number].best = kept["best"]
            vars(self.results[number]).update(kept["result"])
            if kept["failure"]:
                self.failures[number] = Diverged(**kept["failure"])
                self._active[number] = False
        self.adam.steps.copy_(state["steps"])
        # Other forms would go on with other roundings. Half of a group whose memory ended is free to choose.
        self.nets.back_ends = state.get("back_ends", self.nets.back_ends)
        self.epoch, self.seconds = int(state["epoch"]), float(state["seconds"])

    def _initial_members(self, run: Run) -> list[Member]:
        return cast(list[Member], engine.build_members(run.settings, self.data.num_classes, self.device))

    def _nets_of(self, number: int) -> range:
        return range(number * self.members, (number + 1) * self.members)

    def _state_of(self, number: int, member: int) -> State:
        return self.nets.state(self._nets_of(number)[member])

    def _place_images(self) -> None:
        """The tensors that a step and an evaluation read their images from."""
        device, size, images = self.device, self.settings.batch_size, len(self.data.train)
        at_once, sources = min(size, images), len(self.sources)
        self._pixels = torch.stack([run.data.train.pixels for run in self.sources])  # (S, N, 3, H, W), of this epoch
        self._labels = torch.stack([run.data.train.labels for run in self.sources])  # (S, N)
        self._rows = torch.arange(sources, device=device)[:, None]
        # Of each net, the place of its images among the sources.
        self._source = torch.arange(sources, device=device).repeat_interleave(self.nets.count // sources)
        self._index = torch.zeros(sources, at_once, dtype=torch.int64, device=device)
        self._real = torch.zeros(self.nets.count, at_once, dtype=torch.bool, device=device)
        self._keys = torch.zeros(sources, self.members, dtype=torch.int64, device=device)
        seeds = torch.tensor([run.settings.seed for run in self.sources], device=device)
        self._dropout, self._member = derive(seeds[:, None], "dropout"), torch.arange(self.members, device=device)
        # On a CPU no number may depend on how many runs there are.
        self.evaluated = EVALUATION_BATCH
        if device == "cuda":
            of_one = count(self.nets.template, self.settings.image_size)
            self.evaluated = evaluated_at_once(of_one, self.nets.count, len(self.data.validation), gpu_memory())
        self._seen = self.data.validation.pixels[: self.evaluated].clone()
        self._truth = self.data.validation.labels[: self.evaluated].clone()
        self._right = torch.zeros(self.nets.count, len(self._truth), dtype=torch.bool, device=device)

    def _choose_convolutions(self) -> None:
        with self.stream():
            self.nets.back_ends = convolution_choice.choose(
                self.nets,
                self.settings.image_size,
                {"training": self._index.shape[1], "evaluation": len(self._truth)},
                autocast=self.settings.autocast,
                say=self.say,
            )

    def _place_losses(self) -> None:
        """The tensors that hold the runs' weights and collect their losses."""
        weights = torch.tensor(
            [distance_weights(run.settings) for run in self.runs], dtype=torch.float64, device=self.device
        )
        # Runs, terms of theirs that are computed together, and the weights of these. A term of weight 0 stays out of
        # the graph: 0 · NaN would poison the others. So do all terms of the second list, which the history takes.
        self._weighted: list[tuple[Tensor, list[int], Tensor]] = []
        self._unweighted: list[tuple[Tensor, list[int]]] = []
        for numbers, terms in _alike(weights != 0, apart=self.device == "cpu"):
            runs = torch.tensor(numbers, device=self.device)
            self._weighted.append((runs, terms, weights[runs][:, terms].T))
        for numbers, terms in _alike(weights == 0, apart=self.device == "cpu"):
            self._unweighted.append((torch.tensor(numbers, device=self.device), terms))
        self._active = torch.ones(len(self.runs), dtype=torch.bool, device=self.device)
        self._sums = torch.zeros(len(self.runs), 3 + self.members, dtype=torch.float64, device=self.device)
        self._correct = torch.zeros(self.nets.count, dtype=torch.int64, device=self.device)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """A stream of its own: CUDA captures no graph on the default one. Each waits for what the other has begun."""
        if self.device == "cuda":
            self._own_stream = self._own_stream or torch.cuda.Stream()
        with own_stream(self.device, self._own_stream):
            yield

    def train_epoch(self, epoch: int) -> list[dict[str, float]]:
        """One pass over the training images; a row of the history for every run."""
        images, size = len(self.data.train), self._index.shape[1]
        orders = [engine.epoch_order(run.settings, run.data.train, epoch) for run in self.sources]
        self.place_pixels(epoch)
        index = torch.stack(orders, dim=1)[..., None] * self.settings.batch_size + torch.arange(size)  # (steps, S, B)
        short = (index >= images).any(dim=2).any(dim=1).tolist()
        real = (index < images).to(self.device)[:, self._source]
        index = index.clamp(max=images - 1).to(self.device)
        steps = torch.arange(len(index), device=self.device)[:, None, None]
        keys = absorb(absorb(absorb(self._dropout, epoch), steps), self._member)  # (steps, S, M)
        self._sums.zero_()
        self._correct.zero_()
        for step, is_short in enumerate(short):
            self._index.copy_(index[step])
            self._real.copy_(real[step])
            self._keys.copy_(keys[step])
            self.replays(*(("short step", self._step_of_short_batch) if is_short else ("step", self._step)))
        numbers = torch.cat(
            [self._sums / len(short), self._correct.double().view(len(self.runs), -1) / images], dim=1
        ).tolist()
        split = self._sums.shape[1]
        return [
            engine.history_row(run.settings, epoch, row[:split], row[split:])
            for run, row in zip(self.runs, numbers, strict=True)
        ]

    def place_pixels(self, epoch: int) -> None:
        """The training images of all sources in one epoch: on a GPU those of all seeds are augmented at once."""
        if self.device == "cpu" or not self.settings.augment:
            for source, run in enumerate(self.sources):
                self._pixels[source].copy_(engine.epoch_pixels(run.settings, run.data.train, epoch))
            return
        keys = [engine.augmentation_keys(run.settings, run.data.train, epoch) for run in self.sources]
        pixels = torch.cat([run.data.train.pixels for run in self.sources])
        self._pixels.copy_(augment(pixels, torch.cat(keys)).view_as(self._pixels))

    def _step(self, real: Tensor | None = None, images: int | None = None) -> None:
        """One step of all runs on the images at `_index`.

        Args:
            real: (G, B), which of them count; None: all.
            images: only so many, the first; None: all.
        """
        index = self._index[:, :images]
        inputs = engine.to_input(self._pixels[self._rows, index].transpose(0, 1).flatten(1, 2))
        labels = self._labels[self._rows, index][self._source]  # (G, B)
        self.nets.gradient.zero_()
        with engine.autocast(self.settings, inputs):
            logits, maps = self.nets(inputs, Pass(momentum=MOMENTUM, dropout=self._keys, images=real))
        logits = engine.at_least_float32(logits)  # (G, B, K)
        share = torch.full(labels.shape, 1 / labels.shape[1], dtype=logits.dtype, device=logits.device)
        if real is not None:
            share = real.to(logits.dtype) / real.sum(dim=1, keepdim=True)
        by_image = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        cross_entropies = (by_image.view_as(labels) * share).sum(dim=1).view(-1, self.members)  # (R, M)
        # (M, R, B, H'·W'), and the share of each image in its run's means
        maps = maps.unflatten(1, (-1, self.members))
        descriptors = descriptor(maps).permute(2, 1, 0, 3, 4).flatten(3)
        of_run = share.view(-1, self.members, share.shape[1])[:, 0]
        losses = cross_entropies.sum(dim=1)
        known = descriptors.new_zeros(2, len(self.runs))  # both terms, for the history
        for runs, terms, weights in self._weighted:
            distances = _terms(descriptors[:, runs], of_run[runs])
            for term, weight in zip(terms, weights, strict=True):
                losses = losses.index_add(0, runs, weight.to(known.dtype) * distances[term])
                known[term].index_copy_(0, runs, distances[term].detach())
        torch.where(self._active, losses, 0).sum().backward()
        self.adam.step()
        with torch.no_grad():
            for runs, terms in self._unweighted:
                distances = _terms(descriptors[:, runs], of_run[runs])
                for term in terms:
                    known[term].index_copy_(0, runs, distances[term])
            self._sums += torch.cat([torch.stack([losses, *known], dim=1), cross_entropies], dim=1)
            correct = logits.argmax(dim=2) == labels
            self._correct += (correct if real is None else correct & real).sum(dim=1)

    def _step_of_short_batch(self) -> None:
        """The last chunk may be short. The runs of one seed meet it in the same step; others in different ones."""
        if len(self.sources) == 1:
            self._step(images=len(self.data.train) % self._index.shape[1])
        else:
            self._step(self._real)

    def _finish(self, rows: list[dict[str, float]], epoch: int) -> None:
        """What follows an epoch: failures, validation, selection. The rows get their validation columns."""
        running = [number for number in range(len(self.runs)) if number not in self.failures]
        for number in running:
            result = self.results[number]
            result.history.append(rows[number])
            if reason := engine.divergence(self.settings, rows[number]):
                self.failures[number] = Diverged(epoch, reason, result.history)
                self._park(number)
        if not engine.validates(self.settings, epoch):
            return
        with torch.no_grad(), self._evaluation_statistics():
            correct = self.validate().view(len(self.runs), self.members, -1).cpu()
            for number in running:
                if number not in self.failures:
                    state_of = partial(self._state_of, number)
                    rows[number] |= self.selectors[number].add(correct[number], state_of, epoch)

    def _park(self, number: int) -> None:
        """Set a failed run's slots back to finite numbers and train nothing there: the layout of the rest stays."""
        self._active[number] = False
        members = self._initial_members(self.runs[number])
        for net, member in zip(self._nets_of(number), members, strict=True):
            self.nets.load(net, member.state_dict())
            for moment in (self.adam.first, self.adam.second):
                for part in self.nets.parted(moment).values():
                    part[net].zero_()

    @contextmanager
    def _evaluation_statistics(self) -> Iterator[None]:
        """Batch-norm statistics of the rule that is asked for, as `fdl.training.batchnorm` has them."""
        if self.settings.bn_statistics == "moving":
            yield
            return
        saved = {name: buffer.clone() for name, buffer in self.nets.buffers.items()}
        seen = 0
        parts = torch.stack([run.data.train.pixels for run in self.sources], dim=1).split(self.settings.batch_size)
        for part in parts:  # (B, S, 3, H, W)
            seen += len(part)
            self.nets(engine.to_input(part.flatten(1, 2)), Pass(momentum=len(part) / seen))
        try:
            yield
        finally:
            for name, buffer in self.nets.buffers.items():
                buffer.copy_(saved[name])

    def validate(self) -> Tensor:
        """Which validation images each net gets right, (G, N)."""
        validation, result = self.data.validation, []
        if not self.nets.apart:  # on a CPU the bits are those of the loop
            self.nets.fold(autocast=self.settings.autocast)
        for pixels, labels in zip(
            validation.pixels.split(self.evaluated), validation.labels.split(self.evaluated), strict=True
        ):
            size = len(labels)
            self._seen[:size].copy_(pixels)
            self._truth[:size].copy_(labels)
            self.replays(f"evaluation of {size} images", partial(self._evaluate, size))
            result.append(self._right[:, :size].clone())
        return torch.cat(result, dim=1)

    def _evaluate(self, size: int) -> None:
        inputs = engine.to_input(self._seen[:size])
        with engine.autocast(self.settings, inputs):
            logits, _ = self.nets(inputs, Pass(folded=not self.nets.apart))
        self._right[:, :size].copy_(logits.float().argmax(dim=2) == self._truth[:size])


def _alike(wanted: Tensor, *, apart: bool) -> list[tuple[list[int], list[int]]]:
    """Which terms of which runs are computed together: those of all runs that want the same terms.

    Args:
        wanted: (R, 2) bool: whether a run wants a term.
        apart: every run and term by itself, as on a CPU, where sums are taken in an order that depends on their
            number.
    """
    pairs: list[tuple[int, int]] = [(run, term) for term, run in wanted.T.nonzero().tolist()]
    if apart:
        return [([run], [term]) for run, term in pairs]
    terms_of: dict[int, list[int]] = {}
    for run, term in pairs:
        terms_of.setdefault(run, []).append(term)
    runs_of: dict[tuple[int, ...], list[int]] = {}
    for run, terms in terms_of.items():
        runs_of.setdefault(tuple(terms), []).append(run)
    return [(runs, list(terms)) for terms, runs in runs_of.items()]


def _terms(descriptors: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine and the Gaussian term of every run (R,), as `fdl.methods.losses.feature_distance` has them.

    Args:
        descriptors: (M, R, B, H'·W').
        share: of each image in the mean, (R, B).
    """
    cosines, gaussians = pair_similarities(descriptors)
    return (cosines * share).sum(dim=-1).sum(dim=0), (gaussians.mean(dim=-1) * share).sum(dim=-1).sum(dim=0)


def _on_cpu(states: dict[str, list[State]]) -> dict[str, list[State]]:
    return {
        rule: [{name: value.cpu() for name, value in state.items()} for state in members]
        for rule, members in states.items()
    }
