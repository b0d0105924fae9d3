"""Chooses the fastest implementation of each convolution of a program on a GPU, by timing them when it starts.

A program trains several ensembles as one network (`fdl.training.fused`). The implementations, here called forms
(`fdl.models.convolutions`), differ in speed and in rounding. Because a different form gives different bits, a program
stores its choice in its checkpoints, and a record names it. The measurements are remembered in a file. On a CPU the
form is always "grouped".
"""

import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdl.core.console import Say
from fdl.core.files import to_json, write_atomically
from fdl.evaluation.parts import release_gpu_memory
from fdl.models.convolutions import BACK_ENDS, window_elements
from fdl.models.fused import BackEnds, FusedNets
from fdl.training.cuda_graph import WARM_UP, Replays
from fdl.training.extent import ELEMENTS, gpu_memory, pass_one_image

# A form replaces "grouped" only if it takes at most this share of its time; smaller gains may be noise.
_CLEARLY_FASTER = 0.9
# A training step keeps the windows of every "unfolded" layer for the backward pass. Those of one layer may fill at most
# this share of the card's memory.
_WINDOWS_SHARE = 1 / 64
_REPEATS, _SECONDS = 10, 0.05  # a form is timed for this number of calls, or fewer if they take longer

Timer = Callable[[Callable[[], None]], float]  # takes a function, returns the milliseconds of a call


def remembered_file() -> Path:
    """The file with the measurements of this user's GPUs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "fdl/convolutions.json"


def choose(
    nets: FusedNets,
    image_size: int,
    images: Mapping[str, int],
    *,
    autocast: bool,
    say: Say,
    milliseconds: Timer | None = None,
    file: Path | None = None,
) -> BackEnds:
    """The fastest form of every convolution, in training and in evaluation.

    Args:
        nets: the fused nets, on the device on which they will be called.
        image_size: side of the images in pixels.
        images: batch size of each net in "training" and in "evaluation".
        autocast: whether convolutions run in bfloat16.
        say: takes a line for the log.
        milliseconds: measures a call; None: `gpu_milliseconds`.
        file: earlier measurements by card and versions, to which new ones are added; None: `remembered_file`.

    Returns:
        For "training" and "evaluation" the layers whose form is not "grouped", with their forms.
    """
    milliseconds, file = milliseconds or partial(gpu_milliseconds, say=say), file or remembered_file()
    begun, card = time.monotonic(), _card()
    measurements = _read_measurements(file)
    of_this_card, newly_timed = measurements.setdefault(card, {}), 0
    layers = convolutions(nets.template, image_size)
    chosen: dict[str, dict[str, str]] = {}
    for kind, number in images.items():
        chosen[kind] = {}
        for name, (layer, size) in layers.items():
            key = _layer_key(nets, layer, size, number, kind, autocast)
            if of_this_card.get(key, {}).get("form") not in BACK_ENDS:
                times = _time_forms(nets, name, layer, (number, *size), kind, autocast, say, milliseconds)
                of_this_card[key] = {"form": _fastest(times), "milliseconds": times}
                newly_timed += 1
            if of_this_card[key]["form"] != "grouped":
                chosen[kind][name] = of_this_card[key]["form"]
    if newly_timed:
        release_gpu_memory()
        try:
            write_atomically(file, to_json(measurements))
        except OSError as error:
            say(f"{file}: cannot be written ({error.strerror}); the next program measures again")
        say(f"{newly_timed} convolutions measured in {time.monotonic() - begun:.0f} s{described(chosen)}")
    return chosen


def described(back_ends: BackEnds) -> str:
    """The forms as text to append to a line, such as "; loop in training: features.5"; empty if all are "grouped"."""
    text = ""
    for kind, forms in back_ends.items():
        for form in sorted(set(forms.values())):
            text += f"; {form} in {kind}: {' '.join(name for name, chosen in forms.items() if chosen == form)}"
    return text


def convolutions(net: nn.Module, image_size: int) -> dict[str, tuple[nn.Conv2d, tuple[int, int]]]:
    """The convolutions of a net by name, in the order of their calls, each with height and width of its input."""
    copied = copy.deepcopy(net).eval()
    layers: dict[str, tuple[nn.Conv2d, tuple[int, int]]] = {}

    def note(name: str, layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers[name] = layer, (inputs[0].shape[-2], inputs[0].shape[-1])

    for name, module in copied.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(partial(note, name))
    pass_one_image(copied, image_size)
    return layers


def gpu_milliseconds(work: Callable[[], None], say: Say) -> float:
    """Median milliseconds of a call, replayed as a CUDA graph as in a program.

    Must be called on a stream other than the default one, see `fdl.training.cuda_graph.own_stream`.
    """
    replays = Replays("cuda", say)
    replays.eager = False  # also with FDL_EAGER=1, so that programs with and without graphs choose the same forms
    for _ in range(WARM_UP + 1):
        replays("form", work)
    times: list[float] = []
    begun = time.monotonic()
    while not times or (len(times) < _REPEATS and time.monotonic() < begun + _SECONDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        replays("form", work)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _card() -> str:
    if not torch.cuda.is_available():
        return f"no GPU, torch {torch.__version__}"
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"


def _layer_key(nets: FusedNets, layer: nn.Conv2d, size: tuple[int, int], images: int, kind: str, autocast: bool) -> str:
    """A readable key of everything that the time of a layer depends on."""
    precision = "bfloat16" if autocast else "tf32" if torch.backends.cudnn.allow_tf32 else "float32"
    shape = f"{layer.in_channels} to {layer.out_channels} channels, kernel {layer.kernel_size}, stride {layer.stride}"
    place = f"padding {layer.padding}, {images} images of {size}"
    return f"{kind}, {precision}: {shape}, {place}, {nets.count} nets, {_groups(nets, layer)} groups"


def _groups(nets: FusedNets, layer: nn.Conv2d) -> int:
    return nets.inputs if layer.in_channels == 3 else nets.count


def _time_forms(
    nets: FusedNets,
    name: str,
    layer: nn.Conv2d,
    extent: tuple[int, int, int],
    kind: str,
    autocast: bool,
    say: Say,
    milliseconds: Timer,
) -> dict[str, float]:
    """Milliseconds of every form that can be used for a layer; `extent`: number, height and width of its inputs."""
    device, groups = nets.flat.device, _groups(nets, layer)
    is_first = layer.in_channels == 3  # its inputs are images, which are float32 and need no gradient
    dtype = torch.bfloat16 if autocast and not is_first else nets.flat.dtype
    x = torch.rand(extent[0], groups * layer.in_channels, *extent[1:], device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(not is_first and kind == "training")
    weight, bias = nets.parameters[f"{name}.weight"], nets.parameters[f"{name}.bias"]
    differentiated = [weight, bias] if is_first else [x, weight, bias]

    def work(form: str) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            output = BACK_ENDS[form](x, weight, bias, layer)
        if kind == "training":
            # The output is its own gradient here. Passing a gradient to `grad` would import torch's compiler, which
            # takes seconds.
            torch.autograd.grad((output * output.detach()).sum(), differentiated)

    times: dict[str, float] = {}
    for form in BACK_ENDS:
        if form == "unfolded":
            windows = groups * window_elements(layer, *extent)
            if windows > ELEMENTS or windows * x.element_size() > _WINDOWS_SHARE * gpu_memory():
                continue
        try:
            with torch.set_grad_enabled(kind == "training"):
                times[form] = milliseconds(partial(work, form))
        except RuntimeError as error:  # includes exhausted memory
            say(f"{name}: no convolution of the form {form} ({str(error).splitlines()[0][:160]})")
    return times


def _fastest(times: Mapping[str, float]) -> str:
    """The form with the shortest time if that is clearly shorter than that of "grouped", otherwise "grouped".

    If all forms failed, "grouped" is taken as well, and its error will be raised when the program calls it.
    """
    best = min(times, key=lambda form: times[form], default="grouped")
    return best if times.get(best, 0.0) <= _CLEARLY_FASTER * times.get("grouped", float("inf")) else "grouped"


def _read_measurements(file: Path) -> dict[str, Any]:
    """The earlier measurements; empty if the file is missing or damaged."""
    try:
        measurements = json.loads(file.read_text())
        return {card: dict(cases) for card, cases in measurements.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
