"""The stages of a study, one file each: what a Snakemake rule runs through ``mlip run <stage>``.

A file reaches by its imports exactly the code that its stage runs: that closure is part of the fingerprint of what it
makes (``mlip/fingerprints.py``). So no stage imports the plan it is given, nor another stage.
"""
