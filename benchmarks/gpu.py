"""Tests and times the fused programs (`fdl.training.fused`) on a GPU, in eight minutes: `python -m benchmarks.gpu`.

It is written for short access to a GPU. Every item runs in a process of its own with a time limit; each result is
written to `gpu.jsonl` as soon as it is known, and a failed item does not stop the others. The most important questions
come first: are the results correct (gradients, evaluations, CUDA graphs, a restart, exhausted memory), do the largest
programs fit, which form of the convolutions is fastest, and how fast is training. At the end it writes a page of
findings, `gpu.md`. Another call continues with what is not measured yet; `--again` starts over, `--page` only writes
the page.

It needs torch, numpy and tqdm. With pydantic, pydantic_core, annotated-types, typing-inspection and PyYAML, which can
be copied to the machine as wheels, it also tests how a program that does not fit is halved, and forecasts the time of
the preset `paper`. Without them, call `--page` later on a machine with the project's environment for the forecast.

`--device cpu --small` runs all items on small nets in less than a minute, to test the script itself.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_items import ITEMS, Finding, Scale
from benchmarks.gpu_page import page
from benchmarks.timing import RESULTS

_LINES = 12  # number of lines that are shown of the output of a failed item


def findings(file: Path) -> Iterator[Finding]:
    """The findings in a file, one per line; incomplete lines are skipped."""
    if not file.exists():
        return
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def note(file: Path, finding: Finding) -> None:
    """Append a finding and force it to disk, so that no later failure can lose it."""
    with file.open("a") as lines:
        lines.write(json.dumps(finding) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def _work(name: str, scale: Scale, file: Path, output: str) -> None:
    """Run an item in this child process, with its output redirected to a file."""
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(handle, stream)
    sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
    measured = {finding["case"] for finding in findings(file) if finding["item"] == name and "case" in finding}
    try:
        ITEMS[name].run(
            scale, measured, lambda case, **numbers: note(file, {"item": name, "case": case, "numbers": numbers})
        )
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # skips the exit handlers of libraries


def attempt(name: str, scale: Scale, file: Path, limit: float) -> Finding:
    """Run an item for at most `limit` seconds; returns how it ended."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        # With "fork" torch is imported only once, here, and CUDA is initialised in the child.
        process = multiprocessing.get_context("fork").Process(target=_work, args=(name, scale, file, str(output)))
        process.start()
        process.join(limit)
        late = process.is_alive()
        if late:
            process.kill()
            process.join(10)
        ended = "out of time" if late else "done" if process.exitcode == 0 else f"failed (exit {process.exitcode})"
        lines = output.read_text(errors="replace").splitlines() if output.exists() else []
    seconds = round(time.monotonic() - start, 1)
    return {"item": name, "ended": ended, "seconds": seconds, "output": [] if ended == "done" else lines[-_LINES:]}


def measure(scale: Scale, file: Path, seconds: float, only: list[str]) -> None:
    """Run the items that are not done yet, in order, for at most `seconds`."""
    end = time.monotonic() + seconds
    done = {finding["item"] for finding in findings(file) if finding.get("ended") == "done"}
    for name, item in ITEMS.items():
        left = end - time.monotonic()
        if name in done or (only and name not in only):
            continue
        if left < 1:
            note(file, {"item": name, "ended": "not begun", "seconds": 0.0, "output": []})
            continue
        # With small nets the limits are four times as long, because the machine may be busy.
        ended = attempt(name, scale, file, min(scale.of(1, 4) * item.seconds, left))
        note(file, ended)
        print(f"{name}: {ended['ended']}, {ended['seconds']:.0f} s", flush=True)
        for line in ended["output"]:
            print(f"    {line}", flush=True)
        if name == "versions" and ended["ended"] != "done":  # CUDA does not start
            return


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="of all items together")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="narrow nets and few images")
    parser.add_argument("--only", nargs="+", default=[], choices=list(ITEMS), metavar="ITEM", help=", ".join(ITEMS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of gpu.jsonl and gpu.md")
    parser.add_argument("--again", action="store_true", help="forget what was measured")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    file: Path = options.results / "gpu.jsonl"
    if options.again:
        file.unlink(missing_ok=True)
    if not options.page:
        measure(Scale(options.device, options.small), file, 60 * options.minutes, options.only)
        if not any(finding["item"] == "versions" and finding.get("ended") == "done" for finding in findings(file)):
            print("gpu: CUDA does not start on this machine (see above)", file=sys.stderr)
            sys.exit(2)
    text = page(list(findings(file)), list(ITEMS))
    (options.results / "gpu.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
