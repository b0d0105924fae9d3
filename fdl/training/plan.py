"""Forecasts what a grid will take on this machine, from the counts of `costs` and a calibration of 20 s."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from fdl.core.grid import Bundle, Cell
from fdl.core.provenance import available_cores
from fdl.core.settings import Params
from fdl.results.state import Judge
from fdl.training import costs
from fdl.training.costs import Shape, Work
from fdl.training.seed_plan import SeedsNeeded, seeds_needed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fdl.core.randomness import Key
    from fdl.training.fused import Run
    from fdl.training.state import CellSettings, Images

SCHEMA_VERSION = 2
Network = tuple[Shape, int]  # a net, and how many ensembles of it are trained as one program (`fdl.training.fused`)
SECONDS = 20.0  # duration of the calibration
IMPORTS, LIBRARIES = 8.0, 0.75 * 2**30  # seconds and bytes that each process takes before its first step; measured


@dataclass(frozen=True)
class Pace:
    """Seconds per image and net, of one thread or of the GPU."""

    trained: float  # forward and backward pass
    evaluated: float  # forward pass
    mapped: float  # forward pass and gradients for a class activation map
    tuned: float  # forward and backward pass when members are tuned with a head
    measured: bool  # False: computed from FLOPs, at the rates of the networks that were measured


@dataclass(frozen=True)
class Line:
    """Forecast for one bundle."""

    bundle: str  # its key
    cells: int  # number of its cells
    finished: int  # number of cells that need no training
    flops: float  # of the other cells
    hours: float  # running time of its process
    memory: float  # GiB of main memory
    gpu_memory: float  # GiB if it is trained on a GPU; an estimate
    scratch: float  # GiB of checkpoints while it runs
    records: float  # GiB of its records


@dataclass(frozen=True)
class Plan:
    """Forecast for the whole grid."""

    preset: str
    device: str
    processes: int  # bundles that run at once
    lines: list[Line]  # a line per bundle
    hours: float  # until all bundles are done
    memory: float  # GiB of main memory of all processes
    scratch: float  # GiB of checkpoints of all processes
    records: float  # GiB of all records
    seeds: SeedsNeeded | None  # how many seeds the claims need; None: the grid has no pairs to compare
    notes: list[str]  # what is estimated

    def as_json(self) -> dict[str, Any]:
        """What `fdl plan --json` prints."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def plan(params: Params, *, processes: int | None = None, seconds: float = SECONDS) -> Plan:
    """Forecast time, memory and disk space for the cells of a grid that are not finished.

    Args:
        params: the settings.
        processes: number of bundles that run at once; None: one per GPU, or as many as the CPU cores allow with
            `threads` cores each.
        seconds: duration of the calibration.

    Raises:
        InputError: the number of images is not known yet, or the device is not there.
    """
    from fdl.training.device import gpu_slots

    slots = gpu_slots() if params.device != "cpu" else []
    device = "cuda" if slots else "cpu"
    processes = processes or (len(slots) if slots else max(1, available_cores() // params.threads))
    states = Judge(params, running=False).states()
    finished = {state.cell for state in states if state.trained and state.has_heads}  # scores may be out of date
    bundles = params.bundles()
    due = {
        bundle: _works(params, [cell for cell in cells if cell not in finished], device)
        for bundle, cells in bundles.items()
    }
    paces = calibrate(params, [work for works in due.values() for work in works], device, seconds)
    lines = [_line(params, bundle, bundles[bundle], works, paces, device=device) for bundle, works in due.items()]
    running = sorted((line for line in lines if line.cells > line.finished), key=lambda line: -line.memory)[:processes]
    notes = []
    if device == "cuda":
        notes.append("GPU memory is an estimate")
    if not all(pace.measured for pace in paces.values()):
        number = sum(not pace.measured for pace in paces.values())
        notes.append(f"{number} of {len(paces)} networks were too slow to be measured: their hours are from FLOPs")
    if guessed := sorted({b.dataset for b in due if not costs.sizes(params, b.dataset, b.backbone).prepared}):
        notes.append(f"not prepared, so with the authors' numbers of images: {', '.join(guessed)}")
    return Plan(
        preset=params.preset,
        device=device,
        processes=processes,
        lines=lines,
        hours=makespan([line.hours for line in lines], processes),
        memory=sum(line.memory for line in running),
        scratch=sum(line.scratch for line in running),
        records=sum(line.records for line in lines),
        seeds=seeds_needed(params, finished),
        notes=notes,
    )


def _works(params: Params, cells: list[Cell], device: str) -> list[Work]:
    """The work on cells of a bundle, with the number of ensembles in each cell's program."""
    together = costs.program_size(params, cells, device)
    fuses = params.fuses if device == "cuda" else params.fuses_on_cpu
    works = [costs.work(params, cell) for cell in cells]
    return [
        replace(work, together=_ensembles_at_once(params, work, together, device)) if fuses(cell) else work
        for cell, work in zip(cells, works, strict=True)
    ]


def _ensembles_at_once(params: Params, work: Work, together: int, device: str) -> int:
    """How many of `together` ensembles are trained at once: on a GPU at most as many as its memory allows."""
    if device == "cpu":
        return together
    from fdl.training.device import autocast_bfloat16
    from fdl.training.extent import extent, gpu_memory, runs_at_once

    net = extent(work.shape.backbone, work.shape.dataset, work.shape.image_size, work.shape.width)
    bytes_each = 2 if autocast_bfloat16(params.precision, device) else 4
    limit = runs_at_once(net, work.members, params.batch_size, bytes_each=bytes_each, memory=gpu_memory())
    return max(1, min(together, limit))


def makespan(hours: Sequence[float], processes: int) -> float:
    """Hours until all bundles are done if the longest ones start first."""
    free = [0.0] * processes
    for duration in sorted(hours, reverse=True):
        free[free.index(min(free))] += duration
    return max(free)


def _line(
    params: Params, bundle: Bundle, cells: list[Cell], works: list[Work], paces: dict[Network, Pace], *, device: str
) -> Line:
    space = costs.space(params, cells, program=costs.program_size(params, cells, device))
    seconds = sum(
        (work.trained - work.tuned) * (pace := paces[work.shape, work.together]).trained
        + work.tuned * pace.tuned
        + work.evaluated * pace.evaluated
        + work.mapped * pace.mapped
        for work in works
    )
    return Line(
        bundle=bundle.key,
        cells=len(cells),
        finished=len(cells) - len(works),
        flops=sum(work.flops for work in works),
        hours=(seconds + IMPORTS * bool(works)) / 3600,
        memory=(space.memory + LIBRARIES) / 2**30,
        gpu_memory=space.gpu / 2**30,
        scratch=space.scratch / 2**30,
        records=space.records / 2**30,
    )


def calibrate(params: Params, works: Sequence[Work], device: str, seconds: float) -> dict[Network, Pace]:
    """Measure the networks of the grid, those with the most work first; estimate those for which time is too short."""
    from fdl.training.device import set_up_torch

    set_up_torch(params, device)
    flops: dict[Network, float] = {}
    for work in works:
        flops[work.shape, work.together] = flops.get((work.shape, work.together), 0.0) + work.flops
    networks = sorted(flops, key=lambda network: -flops[network])
    paces: dict[Network, Pace] = {}
    # The network with the least work comes first: its rate tells for which others there is time.
    end = time.monotonic() + seconds
    rate = 0.0  # FLOPs per second
    for left, (shape, together) in zip(range(len(networks), 0, -1), [*networks[-1:], *networks[:-1]], strict=True):
        budget = (end - time.monotonic()) / left
        net = costs.count(shape)
        batch = (
            _trained_nets(params, together) * params.batch_size * net.training
            + 2 * _evaluation_images(shape) * net.forward
        )
        if rate and 2 * batch / rate > max(budget, (end - time.monotonic()) / 2):
            continue
        paces[shape, together] = _measure(params, shape, together, device, budget, on_gpu=device == "cuda")
        rate = rate or net.training / paces[shape, together].trained
    for network in networks:
        if network not in paces:
            paces[network] = _estimated(network[0], paces)
    return paces


def _trained_nets(params: Params, together: int) -> int:
    """Number of nets that a step of the calibration trains: a single one in the plain loop, or all of a program."""
    return together * params.members if together > 1 else 1


def _evaluation_images(shape: Shape) -> int:
    """Number of images whose evaluation takes a fraction of a second on one core; at most `EVALUATION_BATCH`."""
    from fdl.training.state import EVALUATION_BATCH

    return int(min(EVALUATION_BATCH, max(10, 2e10 / costs.count(shape).forward)))


def _estimated(shape: Shape, measured: dict[Network, Pace]) -> Pace:
    """The pace of a network that was not measured, from the mean rates of networks of its backbone, or else of all."""
    rates = [(other, pace) for (other, _), pace in measured.items() if pace.measured]
    same_backbone = [(other, pace) for other, pace in rates if other.backbone == shape.backbone] or rates
    net = costs.count(shape)

    def mean(seconds: Callable[[Pace], float], flops: Callable[[costs.Net], float]) -> float:
        return (
            sum(seconds(pace) / flops(costs.count(other)) for other, pace in same_backbone)
            / len(same_backbone)
            * flops(net)
        )

    return Pace(
        mean(lambda pace: pace.trained, lambda counted: counted.training),
        mean(lambda pace: pace.evaluated, lambda counted: counted.forward),
        mean(lambda pace: pace.mapped, lambda counted: counted.forward),
        mean(lambda pace: pace.tuned, lambda counted: counted.training),
        measured=False,
    )


@dataclass(frozen=True)
class _Stopwatch:
    """Measures the time per image."""

    device: str
    threads: int
    seconds: float  # time for all measurements of one network

    def per_image(self, work: Callable[[], object], images: int, share: float) -> float:
        """Seconds of one thread (or of the GPU) per image.

        Args:
            work: processes the images; it is repeated.
            images: number of images in a call of `work`.
            share: share of `seconds` for which it is repeated.
        """
        work()  # warms up: memory is allocated and kernels are compiled
        end, start, times = time.monotonic() + share * self.seconds, self._clock(), 0
        while times == 0 or time.monotonic() < end:
            work()
            times += 1
        return (self._clock() - start) / times / images

    def _clock(self) -> float:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() / self.threads


def _measure(params: Params, shape: Shape, together: int, device: str, seconds: float, *, on_gpu: bool) -> Pace:
    """Measure one network, with the functions of the plain loop or with a program of several ensembles."""
    from fdl.evaluation.cam import grad_cam
    from fdl.training import engine
    from fdl.training.adam import Adam
    from fdl.training.fused import Run
    from fdl.training.state import CellData

    watch, settings = _Stopwatch(device, params.threads, seconds), _settings(params, shape, device)
    nets = engine.build_members(settings, shape.classes, device)
    adam, batch = Adam(nets, 1e-4), _random_images(shape, params.batch_size, device)
    evaluation_batch = _random_images(shape, _evaluation_images(shape), device)

    def loop() -> None:
        engine.train_epoch(settings, batch, nets, adam, 0)

    evaluated: float | None = None
    if together > 1:
        ensemble = replace(settings, members=params.members)
        data = CellData(batch, evaluation_batch, batch, batch.labels[:1], shape.classes)
        trained, evaluated = _program_pace([Run(ensemble, data)] * together, watch, on_gpu=on_gpu)
        tuned = _tuning_pace(ensemble, nets, batch, watch) if on_gpu else watch.per_image(loop, len(batch), 0.1)
    else:
        trained = tuned = watch.per_image(loop, len(batch), 0.5)
    for net in nets:
        net.eval()
    inputs = engine.to_input(evaluation_batch.pixels)
    if evaluated is None:
        evaluated = watch.per_image(
            lambda: engine.predict(settings, nets, evaluation_batch.pixels), len(evaluation_batch), 0.25
        )
    mapped = watch.per_image(lambda: grad_cam(nets, inputs, evaluation_batch.labels), len(evaluation_batch), 0.15)
    return Pace(trained, evaluated, mapped, tuned, measured=True)


def _settings(params: Params, shape: Shape, device: str) -> "CellSettings":
    """Settings of a single classical net. FDL takes about as long, as the history always reports the distance."""
    from fdl.training.device import autocast_bfloat16
    from fdl.training.state import CellSettings

    return CellSettings(
        backbone=shape.backbone, dataset=shape.dataset, method="classical", method_params={}, seed=0, members=1,
        image_size=shape.image_size, width=shape.width, epochs=1, batch_size=params.batch_size,
        learning_rate=1e-4, augment=params.augment, selections=["last"], evaluate_every=None,
        bn_statistics=params.bn_statistics, autocast=autocast_bfloat16(params.precision, device),
    )  # fmt: skip


def _random_images(shape: Shape, number: int, device: str) -> "Images":
    import torch

    from fdl.training.state import Images

    size = (number, 3, shape.image_size, shape.image_size)
    pixels = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0))
    return Images(pixels.to(torch.uint8).to(device), (torch.arange(number) % shape.classes).to(device))


def _program_pace(runs: "Sequence[Run]", watch: _Stopwatch, *, on_gpu: bool) -> tuple[float, float | None]:
    """Seconds per image and net of training and, on a GPU, of validation, for several ensembles in one program."""
    import torch

    from fdl.training.cuda_graph import WARM_UP
    from fdl.training.fused import Program

    nets, data = len(runs) * runs[0].settings.members, runs[0].data
    program = Program(runs, watch.device)
    evaluated = None
    with program.stream():
        for _ in range(WARM_UP * on_gpu):  # the next call captures the step as a CUDA graph
            program.train_epoch(0)
        trained = watch.per_image(lambda: program.train_epoch(0), len(data.train) * nets, 0.4)
        if on_gpu:
            with torch.no_grad():
                evaluated = watch.per_image(program.validate, len(data.validation) * nets, 0.15)
    return trained, evaluated


def _tuning_pace(settings: "CellSettings", nets: "Sequence[nn.Module]", batch: "Images", watch: _Stopwatch) -> float:
    """Seconds per image and net on a GPU to tune the members of one ensemble; the head itself costs almost nothing."""
    import torch
    from torch.nn import functional

    from fdl.models import Member
    from fdl.training.cuda_graph import WARM_UP, own_stream
    from fdl.training.engine import autocast, to_input
    from fdl.training.fused_heads import FusedMembers, ReplayedSteps

    members = cast(list[Member], [*nets] * settings.members)
    inputs, key = to_input(batch.pixels), torch.zeros((), dtype=torch.int64, device=watch.device)
    with own_stream(watch.device):
        fused = FusedMembers(members, settings, len(batch), print)
        steps = ReplayedSteps([fused], 1e-4, watch.device, print)

        def gradients(inputs: "Tensor", labels: "Tensor", key: "Key") -> None:
            with autocast(settings, inputs):
                outputs = fused(inputs)
            torch.stack([functional.cross_entropy(logits.float(), labels) for logits, _ in outputs]).sum().backward()

        def step() -> None:
            steps(inputs, batch.labels, key, gradients)

        for _ in range(WARM_UP):
            step()
        return watch.per_image(step, len(batch) * settings.members, 0.1)
