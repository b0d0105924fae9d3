# Records → runs.csv → tables and figures; and their mirror in MLflow.

RECEIPTS = [str(layout.bundle_file(PARAMS, bundle)) for bundle in PARAMS.bundles()]


rule collect:
    input:
        RECEIPTS,
    output:
        REPORTS["collected"],
    log:
        f"logs/collect/{PARAMS.preset}.log",
    conda:
        "../../environment.yml"
    params:
        fdl=FDL,
        settings=PARAMS_FILE,
    shell:
        "{params.fdl} collect --params {params.settings} > {log} 2>&1"


rule report:
    input:
        REPORTS["collected"],
    output:
        REPORTS["made"],
    log:
        f"logs/report/{PARAMS.preset}.log",
    conda:
        "../../environment.yml"
    params:
        fdl=FDL,
        settings=PARAMS_FILE,
    shell:
        "{params.fdl} report --params {params.settings} > {log} 2>&1"


rule track:
    input:
        RECEIPTS,
    output:
        f"{layout.results_folder(PARAMS)}/tracked.json",
    log:
        f"logs/track/{PARAMS.preset}.log",
    conda:
        "../../environment.yml"
    params:
        fdl=FDL,
        settings=PARAMS_FILE,
    shell:
        "{params.fdl} track --params {params.settings} --receipt {output} > {log} 2>&1"
