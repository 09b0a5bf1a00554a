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

# The images; PyTorch's CPU build stands in image-torch.txt, written by hand. Build stages compile with image-build.
lock image-build 3.11 requirements/image-build.in --constraint requirements/dev-3.11.txt "$@"
lock image-proxy 3.11 setup.cfg --constraint requirements/cpu-3.11.txt "$@"
lock image-backend-cpu 3.11 setup.cfg --extra cpu --no-emit-package torch \
    --override requirements/overrides.txt --constraint requirements/cpu-3.11.txt "$@"
# Compose itself, for `make test-compose`.
lock compose 3.11 requirements/compose.in "$@"

# On vLLM's own image, whose Python is 3.12: what vLLM does not bring along.
vllm="$(mktemp)"
trap 'rm -f "$vllm"' EXIT
grep -x ' *vllm==.*' setup.cfg | tr -d ' ' |
    "${UV:-uv}" --quiet pip compile - --python-version 3.12 --output-file "$vllm" >/dev/null
lock image-backend-gpu 3.12 setup.cfg --extra gpu --constraint "$vllm" \
    $(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' "$vllm") "$@"
# Without the two hundred names of what was left out.
sed -i '/^$/,$d' requirements/image-backend-gpu.txt
