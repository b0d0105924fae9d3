"""Where every file lies, relative to the working directory."""

from pathlib import Path

from fdl.core import files
from fdl.core.protocol import DATASETS, images_name
from fdl.core.settings import Bundle, Cell, Params

RAW, PREPARED, SPLITS = Path("data/raw"), Path("data/prepared"), Path("data/splits")
EXTRACTED = Path("data/extracted")  # archives of folders that are not ours to write into
RESULTS, REPORTS, SCRATCH = Path("results"), Path("reports"), Path("scratch")
SNAKEMAKE = Path(".snakemake/fdl")  # what the workflow tells its jobs


def dataset_name(params: Params, dataset: str, pool: int | None = None) -> str:
    """Folder name of a dataset: `cifar10`, or `cifar10-pool3750-64-aa`.

    The pool is named where it is a backbone's own (`Params.pool_of`), the size in pixels where that is
    not the authors', and how images are resized where that is not usual: `aa` where they are antialiased,
    `nearest` where the user's own are not.
    """
    size, own = params.image_size_of(dataset), params.own(dataset)
    authors = dataset in DATASETS and size == DATASETS[dataset].image_size
    resize = ["nearest"] * (not own.antialias) if own else ["aa"] * params.antialias
    return "-".join([images_name(dataset, pool), *([] if authors else [str(size)]), *resize])


def prepared_folder(params: Params, dataset: str, pool: int | None = None) -> Path:
    """Folder of a dataset's pixels and labels; sources and pools never share one."""
    return PREPARED / params.source_of(dataset) / dataset_name(params, dataset, pool)


def extracted_folder(params: Params, dataset: str) -> Path | None:
    """Folder for what a dataset's archives hold; None: beside the archives, which were downloaded or written here."""
    source = params.source_of(dataset)
    return EXTRACTED / source / dataset if source in ("local", "own") else None


def split_file(params: Params, dataset: str, shots: int, draw: int, pool: int | None = None) -> Path:
    """File of one k-shot draw; it is named after the list of near-duplicates that it was compared with, if any."""
    folder = SPLITS / params.source_of(dataset) / dataset_name(params, dataset, pool)
    listed = params.near_duplicates.get(dataset)
    compared = f"-compared-{files.file_hash(Path(listed))[:8]}" if listed else ""
    return folder / f"{shots}shot" / f"draw{draw}{compared}.json"


def results_folder(params: Params) -> Path:
    """Folder of a preset's records."""
    return RESULTS / params.preset


def record_folder(params: Params, cell: Cell) -> Path:
    """Folder of one cell's record."""
    return results_folder(params) / cell.key


def bundle_file(params: Params, bundle: Bundle) -> Path:
    """The receipt of a bundle: the one output that Snakemake knows of."""
    return results_folder(params) / bundle.key / "bundle.json"


def report_folder(params: Params) -> Path:
    """Folder of a preset's tables and figures."""
    return REPORTS / params.preset
