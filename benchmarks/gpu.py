"""What a GPU makes of the fused programs, in eight minutes: `python -m benchmarks.gpu`.

Run this first wherever there is a GPU for a short time. Every item is a process of its own with a time limit; each
number is written to `gpu.jsonl` when it is known, and no failure ends the rest. In the order of what must be known
first: is it right (gradients, evaluations, CUDA graphs, a restart, memory that ends), does the largest fit, which form
of the convolutions is the fastest, and how fast is it. It ends with a page of findings, `gpu.md`. Called again, it
goes on with what is not measured; `--again` begins anew, `--page` only writes the page.

It needs torch, numpy and tqdm. With pydantic, pydantic_core, annotated-types, typing-inspection and PyYAML, which can
travel as wheels, it also parts a program that does not fit, and forecasts the preset `paper`; without them that
forecast is made later, by `--page` on a machine with the project's environment.

`--device cpu --small` goes through all of it on small nets in less than a minute, to try the script itself.
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

_LINES = 12  # of what a failed item printed


def findings(file: Path) -> Iterator[Finding]:
    """All lines of a file of findings; one that was cut off is left out."""
    if not file.exists():
        return
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def note(file: Path, finding: Finding) -> None:
    """Write a finding, so that nothing that happens later can take it away."""
    with file.open("a") as lines:
        lines.write(json.dumps(finding) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def _work(name: str, scale: Scale, file: Path, output: str) -> None:
    """An item, in a process of its own: what it prints goes to a file."""
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(handle, stream)
    sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
    known = {finding["case"] for finding in findings(file) if finding["item"] == name and "case" in finding}
    try:
        ITEMS[name].run(
            scale, known, lambda case, **numbers: note(file, {"item": name, "case": case, "numbers": numbers})
        )
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # what a library would do at its end is not waited for


def attempt(name: str, scale: Scale, file: Path, limit: float) -> Finding:
    """Do an item for at most so many seconds; how it ended."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        # Forked: torch is imported once, and CUDA starts in the child only.
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
    """Do all items that are not done, in order, until the time ends."""
    end = time.monotonic() + seconds
    done = {finding["item"] for finding in findings(file) if finding.get("ended") == "done"}
    for name, item in ITEMS.items():
        left = end - time.monotonic()
        if name in done or (only and name not in only):
            continue
        if left < 1:
            note(file, {"item": name, "ended": "not begun", "seconds": 0.0, "output": []})
            continue
        # Small nets are tried on machines that have other things to do.
        ended = attempt(name, scale, file, min(scale.of(1, 4) * item.seconds, left))
        note(file, ended)
        print(f"{name}: {ended['ended']}, {ended['seconds']:.0f} s", flush=True)
        for line in ended["output"]:
            print(f"    {line}", flush=True)
        if name == "versions" and ended["ended"] != "done":  # CUDA does not start: nothing else can
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
