# Leaderboard, tables, cells.csv, figures: from predictions only.


rule tables:
    input:
        PREDICTIONS,
        MAPS,  # the leaderboard links what is there
        PAIR_PAGE,
    output:
        leaderboard=LEADERBOARD,
        cells=str(PATHS.cells),
    log:
        f"{WORK}/logs/tables.log",
    conda:
        "../envs/mlip.yaml"
    params:
        study=STUDY_FILE,
        spec=planning.fingerprint(
            STUDY.title, STUDY.data_note, STUDY.statistics.model_dump()
        ),
    shell:
        "python -m mlip run tables -s {params.study} > {log} 2>&1"
