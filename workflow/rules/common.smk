# Settings, checked once at parse time; where every file lies; the rules' functions.
import os
import re
import sys
from pathlib import Path

from snakemake.utils import validate

# The package beside this workflow and this interpreter, also in jobs and without activation. Not `basedir`:
# where another workflow takes this one as a module, that is the other's.
ROOT = str(Path(workflow.current_basedir).parents[1])
sys.path.insert(0, ROOT)
for name, first in (("PYTHONPATH", ROOT), ("PATH", str(Path(sys.executable).parent))):
    os.environ[name] = os.pathsep.join(filter(None, [first, os.environ.get(name)]))

from fdl import layout, receipts
from fdl import params as fdl_params
from fdl.data.own_images import receipt
from fdl.errors import InputError
from fdl.reporting.targets import report_files, targets
from fdl.training.device import gpu_slots

try:
    PARAMS = fdl_params.resolve(
        config, overrides=fdl_params.laid_on(config, "params.yaml")
    )
except InputError as error:
    print(f"fdl: {error}", file=sys.stderr)
    os._exit(2)  # not sys.exit: Snakemake would wrap it in a traceback

validate(config, schema="../schemas/params.schema.json", set_default=False)

# Jobs read the resolved settings from this file. It is neither a rule's input nor its parameter: any
# key would then run every bundle again. The digests in the rules' `params:` say what really changed.
os.environ["FDL_PARAMS"] = str(PARAMS.write(layout.RESULTS))


envvars:
    "FDL_PARAMS",


# Snakemake ignores `gpu=1` locally unless there is a limit. Never 0: that would turn the request of a
# cluster job into 0 as well, on a login node without a GPU.
GPUS = len(gpu_slots())
if GPUS:
    workflow.global_resources.setdefault("gpu", GPUS)

# Another folder means other images.
DATA_DIR = (
    PARAMS.data_dir or os.environ.get("FDL_DATA_DIR")
    if PARAMS.source == "local"
    else None
)
BUNDLES = {bundle.key: cells for bundle, cells in PARAMS.bundles().items()}
# A record that was deleted, to be made again, must not hide behind the receipt of its bundle.
receipts.remove_outdated(PARAMS)
RECEIPTS = [str(layout.bundle_file(PARAMS, bundle)) for bundle in PARAMS.bundles()]
REPORTS = report_files(PARAMS)
SHOWN = {
    target.path(PARAMS, "html" if target.kind == "table" else "png"): target
    for target in targets(PARAMS)
}
# Beside the report, not the records: for DVC a stage's folder must not change after the stage.
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
    """Name of a dataset, with its pool, without what its folder's name says of the size of its images."""
    return re.match(r"[a-z0-9]+(-pool\d+)?", wildcards.dataset)[0]


def data_folder(wildcards):
    """Where a dataset's files lie, and for the user's own also how they are read."""
    own = PARAMS.own(dataset_of(wildcards))
    return [own.folder, own.image_size, own.like, own.antialias] if own else DATA_DIR


def prepared_file(dataset, pool=None):
    """What says that a dataset is prepared; of the user's own, that today's photographs are."""
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


def settings_digests(wildcards):
    """What a bundle was asked to train: a new seed, method or value runs this job again, and no other."""
    return receipts.asked_for(PARAMS, bundle_cells(wildcards))


def shown_in_report(path):
    """An output of the rule report, marked for `snakemake --report` if it is the form of a table or figure to look at."""
    target = SHOWN.get(path)
    if target is None:
        return path
    return report(
        path,
        caption=f"../report/{target.maker}.rst",
        category=f"{target.kind.capitalize()}s",
        labels={"name": target.title},
    )


wildcard_constraints:
    source="|".join(["synthetic", "local", "official", "own"]),
    dataset=r"[a-z0-9]+(-pool\d+)?(-\d+)?(-aa)?",
    backbone=r"[a-z0-9]+|torchvision-[a-z0-9_]+(@[A-Za-z0-9_.]+)?",
    shots=r"\d+",
    draw=r"\d+",


PREPARED = sorted({prepared_file(*images) for images in PARAMS.images().values()})
