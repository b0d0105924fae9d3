"""Where a bundle trains: the CPU, or one GPU slot that no other process holds."""

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
    """The GPUs that bundles may use, one entry per process; empty without a GPU. Never starts CUDA.

    `FDL_GPU_SLOTS=0,0` runs two bundles at once on card 0; else `CUDA_VISIBLE_DEVICES` as a scheduler
    set it; else every card that nvidia-smi lists.
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

    The kernel drops the lock when its process dies, so a killed run frees its slot. Call it before
    CUDA starts.

    Args:
        requested: the setting `device`: auto takes a GPU where there is one.
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
            # A lock for each machine and card: folders may be shared by machines, and each may see other cards.
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
    """Threads, precision and determinism of this process, as the settings ask; raises `InputError` without CUDA."""
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
    """Flush denormals to zero, and keep freed memory: the process trains faster."""
    import torch

    # Denormals slow the small activations of late epochs down by an order of magnitude.
    torch.set_flush_denormal(True)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc to give memory that is freed to the next tensor, not to the kernel.

    Else every large tensor of an evaluation is mapped, filled with zeros and unmapped again: an eighth of its time.
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

    `auto` says yes only where the hardware multiplies it natively; elsewhere it would be emulated,
    slower than float32.

    Raises:
        InputError: bfloat16 is demanded of a processor without it.
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
