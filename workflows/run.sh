#!/usr/bin/env bash
# Runs a study with Snakemake and says where to look. Usage: workflows/run.sh STUDY [CORES]
set -uo pipefail
study=${1:?usage: workflows/run.sh STUDY [CORES]}
cores=${2:-all}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -f "config/$study.yaml" ]; then
  echo "config/$study.yaml: there is no such study. Fix: one of $(cd config && ls -- *.yaml | sed 's/.yaml//' | tr '\n' ' ')" >&2
  exit 2
fi
start=$SECONDS
snakemake --cores "$cores" --configfile "config/$study.yaml" --quiet rules
status=$?
echo
echo "config/$study.yaml: $((SECONDS - start)) s"
exit "$status"
