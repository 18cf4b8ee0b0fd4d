# Leaderboard, tables, cells.csv, figures: from predictions only.


rule tables:
    input:
        PREDICTIONS,
        MAPS,  # the leaderboard links what is there
        PAIR_PAGE,
        PARTS_PAGE,
        anew(PLAN.is_made("tables", (), PLAN.tables())),
    output:
        leaderboard=report(
            LEADERBOARD,
            caption="../captions/leaderboard.rst",
            category="Leaderboard",
        ),
        page=report(
            str(PATHS.leaderboard.with_suffix(".html")),
            caption="../captions/page.rst",
            category="Page",
        ),
        cells=report(
            str(PATHS.cells), caption="../captions/cells.rst", category="Cells"
        ),
        cost=str(PATHS.results / "cost.md"),
        made=str(PATHS.results / "made.json"),
        breakdown=str(PATHS.results / "breakdown.csv"),
        pages=report(
            [str(PATHS.results / f"{task}.md") for task in STUDY.tasks],
            caption="../captions/task.rst",
            category="Tasks",
        ),
        tables=[
            str(PATHS.results / f"{task}.{kind}")
            for task in STUDY.tasks
            for kind in ("csv", "tex")
        ],
        figures=report(
            [
                str(PATHS.results / "figures" / f"{name}.png")
                for name in figures(list(STUDY.tasks), PLAN.blocks)
            ],
            caption="../captions/figure.rst",
            category="Figures",
        ),
    log:
        f"{WORK}/logs/tables.log",
    conda:
        "../envs/mlip.yaml"
    threads: NEEDS.threads("tables")
    resources:
        **NEEDS.asked("tables"),
    params:
        spec=PLAN.tables().key,
    shell:
        "python -m mlip run tables --threads {threads} > {log:q} 2>&1"
