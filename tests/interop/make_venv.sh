#!/usr/bin/env bash
# Makes the virtual environment for the interop tests: tests/interop/make_venv.sh DIR
# Fails, and says why, where the packages cannot be had. Does nothing when it is already complete.
set -euo pipefail
dir=${1:?usage: $0 DIR}
requirements=$(dirname "$0")/requirements.txt
stamp=$dir/installed.txt
cmp -s "$requirements" "$stamp" && exit 0
echo "making $dir (a download of about 3 GB on the first run)"
python3 -m venv "$dir"
"$dir/bin/python" -m pip install -q --disable-pip-version-check -r "$requirements"
cp "$requirements" "$stamp"
