# Where the trained rows look on test films, and how they treat different patients with equal findings.

MAPPED = film_maps.mapped_rows(PLAN)
ASKED = list(dict.fromkeys(q.dataset for q in film_maps.questions(PLAN)))
MAPS = [str(PATHS.maps / f"{m}.{kind}") for m in MAPPED for kind in ("png", "csv")]
COMPARED = false_negatives.compared_rows(PLAN)
PAIR_PAGE = [str(PATHS.false_negatives)] if COMPARED else []
PAIRED = bool(COMPARED) and false_negatives.is_current(PLAN)
EXAMINED = method_parts.examined_rows(PLAN)
PARTS_PAGE = [str(PATHS.parts)] if EXAMINED else []
PARTED = bool(EXAMINED) and method_parts.is_current(PLAN)


if MAPPED:

    rule maps:
        input:
            lambda w: [
                f
                for seed in PLAN.rows[w.mapped].seeds(STUDY)
                for f in checkpoint_of(w.mapped, seed)
            ],
            [store_of(d) for d in ASKED],
            lambda w: [f for d in ASKED for f in splits_of(d, mapped_is_made(w.mapped))],
            lambda w: gate(mapped_is_made(w.mapped)),
            str(PATHS.tokenizer),
            lambda w: knowledge_of(w.mapped),
            lambda w: anew(mapped_is_made(w.mapped)),
        output:
            figure=str(PATHS.maps / "{mapped}.png"),
            numbers=str(PATHS.maps / "{mapped}.csv"),
        log:
            f"{WORK}/logs/maps/{{mapped}}.log",
        wildcard_constraints:
            mapped=one_of(MAPPED),
        conda:
            "../envs/mlip.yaml"
        threads: NEEDS.threads("maps", "mapped")
        resources:
            **NEEDS.asked("maps", "mapped"),
        params:
            spec=lambda w: film_maps.fingerprint(PLAN, w.mapped).key,
        shell:
            "python -m mlip run maps {wildcards.mapped} --threads {threads} > {log:q} 2>&1"


if PAIR_PAGE:

    rule false_negatives:
        input:
            [
                f
                for m in COMPARED
                for seed in PLAN.rows[m].seeds(STUDY)
                for f in checkpoint_of(m, seed)
            ],
            [f for d in STUDY.pretrain.datasets for f in store_of(d)],
            [splits_of(d, PAIRED) for d in STUDY.pretrain.datasets],
            gate(PAIRED),
            str(PATHS.tokenizer),
            str(PATHS.knowledge),
            anew(PAIRED),
        output:
            page=str(PATHS.false_negatives),
            differences=str(PATHS.false_negatives.with_suffix(".csv")),
        log:
            f"{WORK}/logs/false_negatives.log",
        conda:
            "../envs/mlip.yaml"
        threads: NEEDS.threads("false_negatives")
        resources:
            **NEEDS.asked("false_negatives"),
        params:
            spec=false_negatives.fingerprint(PLAN).key,
        shell:
            "python -m mlip run false-negatives --threads {threads} > {log:q} 2>&1"


if PARTS_PAGE:

    rule parts:
        input:
            [
                f
                for m in EXAMINED
                for seed in STUDY.pretrain.seeds
                for f in checkpoint_of(m, seed)
            ],
            [f for d in STUDY.pretrain.datasets for f in store_of(d)],
            [splits_of(d, PARTED) for d in STUDY.pretrain.datasets],
            gate(PARTED),
            str(PATHS.tokenizer),
            str(PATHS.knowledge),
            anew(PARTED),
        output:
            page=str(PATHS.parts),
        log:
            f"{WORK}/logs/parts.log",
        conda:
            "../envs/mlip.yaml"
        threads: NEEDS.threads("parts")
        resources:
            **NEEDS.asked("parts"),
        params:
            spec=method_parts.fingerprint(PLAN).key,
        shell:
            "python -m mlip run parts --threads {threads} > {log:q} 2>&1"
