"""Time and page size of the report of a large grid, with fabricated records.

    python -m benchmarks.report_time

The grid is that of the preset `paper` with six seeds, 1,296 cells; the records are invented and written to a temporary
folder. Runs `fdl report` five times and prints the CPU and wall seconds of each process and the size of the page. Exits
with 1 if a later report differs from the first in a single byte.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fdl.core import layout
from fdl.core.settings import load
from fdl.results.collect import collect
from tests.reporting.fabricate import PARAMS_FILE, fabricate

SEEDS = [0, 1, 2, 3, 4, 5]


def main() -> int:
    """Fabricate the records, then make the reports."""
    params = load(PARAMS_FILE, preset="paper", overrides={"seeds": SEEDS})
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        settings = params.write(layout.RESULTS)
        fabricate(params)
        collect(params)
        first, *later = [_report(settings) for _ in range(5)]
        page = layout.report_folder(params) / "index.html"
        print(f"{len(params.cells())} cells; index.html {page.stat().st_size / 1e6:.1f} MB")
        os.chdir(PARAMS_FILE.parent)
    differing = sorted({str(path) for other in later for path in first if first[path] != other.get(path)})
    print(f"later reports: {', '.join(differing) or 'no byte'} differs")
    return 1 if differing else 0


def _report(settings: Path) -> dict[Path, str]:
    """Run `fdl report`; returns the digests of its files."""
    before, start = os.times(), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(PARAMS_FILE.parent), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # so that packages are compiled only in the first process
    command = [sys.executable, "-m", "fdl", "report", "--params", settings]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"report: {wall:.1f} s, of which {busy:.1f} s of processor")
    files = (path for path in Path("reports").rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    sys.exit(main())
