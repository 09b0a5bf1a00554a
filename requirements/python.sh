#!/bin/sh
# Prints the Python that environments are made with: the one named, else 3.11, 3.12 or 3.13, in this order.
# A Python counts if it starts and can make environments; where there is none, uv fetches one.
set -eu

# can PYTHON WHAT…: whether PYTHON starts, is one that there are locks for, and has the modules WHAT.
can() {
    python="$1"
    shift
    "$python" -c "import sys; assert (3, 11) <= sys.version_info < (3, 14)
for name in sys.argv[1:]: __import__(name)" "$@" 2>/dev/null
}

no_venv=""
for python in ${1:-python3.11 python3.12 python3.13}; do
    if can "$python" venv ensurepip; then
        command -v "$python"
        exit 0
    fi
    if can "$python"; then no_venv="${no_venv:-$python}"; fi
done

if [ -n "$no_venv" ]; then
    version="$("$no_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    problem="$no_venv has no venv module (ensurepip): install it (Debian, Ubuntu: apt install python$version-venv)"
elif [ -n "${1:-}" ]; then
    problem="PYTHON=$1 is not a Python 3.11, 3.12 or 3.13 that starts: name one that does, or leave PYTHON out"
else
    problem="No Python 3.11, 3.12 or 3.13 is on PATH: install one with its venv module\
 (Debian 13, Ubuntu 24.04: apt install python3 python3-venv), or install uv, which fetches one"
fi
if [ -z "${1:-}" ] && command -v uv >/dev/null; then
    echo "No Python 3.11, 3.12 or 3.13 with its venv module is on PATH: uv fetches Python 3.11" >&2
    uv python install --quiet 3.11 >&2 && exec uv python find --python-preference only-managed 3.11
    problem="uv could not fetch Python 3.11: install Python 3.11, 3.12 or 3.13 with its venv module"
fi
echo "$problem, then run make again." >&2
exit 1
