# One job per bundle, i.e. all methods and seeds of (dataset, backbone, shots). Its only declared output is the receipt.
# Each cell's record is published as soon as it is finished, so finished records survive a failed job.
rule run:
    input:
        splits=bundle_splits,
        due=bundle_due,
    output:
        f"{layout.results_folder(PARAMS)}/{{dataset}}/{{backbone}}/{{shots}}shot/bundle.json",
    log:
        f"logs/run/{PARAMS.preset}/{{dataset}}/{{backbone}}/{{shots}}shot.log",
    conda:
        "../../environment.yml"
    threads: PARAMS.threads
    resources:
        gpu=1 if PARAMS.device == "cuda" or (PARAMS.device == "auto" and GPUS) else 0,
    shell:
        'OMP_NUM_THREADS={threads} python -m fdl run --params "$FDL_PARAMS" '
        "{wildcards.dataset}/{wildcards.backbone}/{wildcards.shots}shot > {log} 2>&1"
