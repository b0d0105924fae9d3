"""A method whose loss becomes NaN: its cells are results, with the epoch; everything else goes on."""

import csv
import json
from pathlib import Path

from tests.faults.conftest import Call
from tests.projects import write_images, write_params

METHOD = """
def explodes(maps, logits, inputs, labels, *, epoch):
    return maps[0].sum() * (float("nan") if epoch == 2 else 0.0)
"""


def test_from_a_nan_to_the_report(fdl: Call, project: Path) -> None:
    write_images()
    Path("mine.py").write_text(METHOD)
    write_params(project / "params.yaml", seeds=[0, 1], epochs=4, methods=["classical", "mine:explodes"])
    assert fdl("data", "prepare")[0] == 0
    assert fdl("split")[0] == 0
    code, out, _ = fdl("run")
    assert code == 0
    assert out.splitlines()[-1] == "bsd/alexnet/3shot: 4 cells, 2 failed"
    assert fdl("collect")[0] == 0
    assert fdl("report")[0] == 0
    cells = json.loads(Path("reports/demo/cells.json").read_bytes())["cells"]
    assert [cell["epoch"] for cell in cells if cell["status"] == "failed"] == [2, 2]
    with Path("reports/demo/runs.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"classical"}
    page = Path("reports/demo/index.html").read_text()
    for seed in (0, 1):
        assert f"bsd/alexnet/3shot/mine.explodes/seed{seed}, epoch 2 (the loss is nan)" in page
