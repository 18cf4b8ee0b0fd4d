# Readers -> image stores -> splits -> audit.


rule store:
    input:
        raw_folder,
    output:
        records=f"{WORK}/data/{{dataset}}/records.parquet",
        manifest=f"{WORK}/data/{{dataset}}/manifest.json",
        images=f"{WORK}/data/{{dataset}}/images.npy",
    log:
        f"{WORK}/logs/data/{{dataset}}.log",
    benchmark:
        f"{WORK}/benchmarks/data/{{dataset}}.tsv"
    conda:
        "../envs/mlip.yaml"
    params:
        study=STUDY_FILE,
        spec=lambda w: planning.data_fingerprint(STUDY, w.dataset),
    shell:
        "python -m mlip run data {wildcards.dataset} -s {params.study} --threads {threads} > {log} 2>&1"


rule splits:
    input:
        f"{WORK}/data/{{dataset}}/records.parquet",
    output:
        f"{WORK}/splits/{{dataset}}.parquet",
    log:
        f"{WORK}/logs/splits/{{dataset}}.log",
    conda:
        "../envs/mlip.yaml"
    params:
        study=STUDY_FILE,
        spec=lambda w: planning.splits_fingerprint(STUDY, w.dataset),
    shell:
        "python -m mlip run splits {wildcards.dataset} -s {params.study} > {log} 2>&1"


rule audit:
    input:
        [store_of(d) for d in STUDY.datasets],
        [str(PATHS.splits(d)) for d in STUDY.datasets],
    output:
        str(PATHS.audit),
    log:
        f"{WORK}/logs/audit.log",
    conda:
        "../envs/mlip.yaml"
    params:
        study=STUDY_FILE,
    shell:
        "python -m mlip audit -s {params.study} > {log} 2>&1"
