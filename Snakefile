# Lets `snakemake` find the workflow without flags.
include: "workflows/Snakefile"
