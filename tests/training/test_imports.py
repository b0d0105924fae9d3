"""What a bundle's process imports, because every bundle of a grid spends the time for it."""

import os
import subprocess
import sys

from tests.projects import ROOT, write_images, write_params

SLOW = ("torch._dynamo", "torch._inductor", "sympy", "pandas", "matplotlib", "mlflow", "snakemake", "torchvision")
CODE = f"""
import sys
from fdl.training import disk_space
disk_space._PLENTY = 2**70  # so little room that it is counted what the bundle needs
from fdl.cli.main import app
app(["run"], standalone_mode=False)
print("imported:", [name for name in {SLOW!r} if name in sys.modules])
"""


def test_a_bundle_on_a_small_disk_imports_neither_the_compiler_nor_what_other_verbs_need(project):
    write_images()
    write_params(project / "params.yaml", seeds=[0], heads=["stacking"])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for arguments in (["-m", "fdl", "data", "prepare"], ["-m", "fdl", "split"], ["-c", CODE]):
        ended = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True
        )
    assert "imported: []\n" in ended.stdout
