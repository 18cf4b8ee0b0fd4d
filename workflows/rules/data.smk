# Readers -> image stores -> splits -> audit.


rule store:
    input:
        raw_folder,
        lambda w: anew(store_is_made(w.dataset)),
    output:
        records=f"{WORK}/data/{{dataset}}/records.parquet",
        manifest=f"{WORK}/data/{{dataset}}/manifest.json",
        images=f"{WORK}/data/{{dataset}}/images.npy",
    log:
        f"{WORK}/logs/data/{{dataset}}.log",
    benchmark:
        f"{WORK}/benchmarks/data/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=one_of(set(STUDY.datasets) - MASKED),
    conda:
        "../envs/mlip.yaml"
    threads: NEEDS.threads("store", "dataset")
    resources:
        **NEEDS.asked("store", "dataset"),
    params:
        spec=lambda w: PRINTS.store(w.dataset).key,
    shell:
        "python -m mlip run data {wildcards.dataset} --threads {threads} > {log:q} 2>&1"


use rule store as store_with_masks with:
    output:
        records=f"{WORK}/data/{{dataset}}/records.parquet",
        manifest=f"{WORK}/data/{{dataset}}/manifest.json",
        images=f"{WORK}/data/{{dataset}}/images.npy",
        masks=f"{WORK}/data/{{dataset}}/masks.npy",
    wildcard_constraints:
        dataset=one_of(MASKED),


rule splits:
    input:
        f"{WORK}/data/{{dataset}}/records.parquet",
        f"{WORK}/data/{{dataset}}/manifest.json",
        lambda w: anew(PLAN.is_made("splits", (w.dataset,), PRINTS.splits(w.dataset))),
    output:
        table=f"{WORK}/splits/{{dataset}}.parquet",
        about=f"{WORK}/splits/{{dataset}}.json",
    log:
        f"{WORK}/logs/splits/{{dataset}}.log",
    conda:
        "../envs/mlip.yaml"
    threads: NEEDS.threads("splits", "dataset")
    resources:
        **NEEDS.asked("splits", "dataset"),
    params:
        spec=lambda w: PRINTS.splits(w.dataset).key,
    shell:
        "python -m mlip run splits {wildcards.dataset} > {log:q} 2>&1"


rule audit:
    input:
        [store_of(d) for d in PLAN.sources],
        [str(PATHS.splits(d)) for d in PLAN.sources],
        anew(PLAN.is_made("audit", (), PRINTS.audit())),
    output:
        str(PATHS.audit),
    log:
        f"{WORK}/logs/audit.log",
    conda:
        "../envs/mlip.yaml"
    threads: NEEDS.threads("audit")
    resources:
        **NEEDS.asked("audit"),
    params:
        spec=PRINTS.audit().key,
    shell:
        "python -m mlip run audit > {log:q} 2>&1"
