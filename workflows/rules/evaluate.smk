# One rule for all transfer tasks: which task it is, the path says.


def evaluation_inputs(wildcards):
    task, dataset = TASKS[wildcards.task], wildcards.dataset
    common = [*store_of(dataset), str(PATHS.splits(dataset)), str(PATHS.audit)]
    if wildcards.row in task.controls:
        return common
    weights = checkpoint_of(wildcards.row, wildcards.seed)
    if task.needs == "features":
        return [*common, str(PATHS.features(wildcards.row, wildcards.seed, dataset))]
    return [*common, *weights, str(PATHS.tokenizer), str(PATHS.knowledge)]


rule evaluate:
    input:
        evaluation_inputs,
    output:
        f"{WORK}/predictions/{{task}}/{{protocol}}/{{dataset}}/{{row}}/seed{{seed}}.parquet",
    log:
        f"{WORK}/logs/evaluate/{{task}}-{{protocol}}-{{dataset}}-{{row}}-seed{{seed}}.log",
    benchmark:
        f"{WORK}/benchmarks/evaluate/{{task}}-{{protocol}}-{{dataset}}-{{row}}-seed{{seed}}.tsv"
    conda:
        "../envs/mlip.yaml"
    params:
        spec=lambda w: planning.evaluation_fingerprint(
            STUDY, w.task, w.protocol, w.dataset
        ),
    shell:
        "python -m mlip run evaluate {wildcards.task} {wildcards.protocol} {wildcards.dataset} {wildcards.row}"
        " --seed {wildcards.seed} -s {STUDY_FILE} --threads {threads} > {log} 2>&1"
