"""Programs: several ensembles of a bundle trained as one network.

A run is the training of one ensemble. Runs that differ only in their seed, and in the weights that their methods give
to the two terms of the distance loss, can share a program (`fdl.training.together`): on a GPU as many as fit into its
memory, on a CPU those of one seed if their nets are narrow. The members of all runs form one `FusedNets`, the loss is
the sum of the runs' losses, and one Adam updates one flat buffer. No net's result depends on another run's nets, so
every run has the numbers of the loop, the plain training loop of `fdl.training.engine`, up to rounding. On a GPU a
step is captured as a CUDA graph and replayed: it reads and writes tensors that stay at the same addresses, and results
are copied to the host once per epoch.

So far this has run on CPUs only. CUDA graphs, memory and speed on a GPU have not been tested.

Letters in the shapes: R runs, M members per run, G = R · M nets, S sources (different streams of training images),
B images, K classes.
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
    """One ensemble to train, with its images on the device."""

    settings: CellSettings
    data: CellData


def distance_weights(settings: CellSettings) -> tuple[float, float] | None:
    """Weights of the cosine and of the Gaussian term; None if the method is not declared to consist of these terms.

    The declarations are in `fdl.core.fused_methods`.
    """
    terms = distance_terms(settings.method)
    if terms is None:
        return None
    cosine, gaussian = (settings.method_params[name] if name else 0.0 for name in (terms.cosine, terms.gaussian))
    return cosine, gaussian


class Program:
    """Several runs in training as one network.

    Args:
        runs: equal in everything but seed and method; those of the same seed are neighbours.
        device: "cpu" or "cuda", where their images are.
        say: takes lines for the log.
    """

    def __init__(self, runs: Sequence[Run], device: str, say: Say = print) -> None:
        # If the capture of CUDA graphs fails, every graph reports the same error; `cache` lets each line through once.
        self.runs, self.device, self.say = list(runs), device, cache(say)
        self.settings, self.data = runs[0].settings, runs[0].data
        self.members = self.settings.members
        by_seed: dict[int, list[Run]] = {}
        for run in runs:
            by_seed.setdefault(run.settings.seed, []).append(run)
        # Runs of the same seed train on the same images, so these are the input of the first layer only once. That
        # needs the same number of runs for every seed; otherwise each run is a source of its own.
        equally_many_runs = len({len(runs_of_seed) for runs_of_seed in by_seed.values()}) == 1
        self.sources = [runs_of_seed[0] for runs_of_seed in by_seed.values()] if equally_many_runs else self.runs
        built = {seed: self._initial_members(runs_of_seed[0]) for seed, runs_of_seed in by_seed.items()}
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
        self.epoch = -1  # the last finished epoch, 0-based
        self.seconds = 0.0  # time spent on all finished epochs, including those before a restart
        self._allocate_inputs()
        self._allocate_losses()
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
        """Train all runs from the current epoch to their last one.

        Args:
            progress: takes one line per epoch.
            epoch_end: called after every epoch but the last.

        Returns:
            In the order of the runs, the result of each: `Trained` with its states on the CPU, or `Diverged`.
        """
        pace = Pace(self.settings.epochs, len(self.data.train) * len(self.runs))
        for epoch in range(self.epoch + 1, self.settings.epochs):
            start = time.perf_counter()
            with self.stream():
                rows = self.train_epoch(epoch)
                self._finish_epoch(rows, epoch)
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
        """Everything that the following epochs depend on.

        It has an entry for each run, so that a smaller program can restore some of the runs.
        """
        first, second = self.nets.parameter_views(self.adam.first), self.nets.parameter_views(self.adam.second)
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
        """Restore what `state` returned."""
        first, second = self.nets.parameter_views(self.adam.first), self.nets.parameter_views(self.adam.second)
        for number, run_state in enumerate(state["runs"]):
            for member, net in enumerate(self._nets_of(number)):
                self.nets.load(net, run_state["nets"][member])
                for parts, name in ((first, "first"), (second, "second")):
                    for parameter, part in parts.items():
                        part[net].copy_(run_state[name][member][parameter])
            self.selectors[number].best = run_state["best"]
            vars(self.results[number]).update(run_state["result"])
            if run_state["failure"]:
                self.failures[number] = Diverged(**run_state["failure"])
                self._is_active[number] = False
        self.adam.steps.copy_(state["steps"])
        # Continue with the same forms of the convolutions, because others would round differently. They are missing if
        # memory was exhausted and the group was halved; then this program keeps its own choice.
        self.nets.back_ends = state.get("back_ends", self.nets.back_ends)
        self.epoch, self.seconds = int(state["epoch"]), float(state["seconds"])

    def _initial_members(self, run: Run) -> list[Member]:
        return cast(list[Member], engine.build_members(run.settings, self.data.num_classes, self.device))

    def _nets_of(self, number: int) -> range:
        return range(number * self.members, (number + 1) * self.members)

    def _state_of(self, number: int, member: int) -> State:
        return self.nets.state(self._nets_of(number)[member])

    def _allocate_inputs(self) -> None:
        """Allocate the tensors from which every step and every evaluation reads its images.

        Their addresses must not change, because CUDA graphs record addresses.
        """
        device, sources = self.device, len(self.sources)
        batch = min(self.settings.batch_size, len(self.data.train))
        # All training images of an epoch, (S, N, 3, H, W), and their labels; a step takes the rows at `_batch_index`.
        self._pixels = torch.stack([run.data.train.pixels for run in self.sources])
        self._labels = torch.stack([run.data.train.labels for run in self.sources])  # (S, N)
        self._source_numbers = torch.arange(sources, device=device)[:, None]
        # For each net the number of its source, (G,).
        self._source_of_net = torch.arange(sources, device=device).repeat_interleave(self.nets.count // sources)
        # Of the batch of a step: positions of its images, whether an image counts, and the keys of the dropout masks.
        self._batch_index = torch.zeros(sources, batch, dtype=torch.int64, device=device)
        self._is_real = torch.zeros(self.nets.count, batch, dtype=torch.bool, device=device)
        self._dropout_keys = torch.zeros(sources, self.members, dtype=torch.int64, device=device)
        seeds = torch.tensor([run.settings.seed for run in self.sources], device=device)
        self._dropout_seed_keys = derive(seeds[:, None], "dropout")
        self._member_numbers = torch.arange(self.members, device=device)
        # On a CPU the size is fixed, because no number may depend on how many runs share the program.
        self.evaluation_batch = EVALUATION_BATCH
        if device == "cuda":
            net_extent = count(self.nets.template, self.settings.image_size)
            self.evaluation_batch = evaluated_at_once(
                net_extent, self.nets.count, len(self.data.validation), gpu_memory()
            )
        self._evaluation_pixels = self.data.validation.pixels[: self.evaluation_batch].clone()
        self._evaluation_labels = self.data.validation.labels[: self.evaluation_batch].clone()
        self._evaluation_correct = torch.zeros(
            self.nets.count, len(self._evaluation_labels), dtype=torch.bool, device=device
        )

    def _choose_convolutions(self) -> None:
        with self.stream():
            self.nets.back_ends = convolution_choice.choose(
                self.nets,
                self.settings.image_size,
                {"training": self._batch_index.shape[1], "evaluation": len(self._evaluation_labels)},
                autocast=self.settings.autocast,
                say=self.say,
            )

    def _allocate_losses(self) -> None:
        """Allocate the tensors that hold the weights of the distance terms and accumulate losses over an epoch."""
        weights = torch.tensor(
            [distance_weights(run.settings) for run in self.runs], dtype=torch.float64, device=self.device
        )
        # Distance terms with a weight other than 0 are part of the loss. Each entry holds runs, terms that are computed
        # for them together (0: cosine, 1: Gaussian), and the weights (terms, runs).
        # Terms of weight 0 are only reported in the history. They are computed after the step and without a gradient,
        # because 0 · NaN in the loss would turn all weights into NaN.
        self._terms_in_loss: list[tuple[Tensor, list[int], Tensor]] = []
        self._terms_reported: list[tuple[Tensor, list[int]]] = []
        for numbers, terms in _group_by_terms(weights != 0, apart=self.device == "cpu"):
            runs = torch.tensor(numbers, device=self.device)
            self._terms_in_loss.append((runs, terms, weights[runs][:, terms].T))
        for numbers, terms in _group_by_terms(weights == 0, apart=self.device == "cpu"):
            self._terms_reported.append((torch.tensor(numbers, device=self.device), terms))
        self._is_active = torch.ones(len(self.runs), dtype=torch.bool, device=self.device)
        self._loss_sums = torch.zeros(len(self.runs), 3 + self.members, dtype=torch.float64, device=self.device)
        self._correct_counts = torch.zeros(self.nets.count, dtype=torch.int64, device=self.device)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Work on the program's own CUDA stream, see `own_stream`; does nothing on a CPU."""
        if self.device == "cuda":
            self._own_stream = self._own_stream or torch.cuda.Stream()
        with own_stream(self.device, self._own_stream):
            yield

    def train_epoch(self, epoch: int) -> list[dict[str, float]]:
        """One pass over the training images; returns a row of the history for every run."""
        images, size = len(self.data.train), self._batch_index.shape[1]
        orders = [engine.epoch_order(run.settings, run.data.train, epoch) for run in self.sources]
        self.place_pixels(epoch)
        index = torch.stack(orders, dim=1)[..., None] * self.settings.batch_size + torch.arange(size)  # (steps, S, B)
        short = (index >= images).any(dim=2).any(dim=1).tolist()
        real = (index < images).to(self.device)[:, self._source_of_net]
        index = index.clamp(max=images - 1).to(self.device)
        steps = torch.arange(len(index), device=self.device)[:, None, None]
        keys = absorb(absorb(absorb(self._dropout_seed_keys, epoch), steps), self._member_numbers)  # (steps, S, M)
        self._loss_sums.zero_()
        self._correct_counts.zero_()
        for step, is_short in enumerate(short):
            self._batch_index.copy_(index[step])
            self._is_real.copy_(real[step])
            self._dropout_keys.copy_(keys[step])
            self.replays(*(("short step", self._step_of_short_batch) if is_short else ("step", self._step)))
        numbers = torch.cat(
            [self._loss_sums / len(short), self._correct_counts.double().view(len(self.runs), -1) / images], dim=1
        ).tolist()
        split = self._loss_sums.shape[1]
        return [
            engine.history_row(run.settings, epoch, row[:split], row[split:])
            for run, row in zip(self.runs, numbers, strict=True)
        ]

    def place_pixels(self, epoch: int) -> None:
        """Put the training images of an epoch in place, augmented if the settings say so.

        On a GPU the images of all seeds are augmented at once.
        """
        if self.device == "cpu" or not self.settings.augment:
            for source, run in enumerate(self.sources):
                self._pixels[source].copy_(engine.epoch_pixels(run.settings, run.data.train, epoch))
            return
        keys = [engine.augmentation_keys(run.settings, run.data.train, epoch) for run in self.sources]
        pixels = torch.cat([run.data.train.pixels for run in self.sources])
        self._pixels.copy_(augment(pixels, torch.cat(keys)).view_as(self._pixels))

    def _step(self, real: Tensor | None = None, images: int | None = None) -> None:
        """One training step of all runs on the images at `_batch_index`.

        Args:
            real: (G, B) booleans, False for images that only fill up a short batch; None: all images count.
            images: take only the first so many images of the batch; None: all.
        """
        index = self._batch_index[:, :images]
        inputs = engine.to_input(self._pixels[self._source_numbers, index].transpose(0, 1).flatten(1, 2))
        labels = self._labels[self._source_numbers, index][self._source_of_net]  # (G, B)
        self.nets.gradient.zero_()
        with engine.autocast(self.settings, inputs):
            logits, maps = self.nets(inputs, Pass(momentum=MOMENTUM, dropout=self._dropout_keys, images=real))
        logits = engine.at_least_float32(logits)  # (G, B, K)
        share = torch.full(labels.shape, 1 / labels.shape[1], dtype=logits.dtype, device=logits.device)
        if real is not None:
            share = real.to(logits.dtype) / real.sum(dim=1, keepdim=True)
        by_image = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        cross_entropies = (by_image.view_as(labels) * share).sum(dim=1).view(-1, self.members)  # (R, M)
        maps = maps.unflatten(1, (-1, self.members))
        descriptors = descriptor(maps).permute(2, 1, 0, 3, 4).flatten(3)  # (M, R, B, H'·W')
        share_of_run = share.view(-1, self.members, share.shape[1])[:, 0]
        losses = cross_entropies.sum(dim=1)
        term_values = descriptors.new_zeros(2, len(self.runs))  # both terms, for the history
        for runs, terms, weights in self._terms_in_loss:
            distances = _distance_terms(descriptors[:, runs], share_of_run[runs])
            for term, weight in zip(terms, weights, strict=True):
                losses = losses.index_add(0, runs, weight.to(term_values.dtype) * distances[term])
                term_values[term].index_copy_(0, runs, distances[term].detach())
        torch.where(self._is_active, losses, 0).sum().backward()
        self.adam.step()
        with torch.no_grad():
            for runs, terms in self._terms_reported:
                distances = _distance_terms(descriptors[:, runs], share_of_run[runs])
                for term in terms:
                    term_values[term].index_copy_(0, runs, distances[term])
            self._loss_sums += torch.cat([torch.stack([losses, *term_values], dim=1), cross_entropies], dim=1)
            correct = logits.argmax(dim=2) == labels
            self._correct_counts += (correct if real is None else correct & real).sum(dim=1)

    def _step_of_short_batch(self) -> None:
        """One step in which at least one source takes the last chunk of images, which may be shorter than the others.

        A single source simply takes fewer images. Several sources reach their short chunk in different steps, so the
        batch of the source in question is filled up with images that do not count.
        """
        if len(self.sources) == 1:
            self._step(images=len(self.data.train) % self._batch_index.shape[1])
        else:
            self._step(self._is_real)

    def _finish_epoch(self, rows: list[dict[str, float]], epoch: int) -> None:
        """Detect diverged runs, then validate and select the states to keep; adds validation columns to the rows."""
        running = [number for number in range(len(self.runs)) if number not in self.failures]
        for number in running:
            result = self.results[number]
            result.history.append(rows[number])
            if reason := engine.divergence(self.settings, rows[number]):
                self.failures[number] = Diverged(epoch, reason, result.history)
                self._deactivate(number)
        if not engine.validates(self.settings, epoch):
            return
        with torch.no_grad(), self._evaluation_statistics():
            correct = self.validate().view(len(self.runs), self.members, -1).cpu()
            for number in running:
                if number not in self.failures:
                    state_of = partial(self._state_of, number)
                    rows[number] |= self.selectors[number].add(correct[number], state_of, epoch)

    def _deactivate(self, number: int) -> None:
        """Stop training a failed run: reset its nets and moments to finite numbers and leave its loss out.

        The run stays part of the network, because removing it would change the tensors of the others.
        """
        self._is_active[number] = False
        members = self._initial_members(self.runs[number])
        for net, member in zip(self._nets_of(number), members, strict=True):
            self.nets.load(net, member.state_dict())
            for moment in (self.adam.first, self.adam.second):
                for part in self.nets.parameter_views(moment).values():
                    part[net].zero_()

    @contextmanager
    def _evaluation_statistics(self) -> Iterator[None]:
        """Use the batch-norm statistics that the settings ask for; the same as in `fdl.training.batchnorm`."""
        if self.settings.bn_statistics == "moving":
            yield
            return
        saved = {name: buffer.clone() for name, buffer in self.nets.buffers.items()}
        images_seen = 0
        parts = torch.stack([run.data.train.pixels for run in self.sources], dim=1).split(self.settings.batch_size)
        for part in parts:  # (B, S, 3, H, W)
            images_seen += len(part)
            self.nets(engine.to_input(part.flatten(1, 2)), Pass(momentum=len(part) / images_seen))
        try:
            yield
        finally:
            for name, buffer in self.nets.buffers.items():
                buffer.copy_(saved[name])

    def validate(self) -> Tensor:
        """Whether each net classifies each validation image correctly: booleans (G, N)."""
        validation, parts = self.data.validation, []
        if not self.nets.apart:  # on a CPU folding would change bits, and these must be those of the loop
            self.nets.fold(autocast=self.settings.autocast)
        for pixels, labels in zip(
            validation.pixels.split(self.evaluation_batch), validation.labels.split(self.evaluation_batch), strict=True
        ):
            size = len(labels)
            self._evaluation_pixels[:size].copy_(pixels)
            self._evaluation_labels[:size].copy_(labels)
            self.replays(f"evaluation of {size} images", partial(self._evaluate, size))
            parts.append(self._evaluation_correct[:, :size].clone())
        return torch.cat(parts, dim=1)

    def _evaluate(self, size: int) -> None:
        inputs = engine.to_input(self._evaluation_pixels[:size])
        with engine.autocast(self.settings, inputs):
            logits, _ = self.nets(inputs, Pass(folded=not self.nets.apart))
        self._evaluation_correct[:, :size].copy_(logits.float().argmax(dim=2) == self._evaluation_labels[:size])


def _group_by_terms(wanted: Tensor, *, apart: bool) -> list[tuple[list[int], list[int]]]:
    """Group the runs that want the same distance terms, so that these are computed together.

    Args:
        wanted: (R, 2) booleans: whether a run wants the cosine and the Gaussian term.
        apart: make a group of every run and term, as on a CPU, where the order of summation, and hence the rounding,
            would depend on the size of the group.

    Returns:
        Groups: the numbers of their runs, and those of their terms.
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


def _distance_terms(descriptors: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine and the Gaussian term of every run (R,), equal to those of `fdl.methods.losses.feature_distance`.

    Args:
        descriptors: (M, R, B, H'·W').
        share: (R, B), the weight of each image in the mean over images.
    """
    cosines, gaussians = pair_similarities(descriptors)
    return (cosines * share).sum(dim=-1).sum(dim=0), (gaussians.mean(dim=-1) * share).sum(dim=-1).sum(dim=0)


def _on_cpu(states: dict[str, list[State]]) -> dict[str, list[State]]:
    return {
        rule: [{name: value.cpu() for name, value in state.items()} for state in members]
        for rule, members in states.items()
    }
