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
    threads: NEEDS.threads("evaluate", "task", "protocol", "dataset", "row", "seed")
    resources:
        **NEEDS.asked("evaluate", "task", "protocol", "dataset", "row", "seed"),
    params:
        spec=lambda w: PLAN.evaluation(w.task, w.protocol, w.dataset, w.row, w.seed).key,
    shell:
        "python -m mlip run evaluate {wildcards.task} {wildcards.protocol} {wildcards.dataset} {wildcards.row}"
        " --seed {wildcards.seed} --threads {threads} > {log:q} 2>&1"
