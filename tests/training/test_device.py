"""Devices: which process gets which GPU, and errors without one."""

import multiprocessing
import os
import platform
import signal
import subprocess
import sys

import pytest

from fdl.core.errors import InputError
from fdl.training.device import device_slot, gpu_slots


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.delenv("FDL_GPU_SLOTS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.parametrize(
    ("variable", "value", "slots"),
    [
        ("CUDA_VISIBLE_DEVICES", "", []),
        ("CUDA_VISIBLE_DEVICES", "-1", []),
        ("CUDA_VISIBLE_DEVICES", "2,3", ["2", "3"]),
        ("CUDA_VISIBLE_DEVICES", "GPU-8f1c", ["GPU-8f1c"]),
        ("FDL_GPU_SLOTS", "0,0", ["0", "0"]),
    ],
)
def test_slots_come_from_the_environment(monkeypatch, variable, value, slots):
    monkeypatch.setenv(variable, value)
    assert gpu_slots() == slots


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(tmp_path):
    with device_slot("auto", tmp_path) as device:
        assert device == "cpu"
    with pytest.raises(InputError, match="this machine shows no GPU"), device_slot("cuda", tmp_path):
        pass


def _hold(locks, cards, entered, leave):
    with device_slot("auto", locks) as device:
        cards.put((device, os.environ["CUDA_VISIBLE_DEVICES"]))
        entered.release()
        leave.acquire()


def test_two_processes_never_share_a_slot_and_a_killed_one_frees_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("FDL_GPU_SLOTS", "4,7")
    context = multiprocessing.get_context("spawn")
    cards, entered, leave = context.Queue(), context.Semaphore(0), context.Semaphore(0)
    processes = [context.Process(target=_hold, args=(tmp_path, cards, entered, leave)) for _ in range(3)]
    for process in processes[:2]:
        process.start()
    for _ in range(2):
        assert entered.acquire(timeout=60)
    taken = [cards.get(timeout=60) for _ in range(2)]
    assert sorted(taken) == [("cuda", "4"), ("cuda", "7")]
    processes[2].start()
    assert not entered.acquire(timeout=1), "both slots are held"
    os.kill(processes[0].pid, signal.SIGKILL)
    assert entered.acquire(timeout=60)
    assert cards.get(timeout=60) in taken
    for _ in range(2):
        leave.release()
    for process in processes:
        process.join(timeout=60)


FAULTS = """
import itertools, resource, statistics, torch
from fdl.training.device import set_up_cpu
set_up_cpu()
faults = []
for _ in range(60):  # the heap may grow by some of them before it fits
    torch.zeros(2**24)  # 64 MiB: 16,384 pages, which glibc would map anew each time
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(statistics.median_high(after - before for before, after in itertools.pairwise(faults)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_memory_that_a_tensor_gave_back_is_there_for_the_next():
    shown = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 1000
