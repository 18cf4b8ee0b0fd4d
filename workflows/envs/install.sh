#!/usr/bin/env bash
# Installs the project's pinned lock, and the project itself, into the environment of the given Python.
# One list of pins serves `make` and `snakemake --use-conda` (workflows/envs/*.post-deploy.sh call this file).
set -euo pipefail
python=${1:?usage: install.sh PYTHON}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

"$python" -c 'import sys; v=sys.version_info[:2]; sys.exit(0 if v==(3,11) else f"install.sh: Python 3.11 is needed, {sys.executable} is {v[0]}.{v[1]}: set PYTHON=/path/to/python3.11")'
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
uv_pin=$(grep -oE '^uv==[^ ]+' "$root/requirements.lock")
"$python" -m pip install --quiet --disable-pip-version-check "$uv_pin"
cd "$root"  # uv reads the Detectron2 build recipe from pyproject.toml
UV_COMPILE_BYTECODE=${UV_COMPILE_BYTECODE:-1} "$python" -m uv pip install --python "$python" --require-hashes -r requirements.lock
"$python" -m uv pip install --python "$python" --no-deps --no-build-isolation -e .
