#!/bin/sh
# environment.sh FOLDER LOCK: makes a virtual environment of what requirements/LOCK-3.x.txt pins, for the Python
# that PYTHON names or python.sh finds. `make setup` makes .venv from `cpu`, `make dev` makes .venv-dev from `dev`.
set -eu
cd "$(dirname "$0")/.."
folder="$1" lock="$2"

# Prints 3.11 or the like, if that Python starts and has pip.
version_of() { "$1" -c 'import pip, sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# An environment that is there keeps its Python, unless another one is named.
if [ -n "${PYTHON:-}" ] || ! version_of "$folder/bin/python" >/dev/null; then
    python="$(requirements/python.sh "${PYTHON:-}")"
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    if [ "$(version_of "$folder/bin/python")" != "$version" ]; then
        echo "$folder: a new environment of Python $version"
        "$python" -m venv --clear "$folder"
    fi
fi
locked="requirements/$lock-$(version_of "$folder/bin/python").txt"
pip="$folder/bin/python -m pip --disable-pip-version-check"

if [ "$lock" = cpu ]; then
    # The CPU build of PyTorch is not on PyPI: pip's own configuration is tried first, then PyTorch's index.
    echo "$folder: PyTorch for the CPU"
    $pip install --no-deps "$TORCH" 2>"$folder/torch.log" ||
        $pip install --no-deps --index-url "$TORCH_INDEX" "$TORCH" || {
        cat "$folder/torch.log" >&2
        exit 1
    }
    echo "$folder: vLLM and everything else in $locked, by hash"
    $pip install --quiet --require-hashes -r requirements/bootstrap.txt
    "$folder/bin/uv" pip install --python "$folder/bin/python" --no-deps --require-hashes --compile-bytecode -r "$locked"
else
    # What uv and all the bytecode would take is a quarter of this environment.
    echo "$folder: everything in $locked, by hash"
    $pip install --quiet --no-deps --require-hashes --no-compile -r "$locked"
fi

echo "$folder: hubgate itself"
# As a path, so that compiled modules beside the packages are found as well.
$pip install --quiet --no-deps --no-build-isolation --editable . --config-settings editable_mode=compat
touch "$folder/.ready"
