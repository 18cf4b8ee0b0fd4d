# One rule for all transfer tasks: which task it is, the path says.


rule evaluate:
    input:
        evaluation_inputs,
    output:
        f"{WORK}/predictions/{{task}}/{{protocol}}/{{dataset}}/{{row}}/seed{{seed}}.parquet",
    log:
        f"{WORK}/logs/evaluate/{{task}}-{{protocol}}-{{dataset}}-{{row}}-seed{{seed}}.log",
    conda:
        "../envs/mlip.yaml"
    params:
        study=STUDY_FILE,
        spec=lambda w: planning.evaluation_fingerprint(
            STUDY, w.task, w.protocol, w.dataset
        ),
    shell:
        "python -m mlip run evaluate {wildcards.task} {wildcards.protocol} {wildcards.dataset} {wildcards.row}"
        " --seed {wildcards.seed} -s {params.study} --threads {threads} > {log} 2>&1"
