# Virtual patients, written in each real data set's own layout.


rule anatomy:
    output:
        str(PATHS.anatomy),
    log:
        f"{WORK}/logs/anatomy.log",
    benchmark:
        f"{WORK}/benchmarks/anatomy.tsv"
    conda:
        "../envs/mlip.yaml"
    threads: workflow.cores
    params:
        study=STUDY_FILE,
        spec=planning.fingerprint(
            STUDY.seed, STUDY.twin and [STUDY.twin.anatomies, STUDY.twin.size]
        ),
    shell:
        "python -m mlip run anatomy -s {params.study} --threads {threads} > {log} 2>&1"


rule twin:
    input:
        str(PATHS.anatomy),
    output:
        directory(f"{WORK}/raw/{{hospital}}"),
    log:
        f"{WORK}/logs/twin/{{hospital}}.log",
    benchmark:
        f"{WORK}/benchmarks/twin/{{hospital}}.tsv"
    conda:
        "../envs/mlip.yaml"
    threads: workflow.cores
    params:
        study=STUDY_FILE,
        spec=lambda w: planning.fingerprint(
            STUDY.seed,
            STUDY.twin.model_dump(include={"anatomies", "size"}),
            STUDY.twin.datasets[w.hospital].model_dump(),
        ),
    shell:
        "python -m mlip run twin {wildcards.hospital} -s {params.study} --threads {threads} > {log} 2>&1"
