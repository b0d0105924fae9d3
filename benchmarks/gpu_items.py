"""The items of `benchmarks.gpu`.

Each item is a function of the scale, the names of the cases measured by an earlier call, and `note`, which
records the numbers of a case. A run is the training of one ensemble, and a program trains several runs as one network
(`fdl.training.fused`). "Eager" means without CUDA graphs.
"""

import gc
import io
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.naive import naive, naive_evaluation, naive_step
from benchmarks.timing import machine
from fdl.core.protocol import DATASETS
from fdl.models import Member, build
from fdl.models.convolutions import BACK_ENDS
from fdl.models.fused import Pass
from fdl.training import convolution_choice, engine
from fdl.training import heads as training_heads
from fdl.training.cuda_graph import WARM_UP, own_stream
from fdl.training.fused import Program, Run
from fdl.training.fused_heads import FusedMembers
from fdl.training.state import CellData, CellSettings, Images

Finding = dict[str, Any]
Note = Callable[..., None]  # takes the case, and its numbers by name
BACKBONES = ("alexnet", "vgg", "resnet")
SIZES = {32: "cifar10", 84: "miniimagenet", 200: "neu"}
METHODS = {"classical": {}, "fdl": {"cosine_weight": 0.5, "gaussian_weight": 0.05}}


@dataclass(frozen=True)
class Scale:
    """The device, and whether the items run on small nets, which tests the items themselves."""

    device: str
    small: bool

    def of(self, full: Any, small: Any) -> Any:
        """The second value with small nets, otherwise the first."""
        return small if self.small else full


@dataclass(frozen=True)
class Item:
    """A function that measures, and its time limit."""

    run: Callable[[Scale, set[str], Note], None]
    seconds: float  # time limit


# --- What is trained -------------------------------------------------------------------------------------------------


def images(number: int, size: int, classes: int, device: str) -> Images:
    """Random images. With flat images rounding would decide in which of several equal pixels a pool has its maximum."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(number) % classes
    return Images(pixels.to(device), labels.to(device))


def runs(
    scale: Scale, backbone: str, dataset: str, *, train: int, validation: int = 20, seeds: int = 2, **changes: Any
) -> list[Run]:
    """Runs of `classical` and `fdl` for several seeds, on the same random images.

    Args:
        scale: see `Scale`.
        backbone, dataset: whose network is trained.
        train, validation: numbers of images.
        seeds: number of seeds.
        changes: other settings of the cells.
    """
    size = changes.pop("image_size", None) or DATASETS[dataset].image_size
    classes = len(DATASETS[dataset].classes)
    trained, validated, tested = (images(number, size, classes, scale.device) for number in (train, validation, 10))
    data = CellData(trained, validated, tested, torch.arange(1, device=scale.device), classes)
    values: dict[str, Any] = {
        "width": scale.of(1.0, 0.0625), "epochs": 1, "batch_size": 10, "learning_rate": 1e-4, "augment": True,
        "selections": ["last"], "evaluate_every": None, "bn_statistics": "moving", "members": scale.of(5, 2),
    }  # fmt: skip
    values |= {"backbone": backbone, "dataset": dataset, "image_size": size} | changes
    return [
        Run(CellSettings(method=method, method_params=params, seed=seed, **values), data)
        for seed in range(seeds)
        for method, params in METHODS.items()
    ]


def program(test_runs: Sequence[Run], scale: Scale, *, eager: bool = False, same_weights: bool = False) -> Program:
    """A program of the given runs, whose log is printed (it is shown if the item fails).

    Args:
        made, scale: its runs, and where they are trained.
        eager: whether to do without CUDA graphs.
        alike: whether all nets get the same initial weights. This suffices to measure time and memory, and drawing
            those of fifty large nets takes longer than training them.
    """
    os.environ["FDL_EAGER"] = "1" if eager else "0"
    say = partial(print, flush=True)
    if not same_weights:
        return Program(test_runs, scale.device, say)
    (net,) = engine.build_members(
        replace(test_runs[0].settings, members=1), test_runs[0].data.num_classes, scale.device
    )
    with patch.object(engine, "build_members", lambda settings, *_: [net] * settings.members):
        return Program(test_runs, scale.device, say)


def set_precision(precision: str) -> None:
    """Set up torch as `fdl.training.device.set_up_torch` does for float32, tf32, or bfloat16 (by autocast)."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def wait(scale: Scale) -> None:
    """Wait until the GPU has finished all work."""
    if scale.device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], scale: Scale, *, limit: float = 1.0, repeats: int = 10) -> float:
    """Median seconds of a call, after one call to warm up; stops repeating after `limit` seconds."""
    times: list[float] = []
    end = time.perf_counter() + scale.of(limit, 0.01)
    for turn in range(scale.of(repeats + 1, 1)):
        wait(scale)
        start = time.perf_counter()
        work()
        wait(scale)
        if turn or scale.small:
            times.append(time.perf_counter() - start)
        if times and time.perf_counter() > end:
            break
    return sorted(times)[len(times) // 2]


def gib(size: float) -> float:
    """Bytes → GiB, rounded."""
    return round(size / 2**30, 2)


def reset_peak(scale: Scale) -> None:
    """Release unused GPU memory and reset the counter of its peak."""
    if scale.device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(scale: Scale) -> dict[str, float]:
    """GPU memory in GiB: allocated at the peak, reserved at the peak, and allocated now."""
    if scale.device == "cpu":
        return {}
    peak, reserved, now = (
        torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), torch.cuda.memory_allocated()
    )  # fmt: skip
    return {"peak GiB": gib(peak), "reserved GiB": gib(reserved), "held GiB": gib(now)}


def apart(first: Tensor, second: Tensor) -> float:
    """Norm of the difference, relative to the norm of the second tensor."""
    second = second.double().cpu()
    return float((first.double().cpu() - second).norm() / second.norm())


# --- (1) Is it right? ------------------------------------------------------------------------------------------------


def versions(scale: Scale, measured: set[str], note: Note) -> None:
    """Describe the machine. If this item fails, CUDA does not start."""
    numbers: dict[str, Any] = {**machine(), "device": scale.device, "python": platform.python_version()}
    if scale.device == "cuda":
        card = torch.cuda.get_device_properties()
        torch.zeros(1, device="cuda").item()
        numbers |= {
            "gpu": card.name, "GiB": gib(card.total_memory), "multiprocessors": card.multi_processor_count,
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        }  # fmt: skip
    note("machine", **numbers)


def peaks(scale: Scale, measured: set[str], note: Note) -> None:
    """Highest FLOP/s of this card with large matrices, and its memory bandwidth."""
    side = scale.of(8192, 128)
    for precision in ("float32", "tf32", "bfloat16"):
        set_precision(precision)
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.randn(side, side, device=scale.device, dtype=dtype) for _ in range(2))
        note(precision, tflops=2 * side**3 / seconds(partial(torch.matmul, a, b), scale) / 1e12)
    source, target = (torch.empty(scale.of(2**31, 2**16), dtype=torch.uint8, device=scale.device) for _ in range(2))
    note("copy", gb_per_second=2 * len(source) / seconds(lambda: target.copy_(source), scale) / 1e9)


def gradients(scale: Scale, measured: set[str], note: Note) -> None:
    """Gradients of a program's first step on the device, against those in float64 on the CPU; narrow nets.

    One case has whole batches, the other a batch that is short for one of two seeds.
    """
    for backbone in BACKBONES:
        for case, train in (("whole batches", 20), ("short batches", 18)):
            # Without augmentation, whose pixels agree only up to rounding.
            test_runs = runs(scale, backbone, "cifar10", train=train, width=scale.of(0.125, 0.0625), augment=False)
            expected = _first_gradient(test_runs, Scale("cpu", scale.small), torch.float64)
            for precision in ("float32", "tf32", "bfloat16"):
                set_precision(precision)
                autocast = precision == "bfloat16"
                own = [replace(run, settings=replace(run.settings, autocast=autocast)) for run in test_runs]
                pairs = zip(_first_gradient(own, scale, torch.float32), expected, strict=True)
                errors = sorted(apart(*pair) for pair in pairs)
                # The error of a net is larger if rounding changes which elements the loss's mask or a pool selects.
                note(f"{backbone}, {case}, {precision}", median=errors[len(errors) // 2], worst=errors[-1])


def _first_gradient(test_runs: Sequence[Run], scale: Scale, dtype: torch.dtype) -> Tensor:
    """The gradient of every net after the first step, (nets, parameters)."""
    build_members, to_input = engine.build_members, engine.to_input
    test_runs = [replace(run, data=_moved(run.data, scale.device)) for run in test_runs]
    with (
        patch.object(engine, "build_members", lambda *given: [net.to(dtype) for net in build_members(*given)]),
        patch.object(engine, "to_input", lambda pixels: to_input(pixels).to(dtype)),
    ):
        trained = program(test_runs, scale, eager=True)
        steps: list[Tensor] = []
        step = trained.adam.step

        def first() -> None:
            if not steps:
                parts = trained.nets.parameter_views(trained.nets.gradient).values()
                steps.append(torch.cat([part.flatten(1) for part in parts], dim=1))
            step()

        with patch.object(trained.adam, "step", first), trained.stream():
            trained.train_epoch(0)
    return steps[0]


def _moved(data: CellData, device: str) -> CellData:
    train, validation, test = (
        Images(part.pixels.to(device), part.labels.to(device)) for part in (data.train, data.validation, data.test)
    )
    return CellData(train, validation, test, data.small.to(device), data.num_classes)


def evaluation(scale: Scale, measured: set[str], note: Note) -> None:
    """Logits with batch norm folded into the weights, against those of single nets in float64 on the CPU."""
    for backbone in BACKBONES:
        for precision in ("float32", "tf32", "bfloat16"):
            set_precision(precision)
            test_runs = runs(scale, backbone, "cifar10", train=20, width=scale.of(0.125, 0.0625))
            test_runs = [
                replace(run, settings=replace(run.settings, autocast=precision == "bfloat16")) for run in test_runs
            ]
            trained, pixels = program(test_runs, scale), test_runs[0].data.validation.pixels
            with trained.stream():
                trained.train_epoch(0)
                trained.nets.fold(autocast=test_runs[0].settings.autocast)
                inputs = engine.to_input(pixels)
                with torch.no_grad(), engine.autocast(test_runs[0].settings, inputs):
                    logits = trained.nets(inputs, Pass(folded=True))[0].float()
            member = (
                engine.build_members(test_runs[0].settings, test_runs[0].data.num_classes, "cpu")[0].double().eval()
            )
            errors = []
            for number, own in enumerate(logits):
                member.load_state_dict({name: value.cpu() for name, value in trained.nets.state(number).items()})
                with torch.no_grad():
                    errors.append(apart(own, member(engine.to_input(pixels.cpu()).double())[0]))
            note(f"{backbone}, {precision}", median=sorted(errors)[len(errors) // 2], worst=max(errors))


def graphs(scale: Scale, measured: set[str], note: Note) -> None:
    """Weights after some epochs: of eager steps against replayed ones, and of replayed ones in two trainings."""
    for backbone in BACKBONES:
        for precision in scale.of(("float32", "bfloat16"), ("float32",)):
            set_precision(precision)
            # Ten whole steps and as many short ones, and an evaluation after every epoch.
            test_runs = runs(
                scale, backbone, "cifar10", train=18, width=scale.of(0.125, 0.0625), epochs=scale.of(10, 2),
                evaluate_every=1, autocast=precision == "bfloat16",
            )  # fmt: skip
            weights, captured = {}, 0
            for name, eager in (("eager", True), ("graph", False), ("again", False)):
                trained = program(test_runs, scale, eager=eager)
                trained.train(progress=lambda line: None)
                captured += _captured(trained)
                weights[name] = trained.nets.flat.clone()
                del trained
            note(
                f"{backbone}, {precision}",
                captured=captured,
                same_bits_twice=torch.equal(weights["graph"], weights["again"]),
                same_bits_as_eager=torch.equal(weights["graph"], weights["eager"]),
                from_eager=apart(weights["graph"], weights["eager"]),
            )


def _captured(trained: Program) -> int:
    return sum(graph is not None for graph in trained.replays.graphs.values())


class _Stop(Exception):
    """Stops a training in the middle."""


def resume(scale: Scale, measured: set[str], note: Note) -> None:
    """A training that resumes from a file must end with the same bits as one that was never stopped."""
    for backbone in BACKBONES:
        set_precision("float32")
        epochs = scale.of(12, 4)
        test_runs = runs(
            scale, backbone, "cifar10", train=18, width=scale.of(0.125, 0.0625), epochs=epochs, evaluate_every=1
        )
        undisturbed = program(test_runs, scale)
        undisturbed.train(progress=lambda line: None)
        stopped, file = program(test_runs, scale), io.BytesIO()

        def stop(stopped: Program = stopped, file: io.BytesIO = file, middle: int = epochs // 2) -> None:
            if stopped.epoch == middle:
                torch.save(stopped.state(), file)
                raise _Stop

        try:
            stopped.train(progress=lambda line: None, epoch_end=stop)
        except _Stop:
            file.seek(0)
        resumed = program(test_runs, scale)
        resumed.restore(torch.load(file, map_location="cpu", weights_only=True))
        resumed.train(progress=lambda line: None)
        same = torch.equal(resumed.nets.flat, undisturbed.nets.flat)
        note(backbone, same_bits=same, same_history=_histories(resumed) == _histories(undisturbed))


def _histories(trained: Program) -> list[list[dict[str, float]]]:
    return [result.history for result in trained.results]


def halves(scale: Scale, measured: set[str], note: Note) -> None:
    """A group of runs that does not fit into memory is halved and continues, even if a capture runs out of memory."""
    try:
        from fdl.training import together
        from fdl.training.checkpoint import Checkpoint
    except ImportError as error:
        note("a group in too little memory", left_out=f"it needs pydantic and PyYAML ({error})")
        return
    import tempfile
    from pathlib import Path

    set_precision("float32")
    test_runs = runs(
        scale, "vgg", "miniimagenet", train=18, seeds=scale.of(4, 2), epochs=scale.of(6, 2), evaluate_every=1
    )
    reference = program(test_runs, scale)
    reset_peak(scale)
    reference.train(progress=lambda line: None)
    needed = memory(scale)
    del reference
    reset_peak(scale)
    said: list[str] = []
    for share in scale.of((0.9, 0.6), (1.0,)):
        if scale.device == "cuda":
            card = torch.cuda.get_device_properties().total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, share * needed["reserved GiB"] * 2**30 / card))
        with tempfile.TemporaryDirectory() as folder:
            group = [
                together.Waiting(run, Checkpoint(Path(folder) / str(number), said.append), str(number))
                for number, run in enumerate(test_runs)
            ]
            together.train_together(group, device=scale.device, say=said.append, progress=lambda line: None)
            layouts = [one.checkpoint.load("trained")["layout"] for one in group]  # type: ignore[index]
        note(f"{share:.0%} of the memory that it needs", layouts=sorted(set(layouts)), said=said[:4], **needed)
        said.clear()
        reset_peak(scale)


# --- (2) Does the largest fit? ---------------------------------------------------------------------------------------


def extremes(backbone: str, shots: int, scale: Scale, measured: set[str], note: Note) -> None:
    """Time and memory of ten runs of NEU at 200 pixels: epochs with an evaluation, eager and replayed, and memory that
    is still allocated afterwards.
    """
    for precision in ("bfloat16", "tf32"):
        if precision in measured:
            continue
        set_precision(precision)
        train, validation = 6 * shots, scale.of(360, 12)
        test_runs = runs(
            scale, backbone, "neu", train=train, validation=validation, seeds=scale.of(5, 2),
            image_size=scale.of(200, 32), autocast=precision == "bfloat16",
        )  # fmt: skip
        reset_peak(scale)
        trained = program(test_runs, scale, same_weights=True)
        numbers: dict[str, Any] = {
            "evaluated at once": trained.evaluation_batch,
            "forms": convolution_choice.described(trained.nets.back_ends),
        }
        for name, times in (("eager", 1), ("graph", WARM_UP + 1)):
            start = time.perf_counter()
            for epoch in range(times):
                with trained.stream(), torch.no_grad():
                    with torch.enable_grad():
                        trained.train_epoch(epoch)
                    trained.validate()
            wait(scale)
            numbers[f"{name}: s an epoch"] = (time.perf_counter() - start) / times
            numbers |= {f"{name}: {key}": value for key, value in memory(scale).items()}
        numbers["captured"] = _captured(trained)
        numbers["finite"] = bool(trained.nets.flat.isfinite().all())
        del trained
        reset_peak(scale)
        note(precision, **numbers, **{f"afterwards: {key}": value for key, value in memory(scale).items()})


# --- (3) Which form of the convolutions? -----------------------------------------------------------------------------

# (backbone, dataset, index among the net's convolutions)
LAYERS = [
    ("alexnet", "cifar10", 0), ("alexnet", "cifar10", 1), ("alexnet", "cifar10", 4),
    ("vgg", "cifar10", 1), ("vgg", "cifar10", -1), ("resnet", "miniimagenet", 1), ("resnet", "miniimagenet", -1),
    ("alexnet", "neu", 1), ("vgg", "neu", 1), ("vgg", "neu", 4), ("resnet", "neu", 1), ("resnet", "neu", -1),
]  # fmt: skip


def convolution(backbone: str, dataset: str, place: int, scale: Scale) -> tuple[nn.Conv2d, tuple[int, int]]:
    """A convolution of a net, and height and width of its input."""
    side = scale.of(DATASETS[dataset].image_size, 32)
    net = build(backbone, dataset, None, side, scale.of(1.0, 0.0625))
    return list(convolution_choice.convolutions(net, side).values())[place]


def convolutions(scale: Scale, measured: set[str], note: Note) -> None:
    """Milliseconds of all forms of the convolutions in ten runs with batches of ten, forward and backward."""
    nets, sources = scale.of((50, 5), (4, 2))
    forms: dict[str, tuple[Any, bool]] = {name: (form, False) for name, form in BACK_ENDS.items()}
    forms["grouped, benchmark"] = BACK_ENDS["grouped"], True
    for backbone, dataset, place in LAYERS:
        layer, size = convolution(backbone, dataset, place, scale)
        groups = sources if layer.in_channels == 3 else nets
        shape = (nets, layer.out_channels, *layer.kernel_size, layer.in_channels)
        for precision in ("bfloat16", "tf32"):
            case = f"{backbone} {dataset} {layer.in_channels}→{layer.out_channels} at {size[0]}, {precision}"
            if case in measured:
                continue
            set_precision(precision)
            dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
            scale_of = layer.weight[0].numel() ** -0.5
            weight = (torch.randn(shape, device=scale.device, dtype=dtype) * scale_of).permute(0, 1, 4, 2, 3)
            bias = torch.randn(nets, layer.out_channels, device=scale.device, dtype=dtype)
            x = torch.randn(10, groups * layer.in_channels, *size, device=scale.device, dtype=dtype)
            x = x.contiguous(memory_format=torch.channels_last)
            numbers: dict[str, Any] = {}
            expected = None
            for name, (form, benchmark) in forms.items():
                torch.backends.cudnn.benchmark = benchmark
                try:
                    numbers[name], output = _timed_convolution(form, x, weight, bias, layer, scale)
                except RuntimeError as error:  # includes exhausted memory
                    numbers[name] = {"failed": str(error).splitlines()[0][:160]}
                    reset_peak(scale)
                    continue
                expected = output if expected is None else expected
                numbers[name]["apart"] = apart(output, expected)
            note(case, **numbers)


def _timed_convolution(
    form: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d, scale: Scale
) -> tuple[dict[str, float], Tensor]:
    reset_peak(scale)
    with torch.no_grad():
        forward = seconds(lambda: form(x, weight, bias, layer), scale, limit=0.2)
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    output = form(*leaves, layer)
    gradient = torch.randn_like(output)
    differentiated = leaves[1:] if layer.in_channels == 3 else leaves  # images need none
    backward = seconds(
        lambda: torch.autograd.grad(output, differentiated, gradient, retain_graph=True), scale, limit=0.3
    )  # fmt: skip
    return {"forward ms": 1000 * forward, "backward ms": 1000 * backward, **memory(scale)}, output.detach()


# --- (4) How fast is it? ---------------------------------------------------------------------------------------------


def speed(backbone: str, size: int, scale: Scale, measured: set[str], note: Note) -> None:
    """Time of a training step and of an evaluated image in ten runs, eager and replayed."""
    dataset, steps, evaluated = SIZES[size], scale.of({32: 20, 84: 10, 200: 5}[size], 2), scale.of(400, 12)
    side, seeds = scale.of(size, 32), scale.of(5, 1)
    for precision in ("bfloat16", "tf32"):
        set_precision(precision)
        test_runs = runs(
            scale, backbone, dataset, train=10 * steps, validation=evaluated, seeds=seeds, image_size=side,
            autocast=precision == "bfloat16",
        )  # fmt: skip
        for name in ("graph", "eager"):
            if f"{precision}, {name}" not in measured and (name == "graph" or precision == "bfloat16"):
                _speed_of_program(test_runs, f"{precision}, {name}", steps, evaluated, scale, note)


def naive_loops(scale: Scale, measured: set[str], note: Note) -> None:
    """Time of both for the naive loops, in one item because torch's Adam imports the compiler, which takes seconds."""
    set_precision("float32")
    for size, dataset in SIZES.items():
        for backbone in BACKBONES:
            classes, side = len(DATASETS[dataset].classes), scale.of(size, 32)
            nets, optimiser = naive(backbone, dataset, classes, side, scale.device, scale.of(5, 2))
            few = images(20, side, classes, scale.device)
            step = seconds(naive_step(nets, optimiser, few.pixels[:10], few.labels[:10]), scale)
            evaluation = seconds(naive_evaluation(nets, few.pixels, few.labels), scale) / len(few)
            note(f"{backbone} at {size}", **{"step ms": 1000 * step, "evaluated image µs": 1e6 * evaluation})


def _speed_of_program(
    test_runs: Sequence[Run], case: str, steps: int, evaluated: int, scale: Scale, note: Note
) -> None:
    reset_peak(scale)
    start = time.perf_counter()
    trained = program(test_runs, scale, eager="eager" in case, same_weights=True)
    begun = time.perf_counter() - start  # includes timing the forms of the convolutions if they are not known yet
    count = len(test_runs)
    with trained.stream():
        pixels = seconds(lambda: trained.place_pixels(0), scale)
        if scale.device == "cuda":
            for _ in range(WARM_UP // steps + 1):  # until the step is captured as a graph
                trained.train_epoch(0)
        epoch = seconds(lambda: trained.train_epoch(0), scale, repeats=5)
        with torch.no_grad():
            for _ in range(WARM_UP if scale.device == "cuda" else 0):
                trained.validate()
            evaluation = seconds(trained.validate, scale, repeats=3)
        note(
            case,
            **{
                "step ms": 1000 * (epoch - pixels) / steps / count, "augmentation ms": 1000 * pixels / steps / count,
                "evaluated image µs": 1e6 * evaluation / evaluated / count, "captured": _captured(trained),
                "runs": count, "s to begin": begun, "forms": convolution_choice.described(trained.nets.back_ends),
                **memory(scale),
            },
        )  # fmt: skip


@dataclass(frozen=True)
class _HeadSettings:
    """A replacement for `fdl.core.head_settings.HeadSettings`, which needs pydantic."""

    tuning_epochs: int
    epochs: int = 1
    learning_rates: dict[str, float] = field(default_factory=lambda: {"fusion": 1e-4})
    tuning_learning_rate: float = 1e-5
    augment: bool = False
    units: dict[str, int] = field(default_factory=lambda: {"fusion": 128})


def heads_agree(scale: Scale, measured: set[str], note: Note) -> None:
    """Test logits of a fusion head, frozen and tuned: with fused members against single ones, and in two trainings."""
    set_precision("float32")
    for backbone in BACKBONES:
        (run,) = runs(scale, backbone, "cifar10", train=18, seeds=1, width=scale.of(0.125, 0.0625))[:1]
        nets = [net.eval() for net in engine.build_members(run.settings, run.data.num_classes, scale.device)]
        settings = cast(Any, _HeadSettings(epochs=scale.of(8, 2), tuning_epochs=scale.of(8, 2)))
        logits = []
        for fused in (False, True, True):
            with patch.object(training_heads, "is_fused", lambda *_, fused=fused: fused):
                trained = training_heads.train_head("fusion", run.settings, settings, nets, run.data)
            logits.append(torch.stack([head.logits["test"] for head in trained.values()]))
        loop, once, again = logits
        note(backbone, from_loop=apart(once, loop), same_bits_twice=torch.equal(once, again))


def heads(scale: Scale, measured: set[str], note: Note) -> None:
    """Time of a tuning step of a fusion head, and of an evaluated image, in one run."""
    for precision in ("bfloat16", "tf32"):
        set_precision(precision)
        for size in SIZES:
            for backbone in BACKBONES:
                if (case := f"{backbone} at {size}, {precision}") not in measured:
                    note(case, **_time_of_head(backbone, size, precision, scale))
                    reset_peak(scale)


def _time_of_head(backbone: str, size: int, precision: str, scale: Scale) -> dict[str, float]:
    steps, epochs = scale.of(5, 1), scale.of(10, 2)
    (run,) = runs(
        scale, backbone, SIZES[size], train=10 * steps, seeds=1, image_size=scale.of(size, 32),
        autocast=precision == "bfloat16",
    )[:1]  # fmt: skip
    (net,) = engine.build_members(replace(run.settings, members=1), run.data.num_classes, scale.device)
    nets, ends = [net.eval()] * run.settings.members, []
    with (
        patch.object(training_heads, "is_fused", lambda *_: True),
        patch.object(training_heads, "glorot_uniform", lambda weight, key: None),  # torch's own weights will do
    ):
        training_heads.train_head(
            "fusion",
            run.settings,
            cast(Any, _HeadSettings(tuning_epochs=epochs)),
            nets,
            run.data,
            epoch_done=lambda line: ends.append(time.perf_counter()),
        )
    # Without the frozen epoch and the first tuning epoch, in which the step is captured.
    times = sorted(after - before for before, after in itertools.pairwise(ends[-epochs:]))
    with own_stream(scale.device), torch.no_grad():
        members = FusedMembers(cast(list[Member], nets), run.settings, scale.of(200, 12), print)
        inputs = engine.to_input(images(members.at_once, run.settings.image_size, 3, scale.device).pixels)
        with engine.autocast(run.settings, inputs):
            evaluation = seconds(partial(members, inputs), scale, repeats=5)
    return {
        "step ms": 1000 * times[len(times) // 2] / steps, "evaluated image µs": 1e6 * evaluation / len(inputs)
    }  # fmt: skip


def kernels(scale: Scale, measured: set[str], note: Note) -> None:
    """The kernels that take the most time in a replayed epoch of ten runs in bfloat16."""
    set_precision("bfloat16")
    for size, dataset in SIZES.items():
        for backbone in scale.of(BACKBONES, BACKBONES[:1]):
            if f"{backbone} at {size}" in measured:
                continue
            test_runs = runs(
                scale, backbone, dataset, train=40, seeds=scale.of(5, 1), image_size=scale.of(size, 32), autocast=True
            )
            trained = program(test_runs, scale, same_weights=True)
            with trained.stream():
                for _ in range(scale.of(2, 1)):
                    trained.train_epoch(0)
                note(f"{backbone} at {size}", kernels=_longest(partial(trained.train_epoch, 0), scale))
            del trained
            reset_peak(scale)


def _longest(work: Callable[[], object], scale: Scale, number: int = 10) -> list[tuple[str, float, int]]:
    """The kernels that take the most time: name, share of the total, calls."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = scale.device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        work()
        wait(scale)
    times = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.key, event.count)
        for event in profiled.key_averages()
    ]
    total = sum(spent for spent, _, _ in times) or 1
    longest = sorted(times, reverse=True)[:number]
    return [(name[:100], round(spent / total, 4), calls) for spent, name, calls in longest]


def _speeds() -> Iterable[tuple[str, Item]]:
    for size in SIZES:
        for backbone in BACKBONES:
            yield f"speed: {backbone} at {size}", Item(partial(speed, backbone, size), {32: 20, 84: 25, 200: 40}[size])


ITEMS: dict[str, Item] = {
    "versions": Item(versions, 60),
    "gradients": Item(gradients, 45),
    "evaluation": Item(evaluation, 45),
    "graphs": Item(graphs, 60),
    "resume": Item(resume, 45),
    "heads agree": Item(heads_agree, 30),
    "extremes: NEU VGG": Item(partial(extremes, "vgg", 5), 40),
    "extremes: NEU ResNet": Item(partial(extremes, "resnet", 5), 50),
    "extremes: NEU ResNet, 3 shots": Item(partial(extremes, "resnet", 3), 50),
    "peaks": Item(peaks, 20),
    "convolutions": Item(convolutions, 120),
    "naive loops": Item(naive_loops, 30),
    **dict(_speeds()),
    "heads": Item(heads, 60),
    "kernels": Item(kernels, 90),
    "halves": Item(halves, 60),
}
