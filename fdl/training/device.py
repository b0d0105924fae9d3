"""The device of a bundle: the CPU, or one GPU slot that no other process holds."""

import fcntl
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fdl.core.errors import InputError
from fdl.core.settings import Params


def gpu_slots() -> list[str]:
    """The GPU of each slot; a bundle occupies one slot. Empty without a GPU. CUDA is not initialised.

    The slots are those of `FDL_GPU_SLOTS` (`0,0` lets two bundles share card 0), or else those of
    `CUDA_VISIBLE_DEVICES` as a scheduler set it, or else one for every card that nvidia-smi lists.
    """
    for variable in ("FDL_GPU_SLOTS", "CUDA_VISIBLE_DEVICES"):
        if variable in os.environ:
            return [slot.strip() for slot in os.environ[variable].split(",") if slot.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


@contextmanager
def device_slot(requested: str, locks: Path) -> Iterator[str]:
    """Hold a device until the block ends: "cpu", or "cuda" with `CUDA_VISIBLE_DEVICES` set to a free slot.

    The operating system releases the lock when its process dies, so a killed run frees its slot. Call
    this before CUDA is initialised.

    Args:
        requested: the setting `device`; "auto" takes a GPU if there is one.
        locks: folder of the lock files.

    Raises:
        InputError: cuda is requested and there is none.
    """
    slots = gpu_slots()
    if requested == "cpu" or (requested == "auto" and not slots):
        yield "cpu"
        return
    if not slots:
        raise InputError("device: cuda: this machine shows no GPU; set device: auto or cpu")
    locks.mkdir(parents=True, exist_ok=True)
    while True:
        for index, card in enumerate(slots):
            # The name holds machine and card, because several machines with different cards may share the folder.
            turn = slots[:index].count(card)
            with (locks / f"gpu-{platform.node()}-{card}-{turn}.lock").open("w") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                os.environ["CUDA_VISIBLE_DEVICES"] = card
                yield "cuda"
                return
        time.sleep(0.5)


def set_up_torch(params: Params, device: str) -> None:
    """Set threads, precision and determinism of torch in this process.

    Raises:
        InputError: the device is "cuda" but CUDA does not start.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: CUDA does not start (driver, or FDL_GPU_SLOTS without a GPU?); set device: cpu")
    torch.set_num_threads(params.threads)
    torch.backends.cuda.matmul.allow_tf32 = params.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = params.precision == "tf32"
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device == "cpu":
        set_up_cpu()


def set_up_cpu() -> None:
    """Make this process train faster on a CPU: flush denormals to zero, and reuse freed memory."""
    import torch

    # Late in training small activations become denormal, and arithmetic on them is ten times slower.
    torch.set_flush_denormal(True)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next tensor instead of returning it to the operating system.

    Otherwise every large tensor of an evaluation is mapped, zeroed and unmapped again, which takes an eighth of the
    evaluation's time.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    import ctypes

    libc = ctypes.CDLL(None)
    mmap_max, trim_threshold = -4, -1  # <malloc.h>
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


def autocast_bfloat16(precision: str, device: str) -> bool:
    """Whether matrix products run in bfloat16.

    With `auto` they do only if the hardware has bfloat16 arithmetic; otherwise it would be emulated,
    slower than float32.

    Args:
        precision: the setting `precision`.
        device: "cpu" or "cuda".

    Raises:
        InputError: precision is "bfloat16" but the device has no bfloat16 arithmetic.
    """
    import torch

    if precision not in ("bfloat16", "auto"):
        return False
    if device == "cuda":
        native = torch.cuda.get_device_capability() >= (8, 0)
    else:
        native = torch.backends.cpu.get_cpu_capability() != "DEFAULT" and _cpu_has_bfloat16()
    if precision == "bfloat16" and not native:
        raise InputError(
            f"precision: bfloat16: this {device} has no bfloat16 arithmetic; set precision: auto or float32"
        )
    return native


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
