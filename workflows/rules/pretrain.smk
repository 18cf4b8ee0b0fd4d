# Tokeniser, knowledge, pre-training, frozen features.


rule tokenizer:
    input:
        corpus,
    output:
        directory(str(PATHS.tokenizer)),
    log:
        f"{WORK}/logs/tokenizer.log",
    conda:
        "../envs/mlip.yaml"
    params:
        study=STUDY_FILE,
        spec=planning.fingerprint(
            STUDY.encoders.text.model_dump(), STUDY.pretrain.datasets
        ),
    shell:
        "python -m mlip run tokenizer -s {params.study} > {log} 2>&1"


rule knowledge:
    output:
        directory(str(PATHS.knowledge)),
    log:
        f"{WORK}/logs/knowledge.log",
    conda:
        "../envs/mlip.yaml"
    params:
        study=STUDY_FILE,
        spec=planning.fingerprint(STUDY.seed, STUDY.knowledge.model_dump()),
    shell:
        "python -m mlip run knowledge -s {params.study} > {log} 2>&1"


# Resumable: the training state lies in work/<study>/state, which Snakemake does not know and so does not delete.
rule pretrain:
    input:
        corpus,
        str(PATHS.audit),
        str(PATHS.tokenizer),
        str(PATHS.knowledge),
    output:
        encoder=f"{WORK}/pretrain/{{method}}/seed{{seed}}/encoder.safetensors",
        method=f"{WORK}/pretrain/{{method}}/seed{{seed}}/method.safetensors",
        card=f"{WORK}/pretrain/{{method}}/seed{{seed}}/card.json",
        metrics=f"{WORK}/pretrain/{{method}}/seed{{seed}}/metrics.jsonl",
    log:
        f"{WORK}/logs/pretrain/{{method}}-seed{{seed}}.log",
    priority: 50
    conda:
        "../envs/mlip.yaml"
    threads: STUDY.pretrain.threads
    params:
        study=STUDY_FILE,
        spec=lambda w: planning.training_fingerprint(STUDY, ROWS[w.method]),
    shell:
        "python -m mlip run pretrain {wildcards.method} --seed {wildcards.seed} -s {params.study} --threads {threads} >> {log} 2>&1"


if FEATURE_SETS:

    # All data sets in one job: importing torch and timm costs more than the features of one small data set.
    rule features:
        input:
            [store_of(d) for d in FEATURE_SETS],
            lambda w: checkpoint_of(w.method, w.seed),
        output:
            [
                f"{WORK}/features/{{method}}/seed{{seed}}/{d}.safetensors"
                for d in FEATURE_SETS
            ],
        log:
            f"{WORK}/logs/features/{{method}}-seed{{seed}}.log",
        conda:
            "../envs/mlip.yaml"
        params:
            study=STUDY_FILE,
        shell:
            "python -m mlip run features {wildcards.method} --seed {wildcards.seed} -s {params.study} --threads {threads} > {log} 2>&1"
