# Settings, checked once at parse time, and where every file lies.
import os
import sys
from pathlib import Path

from snakemake.utils import validate

# The package beside this workflow, installed or not.
sys.path.insert(0, str(Path(workflow.basedir).parent))

from fdl import layout
from fdl import params as fdl_params
from fdl.errors import InputError
from fdl.reporting.targets import report_files
from fdl.training.device import gpu_slots

try:
    PARAMS = fdl_params.resolve(config)
except InputError as error:
    print(f"fdl: {error}", file=sys.stderr)
    os._exit(2)  # not sys.exit: Snakemake would wrap it in a traceback

validate(config, schema="../schemas/params.schema.json", set_default=False)

# Jobs read the resolved settings from this file. It is no rule input: any key would then run every
# bundle again. The digests in the rules' `params:` say what really changed.
PARAMS_FILE = PARAMS.write(layout.RESULTS)
FDL = f"{sys.executable} -m fdl"
REPORTS = report_files(PARAMS)
BUNDLES = {bundle.key: cells for bundle, cells in PARAMS.bundles().items()}

# Snakemake ignores `gpu=1` locally unless there is a limit. Never 0: that would turn the request of a
# cluster job into 0 as well, on a login node without a GPU.
GPUS = len(gpu_slots())
if GPUS:
    workflow.global_resources.setdefault("gpu", GPUS)


wildcard_constraints:
    source="|".join(["synthetic", "local"]),
    dataset=r"[a-z0-9]+(-\d+)?",
    backbone=r"[a-z0-9]+",
    shots=r"\d+",
    draw=r"\d+",
