# Images: read from their source into arrays, then drawn from.


def dataset_of(wildcards):
    """Name of a dataset without the size that a folder may carry."""
    return wildcards.dataset.partition("-")[0]


rule prepare:
    output:
        f"{layout.PREPARED}/{{source}}/{{dataset}}/dataset.json",
    log:
        "logs/prepare/{source}/{dataset}.log",
    conda:
        "../../environment.yml"
    params:
        fdl=FDL,
        settings=PARAMS_FILE,
        dataset=dataset_of,
    shell:
        "{params.fdl} data prepare --params {params.settings} {params.dataset} > {log} 2>&1"


rule split:
    input:
        f"{layout.PREPARED}/{{source}}/{{dataset}}/dataset.json",
    output:
        f"{layout.SPLITS}/{{source}}/{{dataset}}/{{shots}}shot/draw{{draw}}.json",
    log:
        "logs/split/{source}/{dataset}/{shots}shot/draw{draw}.log",
    conda:
        "../../environment.yml"
    params:
        fdl=FDL,
        settings=PARAMS_FILE,
        dataset=dataset_of,
    shell:
        "{params.fdl} split --params {params.settings} --shots {wildcards.shots} --draw {wildcards.draw} "
        "{params.dataset} > {log} 2>&1"
