# Images are read from their source into arrays, from which the k-shot training images are drawn.
rule prepare:
    output:
        f"{layout.PREPARED}/{{source}}/{{dataset}}/dataset.json",
    log:
        "logs/prepare/{source}/{dataset}.log",
    conda:
        "../../environment.yml"
    params:
        dataset=dataset_of,
        data_dir=data_folder,
    shell:
        'python -m fdl data prepare --params "$FDL_PARAMS" {params.dataset} > {log} 2>&1'


# The user's own photographs may change, so the output is named after the contents of their folder.
rule prepare_own:
    output:
        f"{layout.PREPARED}/own/{{dataset}}/photographs-{{photographs}}",
    log:
        "logs/prepare/own/{dataset}-{photographs}.log",
    conda:
        "../../environment.yml"
    params:
        dataset=dataset_of,
        data_dir=data_folder,
    shell:
        'python -m fdl data prepare --params "$FDL_PARAMS" {params.dataset} > {log} 2>&1'


rule split:
    input:
        prepared_images,
    output:
        f"{layout.SPLITS}/{{source}}/{{dataset}}/{{shots}}shot/draw{{draw}}{{compared}}.json",
    log:
        "logs/split/{source}/{dataset}/{shots}shot/draw{draw}{compared}.log",
    conda:
        "../../environment.yml"
    params:
        dataset=dataset_of,
    shell:
        'python -m fdl split --params "$FDL_PARAMS" --shots {wildcards.shots} --draw {wildcards.draw} '
        "{params.dataset} > {log} 2>&1"
