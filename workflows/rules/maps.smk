# Where the trained rows look on test films, and how they treat different patients with equal findings.

FIRST_SEED = STUDY.pretrain.seeds[0]
MAPPED = film_maps.mapped_rows(STUDY)
QUESTIONS = film_maps.questions(STUDY)
MAPS = [str(PATHS.maps / f"{m}.{kind}") for m in MAPPED for kind in ("png", "csv")]
PAIR_PAGE = [str(PATHS.false_negatives)] if false_negatives.compared_rows(STUDY) else []


if MAPPED:

    rule maps:
        input:
            lambda w: checkpoint_of(w.mapped, FIRST_SEED),
            [
                f
                for q in QUESTIONS
                for f in [*store_of(q.dataset), str(PATHS.splits(q.dataset))]
            ],
            str(PATHS.audit),
            str(PATHS.tokenizer),
            str(PATHS.knowledge),
        output:
            figure=str(PATHS.maps / "{mapped}.png"),
            numbers=str(PATHS.maps / "{mapped}.csv"),
        log:
            f"{WORK}/logs/maps/{{mapped}}.log",
        wildcard_constraints:
            mapped=one_of(MAPPED),
        conda:
            "../envs/mlip.yaml"
        params:
            study=STUDY_FILE,
            seed=FIRST_SEED,
            spec=planning.fingerprint(
                STUDY.seed,
                STUDY.data_note,
                STUDY.statistics.model_dump(),
                [str(q) for q in QUESTIONS],
            ),
        shell:
            "python -m mlip run maps {wildcards.mapped} --seed {params.seed} -s {params.study} --threads {threads} > {log} 2>&1"


if PAIR_PAGE:

    rule false_negatives:
        input:
            [
                f
                for m in false_negatives.compared_rows(STUDY)
                for f in checkpoint_of(m, FIRST_SEED)
            ],
            corpus,
            str(PATHS.audit),
            str(PATHS.tokenizer),
            str(PATHS.knowledge),
        output:
            str(PATHS.false_negatives),
        log:
            f"{WORK}/logs/false_negatives.log",
        conda:
            "../envs/mlip.yaml"
        params:
            study=STUDY_FILE,
            spec=planning.fingerprint(
                STUDY.seed, STUDY.data_note, STUDY.statistics.model_dump()
            ),
        shell:
            "python -m mlip run false-negatives -s {params.study} --threads {threads} > {log} 2>&1"
