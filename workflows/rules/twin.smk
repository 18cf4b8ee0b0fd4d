# Virtual patients, written in each real data set's own layout.


rule anatomy:
    input:
        anew(not STUDY.twin or PLAN.is_made("anatomy", (), PRINTS.anatomy())),
    output:
        str(PATHS.anatomy),
    log:
        f"{WORK}/logs/anatomy.log",
    benchmark:
        f"{WORK}/benchmarks/anatomy.tsv"
    conda:
        "../envs/mlip.yaml"
    threads: NEEDS.threads("anatomy")
    resources:
        **NEEDS.asked("anatomy"),
    params:
        spec=PRINTS.anatomy().key if STUDY.twin else "",
    shell:
        "python -m mlip run anatomy --threads {threads} > {log:q} 2>&1"


rule twin:
    input:
        str(PATHS.anatomy),
        lambda w: anew(PLAN.is_made("twin", (w.hospital,), PRINTS.twin(w.hospital))),
    output:
        directory(f"{WORK}/raw/{{hospital}}"),
    log:
        f"{WORK}/logs/twin/{{hospital}}.log",
    benchmark:
        f"{WORK}/benchmarks/twin/{{hospital}}.tsv"
    conda:
        "../envs/mlip.yaml"
    threads: NEEDS.threads("twin", "hospital")
    resources:
        **NEEDS.asked("twin", "hospital"),
    params:
        spec=lambda w: PRINTS.twin(w.hospital).key,
    shell:
        "python -m mlip run twin {wildcards.hospital} --threads {threads} > {log:q} 2>&1"
