"""A few kills; `make soak` makes more of them."""

import random
from pathlib import Path

from tests.faults import kill_training
from tests.faults.soak import killed, leftovers, track_again, undisturbed


def test_what_was_killed_is_finished_by_a_plain_run_with_the_same_numbers(project: Path) -> None:
    expected = undisturbed(project / "undisturbed", datasets=["bsd"])
    victims = ["snakemake, whole", "training", "snakemake", "report", "track"]
    kills = killed(project / "killed", victims, random.Random(0), datasets=["bsd"])
    assert kills.total() >= 2
    assert (project / "killed/reports/demo/runs.csv").read_bytes() == expected
    assert leftovers(project / "killed") == []
    assert track_again(project / "killed") == "mlflow: 0 new, 0 replaced, 2 same, 0 missing, 0 stale"


def test_a_bundle_that_is_killed_while_it_trains_leaves_the_same_bits(tmp_path: Path) -> None:
    """Two methods, three seeds; `make kills` kills it twenty times."""
    for name in ("undisturbed", "killed"):
        kill_training.project(tmp_path / name, epochs=30)
    kill_training.undisturbed(tmp_path / "undisturbed")
    kill_training.killed(tmp_path / "killed", 3, 30, random.Random(0))
    assert kill_training.differences(tmp_path / "undisturbed", tmp_path / "killed") == []
