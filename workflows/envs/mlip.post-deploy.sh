#!/usr/bin/env bash
# Run by Snakemake inside the new environment. Snakemake names an environment by the hash of its files, so the lock's
# digest stands here: a changed lock makes a new environment (`make lock` renews the line).
# requirements.lock sha256: 5e6f09cfc7e0aa6ce28c493dd5c7e7643bdb9ad528f5a46c6a6a6987381654b0
set -euo pipefail
for root in "${MLIP_ROOT:-}" "$PWD" "$(dirname "${BASH_SOURCE[0]}")/../.."; do
  if [ -n "$root" ] && [ -f "$root/requirements.lock" ] && [ -f "$root/workflows/envs/install.sh" ]; then
    exec bash "$root/workflows/envs/install.sh" "${CONDA_PREFIX:?is not set: run inside the environment}/bin/python"
  fi
done
echo "mlip.post-deploy.sh: the checkout was not found from $PWD; run snakemake in it, or set MLIP_ROOT to it" >&2
exit 1
