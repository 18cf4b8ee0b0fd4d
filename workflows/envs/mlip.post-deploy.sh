#!/usr/bin/env bash
# Run by Snakemake inside the new environment. Snakemake names an environment by the hash of its files, so the lock's
# digest stands here: a changed lock makes a new environment (`make lock` renews the line).
# requirements.lock sha256: 9b9c8f629f32af325ccb30c6d193a6ede93c866a632e7015f3081322d7038565
set -euo pipefail
for root in "${MLIP_ROOT:-}" "$PWD" "$(dirname "${BASH_SOURCE[0]}")/../.."; do
  if [ -n "$root" ] && [ -f "$root/requirements.lock" ] && [ -f "$root/workflows/envs/install.sh" ]; then
    exec bash "$root/workflows/envs/install.sh" "${CONDA_PREFIX:?is not set: run inside the environment}/bin/python"
  fi
done
echo "mlip.post-deploy.sh: the checkout was not found from $PWD; run snakemake in it, or set MLIP_ROOT to it" >&2
exit 1
