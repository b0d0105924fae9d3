# Settings, which are checked when the workflow is parsed; the paths of all files; the functions of the rules.
import os
import re
import sys
from pathlib import Path

from snakemake.logging import logger
from snakemake.utils import validate

# Jobs use this interpreter and the package beside this workflow, even if no environment is activated. `basedir` would
# be wrong: if another workflow uses this one as a module, it is the folder of the other workflow.
ROOT = str(Path(workflow.current_basedir).parents[1])
sys.path.insert(0, ROOT)
for name, first in (("PYTHONPATH", ROOT), ("PATH", str(Path(sys.executable).parent))):
    os.environ[name] = os.pathsep.join(filter(None, [first, os.environ.get(name)]))

from fdl.core import layout
from fdl.core import settings as fdl_params
from fdl.data.own_images import receipt
from fdl.core.errors import InputError
from fdl.reporting.targets import report_files, targets, write_captions
from fdl.results.receipts import due_file
from fdl.results.state import Judge
from fdl.core.settings_file import LayeredSettings, read_layered
from fdl.core.step_lines import print_step_lines
from fdl.training.device import gpu_slots

# Print one line per step instead of Snakemake's blocks, except in a dry run, with --verbose and in jobs on a cluster.
shown = workflow.output_settings
if workflow.is_main_process and not (shown.dryrun or shown.verbose):
    print_step_lines(logger)

# Read params.yaml again, as every command of fdl does, because Snakemake reads YAML 1.1, silently accepts duplicate
# keys and takes `--config seeds=[0,1]` as text. A workflow that uses this one as a module may pass its own config.
try:
    if "params.yaml" in workflow.configfiles:
        LAYERED = read_layered(
            "params.yaml",
            workflow.overwrite_configfiles,
            workflow.config_settings.config_args,
            "--config",
        )
    else:
        LAYERED = LayeredSettings(config)
    PARAMS = fdl_params.resolve(
        LAYERED.raw, overrides=LAYERED.overrides, origins=LAYERED.origins
    )
except InputError as error:
    print(f"fdl: {error}", file=sys.stderr)
    sys.exit(2)

# DVC deletes the folder of such an experiment. The trainings are not in DVC's cache and would be lost.
if ".dvc/tmp/exps" in Path.cwd().as_posix():
    print(
        "fdl: `dvc exp run --temp` and `--queue` work in a folder that DVC deletes afterwards, with all trainings; "
        "use `dvc exp run` without them, or a copy of the project per experiment",
        file=sys.stderr,
    )
    sys.exit(2)

if workflow.is_main_process and {"-F", "--forceall", "-R", "--forcerun"} & set(
    sys.argv
):
    print(
        "fdl: jobs that are forced keep the records that are current and train only the others; to train a cell "
        f"again delete its folder, to train everything again delete {layout.results_folder(PARAMS)}",
        file=sys.stderr,
    )

validate(
    LAYERED.raw | LAYERED.overrides,
    schema="../schemas/params.schema.json",
    set_default=False,
)

# Jobs read the resolved settings from this file. It is neither an input nor a parameter of a rule, because then a
# change of any key would run every bundle again. The judge of records says what really changed.
os.environ["FDL_PARAMS"] = str(PARAMS.write(layout.SNAKEMAKE))


envvars:
    "FDL_PARAMS",


# Snakemake ignores `gpu=1` locally unless there is a limit. The limit must not be 0: on a login node without a GPU,
# that would turn the request of a cluster job into 0 as well.
GPUS = len(gpu_slots())
if GPUS:
    workflow.global_resources.setdefault("gpu", GPUS)

# The folder of local images; it is a parameter of the rule `prepare`, because another folder holds other images.
DATA_DIR = (
    PARAMS.data_dir or os.environ.get("FDL_DATA_DIR")
    if PARAMS.source == "local"
    else None
)
BUNDLES = {bundle.key: cells for bundle, cells in PARAMS.bundles().items()}
JUDGE = Judge(PARAMS, contents=False, running=False)
RECEIPTS = [str(layout.bundle_file(PARAMS, bundle)) for bundle in PARAMS.bundles()]
REPORTS = report_files(PARAMS)
SHOWN = {
    target.path(PARAMS, "html" if target.kind == "table" else "png"): target
    for target in targets(PARAMS)
}
CAPTIONS = (layout.SNAKEMAKE / "captions").absolute()
write_captions(CAPTIONS)
# Beside the report and not the records, because a stage's folder must not change after the stage (DVC).
TRACKED = f"{layout.report_folder(PARAMS)}/tracked.json"


def split_files(cells):
    """The draws that these cells train on."""
    draws = {
        (
            cell.dataset,
            cell.shots,
            PARAMS.draw_of(cell.seed),
            PARAMS.pool_of(cell.dataset, cell.backbone),
        )
        for cell in cells
    }
    return sorted(str(layout.split_file(PARAMS, *draw)) for draw in draws)


def dataset_of(wildcards):
    """Name of a dataset, with its pool but without the image size that the name of its folder ends with."""
    return re.match(r"[a-z0-9]+(-pool\d+)?", wildcards.dataset)[0]


def data_folder(wildcards):
    """The folder of a dataset's files, and for the user's own images also how they are read."""
    own = PARAMS.own(dataset_of(wildcards))
    return [own.folder, own.image_size, own.like, own.antialias] if own else DATA_DIR


def prepared_file(dataset, pool=None):
    """The file whose existence means that a dataset is prepared; for the user's own images, in their current state."""
    if PARAMS.own(dataset):
        return receipt(PARAMS, dataset).as_posix()
    return f"{layout.prepared_folder(PARAMS, dataset, pool)}/dataset.json"


def prepared_images(wildcards):
    """The prepared dataset that a draw is made from."""
    if wildcards.source == "own":
        return prepared_file(dataset_of(wildcards))
    return f"{layout.PREPARED}/{wildcards.source}/{wildcards.dataset}/dataset.json"


def bundle_cells(wildcards):
    """The cells of a job's bundle."""
    return BUNDLES[f"{wildcards.dataset}/{wildcards.backbone}/{wildcards.shots}shot"]


def bundle_splits(wildcards):
    """The draws that a bundle trains on."""
    return split_files(bundle_cells(wildcards))


def bundle_due(wildcards):
    """A file that is newer than the bundle's receipt while any of its records is missing, damaged or stale."""
    return str(due_file(PARAMS, bundle_cells(wildcards), JUDGE))


def shown_in_report(path):
    """An output of the rule report, marked for `snakemake --report` if it is the form of a table or figure to look at."""
    target = SHOWN.get(path)
    if target is None:
        return path
    return report(
        path,
        caption=str(CAPTIONS / f"{target.maker}.rst"),
        category=f"{target.kind.capitalize()}s",
        labels={"name": target.title},
    )


wildcard_constraints:
    source="|".join(["synthetic", "local", "official", "own"]),
    dataset=r"[a-z0-9]+(-pool\d+)?(-\d+)?(-aa)?",
    backbone=r"[a-z0-9]+|torchvision-[a-z0-9_]+(@[A-Za-z0-9_.]+)?",
    shots=r"\d+",
    draw=r"\d+",
    compared="(-compared-[0-9a-f]{8})?",


PREPARED = sorted({prepared_file(*images) for images in PARAMS.images().values()})
