# Leaderboard, tables, cells.csv, figures: from predictions only.


rule tables:
    input:
        PREDICTIONS,
        MAPS,  # the leaderboard links what is there
        PAIR_PAGE,
        PARTS_PAGE,
        anew(PLAN.is_made("tables", (), PLAN.tables())),
    output:
        leaderboard=LEADERBOARD,
        page=str(PATHS.leaderboard.with_suffix(".html")),
        cells=str(PATHS.cells),
        cost=str(PATHS.results / "cost.md"),
        made=str(PATHS.results / "made.json"),
        pages=[
            str(PATHS.results / f"{task}.{kind}")
            for task in STUDY.tasks
            for kind in ("md", "csv", "tex")
        ],
        figures=[str(PATHS.results / "figures" / f"{task}.png") for task in STUDY.tasks],
    log:
        f"{WORK}/logs/tables.log",
    conda:
        "../envs/mlip.yaml"
    params:
        spec=PLAN.tables().key,
    shell:
        "python -m mlip run tables > {log:q} 2>&1"
