# One job per bundle: all methods and seeds of (dataset, backbone, shots). Its one declared output is
# the receipt; the cells' records are put in place as they finish and survive a failed job.


def bundle_cells(wildcards):
    """The cells of a job's bundle."""
    return BUNDLES[f"{wildcards.dataset}/{wildcards.backbone}/{wildcards.shots}shot"]


def bundle_splits(wildcards):
    """The draws that a bundle trains on."""
    cells = bundle_cells(wildcards)
    return sorted(
        {
            str(layout.split_file(PARAMS, cell.dataset, cell.shots, PARAMS.draw_of(cell.seed)))
            for cell in cells
        }
    )


def settings_digests(wildcards):
    """What a bundle was asked to train: a new seed, method or value runs this job again, and no other."""
    return [PARAMS.settings_digest(cell) for cell in bundle_cells(wildcards)]


rule run:
    input:
        splits=bundle_splits,
    output:
        f"{layout.results_folder(PARAMS)}/{{dataset}}/{{backbone}}/{{shots}}shot/bundle.json",
    log:
        f"logs/run/{PARAMS.preset}/{{dataset}}/{{backbone}}/{{shots}}shot.log",
    conda:
        "../../environment.yml"
    threads: PARAMS.threads
    resources:
        gpu=1 if PARAMS.device == "cuda" or (PARAMS.device == "auto" and GPUS) else 0,
    params:
        fdl=FDL,
        settings=PARAMS_FILE,
        digests=settings_digests,
    shell:
        "OMP_NUM_THREADS={threads} {params.fdl} run --params {params.settings} "
        "{wildcards.dataset}/{wildcards.backbone}/{wildcards.shots}shot > {log} 2>&1"
