"""Time that `fdl track` takes to mirror 1,296 fabricated records to MLflow, in a first and in a second pass.

    python -m benchmarks.mlflow_sync

The records have 120 epochs of 13 curves and 20 final numbers; they are invented and go to a temporary folder.
"""

import os
import tempfile
import time
from pathlib import Path

from fdl.core.settings import load
from fdl.tracking.mirror import track
from tests.tracking.test_mirror import PARAMS_FILE, write_records

GRID = {
    "shots": [3, 5, 10, 20, 50, 100],
    "seeds": list(range(6)),
    "selections": ["sum", "last"],
    "evaluate_every": 2,
}


def main() -> None:
    """Write the records, mirror them twice, and print the wall and CPU seconds of each pass."""
    params = load(PARAMS_FILE, preset="demo", overrides=GRID)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_records(params)
        for _ in range(2):
            start, busy = time.monotonic(), time.process_time()
            counts = track(params, uri="sqlite:///mlflow.db")
            print(counts, f"{time.monotonic() - start:.0f} s, {time.process_time() - busy:.0f} s of processor time")
        print(f"mlflow.db: {Path('mlflow.db').stat().st_size / 1e6:.0f} MB")
        os.chdir(PARAMS_FILE.parent)


if __name__ == "__main__":
    main()
