# Tokeniser, knowledge, pre-training, frozen features.


TOKENIZED = PLAN.is_made("tokenizer", (), PRINTS.tokenizer())


rule tokenizer:
    input:
        corpus(TOKENIZED),
        anew(TOKENIZED),
    output:
        directory(str(PATHS.tokenizer)),
    log:
        f"{WORK}/logs/tokenizer.log",
    conda:
        "../envs/mlip.yaml"
    threads: NEEDS.threads("tokenizer")
    resources:
        **NEEDS.asked("tokenizer"),
    params:
        spec=PRINTS.tokenizer().key,
    shell:
        "python -m mlip run tokenizer > {log:q} 2>&1"


rule knowledge:
    input:
        anew(PLAN.is_made("knowledge", (), PRINTS.knowledge())),
    output:
        directory(str(PATHS.knowledge)),
    log:
        f"{WORK}/logs/knowledge.log",
    conda:
        "../envs/mlip.yaml"
    threads: NEEDS.threads("knowledge")
    resources:
        **NEEDS.asked("knowledge"),
    params:
        spec=PRINTS.knowledge().key,
    shell:
        "python -m mlip run knowledge > {log:q} 2>&1"


# Resumable: the training state lies in work/<study>/state, which Snakemake does not know and so does not delete.
rule pretrain:
    input:
        pretrain_inputs,
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
    threads: NEEDS.threads("pretrain", "method", "seed")
    resources:
        **NEEDS.asked("pretrain", "method", "seed"),
    params:
        spec=lambda w: PLAN.training(w.method, w.seed).key,
    shell:
        "python -m mlip run pretrain {wildcards.method} --seed {wildcards.seed} --threads {threads} >> {log:q} 2>&1"


rule features:
    input:
        lambda w: store_of(w.dataset),
        lambda w: checkpoint_of(w.method, w.seed),
        lambda w: anew(
            PLAN.is_made(
                "features",
                (w.method, w.seed, w.dataset),
                PLAN.features(w.method, w.seed, w.dataset),
            )
        ),
    output:
        f"{WORK}/features/{{method}}/seed{{seed}}/{{dataset}}.safetensors",
    log:
        f"{WORK}/logs/features/{{method}}-seed{{seed}}-{{dataset}}.log",
    conda:
        "../envs/mlip.yaml"
    threads: NEEDS.threads("features", "method", "seed", "dataset")
    resources:
        **NEEDS.asked("features", "method", "seed", "dataset"),
    params:
        spec=lambda w: PLAN.features(w.method, w.seed, w.dataset).key,
    shell:
        "python -m mlip run features {wildcards.method} {wildcards.dataset} --seed {wildcards.seed}"
        " --threads {threads} > {log:q} 2>&1"
