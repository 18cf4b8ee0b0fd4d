# Lets `snakemake` find the workflow without flags.
include: "workflows/Snakefile"


# Snakemake takes a default target from this file only, not from an included one.
rule study:
    default_target: True
    input:
        rules.all.input,
