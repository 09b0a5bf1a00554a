#!/bin/sh
# Resolves setup.cfg into a lock for each Python and each environment; `make lock` runs it with --upgrade.
# Without --upgrade, what is locked keeps its version. It needs `uv`, given as UV or found on PATH.
set -eu
cd "$(dirname "$0")/.."

# The CPU build of PyTorch is not on PyPI. It is resolved with the rest, for what it needs, and not written down.
export UV_FIND_LINKS="${UV_FIND_LINKS:-https://download.pytorch.org/whl/cpu/torch/}"

# lock NAME PYTHON WHAT…: resolves WHAT for PYTHON into requirements/NAME.txt, with hashes.
lock() {
    name="$1" python="$2"
    shift 2
    echo "requirements/$name.txt"
    "${UV:-uv}" --quiet pip compile "$@" --python-version "$python" --generate-hashes \
        --custom-compile-command "make lock" --output-file "requirements/$name.txt" >/dev/null
}

lock bootstrap 3.11 requirements/bootstrap.in "$@"
for python in 3.11 3.12 3.13; do
    lock "cpu-$python" "$python" setup.cfg --extra cpu --extra dev --no-emit-package torch \
        --override requirements/overrides.txt "$@"
    # The constraint gives the environment without the engine the versions of the one with it.
    lock "dev-$python" "$python" setup.cfg --extra dev --constraint "requirements/cpu-$python.txt" "$@"
done
