# Records → runs.csv → tables and figures, and a copy of the records in MLflow.
rule collect:
    input:
        RECEIPTS,
    output:
        REPORTS["collected"],
    log:
        f"logs/collect/{PARAMS.preset}.log",
    conda:
        "../../environment.yml"
    shell:
        'python -m fdl collect --params "$FDL_PARAMS" > {log} 2>&1'


rule report:
    input:
        REPORTS["collected"],
    output:
        [shown_in_report(path) for path in REPORTS["made"]],
    log:
        f"logs/report/{PARAMS.preset}.log",
    conda:
        "../../environment.yml"
    threads: 2
    params:
        claims=PARAMS.claims.model_dump(mode="json"),
    shell:
        'python -m fdl report --params "$FDL_PARAMS" --processes {threads} > {log} 2>&1'


rule track:
    input:
        RECEIPTS,
    output:
        TRACKED,
    log:
        f"logs/track/{PARAMS.preset}.log",
    conda:
        "../../environment.yml"
    shell:
        'python -m fdl track --params "$FDL_PARAMS" --receipt {output} > {log} 2>&1'
