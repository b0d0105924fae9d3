"""Interleaved timings: the candidates of a comparison take turns, so that a busy machine slows all of them alike."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median, median_high
from typing import Any

RESULTS = Path(__file__).parent / "results"
Timed = Callable[[], float]  # does the work and returns its seconds (CPU seconds unless stated otherwise)


def cpu_seconds(work: Callable[[], object]) -> Timed:
    """The work, timed in CPU seconds of this process, which depend little on other processes of the machine."""

    def timed() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return timed


def in_turns(works: Mapping[str, Timed], repeats: int) -> dict[str, list[float]]:
    """The seconds of every repeat; all candidates run once to warm up, and then take turns."""
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(work())
    return seconds


def ratios(seconds: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """Speed-up over `base`: the median over repeats of the ratio of the times within a repeat."""
    return {
        name: median(slow / fast for slow, fast in zip(seconds[base], times, strict=True))
        for name, times in seconds.items()
    }


def compared(works: Mapping[str, Timed], repeats: int, base: str) -> dict[str, dict[str, float]]:
    """Median seconds of each candidate, and its speed-up over `base`."""
    seconds = in_turns(works, repeats)
    middle = {name: median_high(times) for name, times in seconds.items()}
    return {"seconds": middle, "times faster": ratios(seconds, base)}


def table(cases: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], unit: str = "CPU ms") -> list[str]:
    """Lines of a Markdown table of results of `compared`, given by case and kind of work."""
    lines = [f"| net | what | | {unit} | times faster |", "|---|---|---|---:|---:|"]
    for case, kinds in cases.items():
        for kind, numbers in kinds.items():
            for name, seconds in numbers["seconds"].items():
                faster = numbers["times faster"][name]
                lines.append(f"| {case} | {kind} | {name} | {1000 * seconds:.0f} | {faster:.2f} |")
    return lines


def machine() -> dict[str, Any]:
    """Description of this machine and its software."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "")
    supported = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags.split()]
    return f"{name} ({', '.join(supported)})" if supported else name


def precisions() -> list[str]:
    """The precisions with native arithmetic on this processor; the last one is part of the names of result files."""
    from fdl.training.device import autocast_bfloat16  # imports pydantic, which `benchmarks.gpu` does without

    return ["float32", "bfloat16"] if autocast_bfloat16("auto", "cpu") else ["float32"]


def write(name: str, content: Mapping[str, Any], text: str) -> None:
    """Write `<name>.json` and `<name>.md` to `benchmarks/results/`, and print the text."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    print(text)
