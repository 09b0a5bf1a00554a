#!/usr/bin/env bash
# engine.sh start: a Docker engine, if none answers, and every base image that the project names.
# engine.sh stop: ends the engine that `start` started; one that was there before stays.
#
# Images are pulled. Where no registry answers, stand-ins of the same names are made from Debian's packages, with what
# the real ones have and no more (slim: no curl, no make, no compiler), so that the project's own images and files are
# really tried. Needs root for an engine of its own, and Debian for the stand-ins. The first start takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="/usr/bin:/usr/sbin:$PATH"  # Debian's docker, which has an engine, before a client alone
mkdir -p build
pidfile=build/dockerd.pid log=build/dockerd.log

answers() { docker info >/dev/null 2>&1; }
fail() {
    echo "engine.sh: $*" >&2
    exit 1
}

debian() {  # debian PACKAGE…: installs them, saying what for
    command -v apt-get >/dev/null || fail "install $* by your system's own means"
    echo "engine.sh: installing from Debian: $*"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 RUNLEVEL=1 apt-get install -y -qq \
        --no-install-recommends "$@"; } >"$log" 2>&1 || { cat "$log" >&2; fail "apt-get failed"; }
}

engine() {
    answers && return
    [ "$(id -u)" -eq 0 ] || fail "no Docker engine answers, and only root may start one"
    command -v dockerd >/dev/null && command -v iptables >/dev/null || debian docker.io iptables
    setsid dockerd >"$log" 2>&1 </dev/null &
    echo $! >"$pidfile"
    for _ in $(seq 60); do
        if answers; then return; fi
        sleep 1
    done
    tail -5 "$log" >&2
    fail "the engine does not start"
}

# image NAME MAKER…: has it, pulls it, or makes a stand-in.
image() {
    local name="$1"
    shift
    docker image inspect "$name" >/dev/null 2>&1 && return
    timeout 600 docker pull -q "$name" >/dev/null 2>&1 && return
    echo "engine.sh: $name cannot be pulled; a stand-in is made"
    "$@" "$name" || fail "no stand-in for $name could be made"
}

slim() {
    command -v debootstrap >/dev/null || debian debootstrap
    local root
    root="$(mktemp -d)"
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates,netbase,tzdata \
        bookworm "$root" >"$log" || { tail -5 "$log" >&2; return 1; }
    # By what is trusted here pip reaches its index from inside as well.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
    ln -sf python3 "$root/usr/bin/python"
    rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
        "$root"/usr/share/{doc,man,locale}/*
    tar -C "$root" -c . | docker import --change 'CMD ["python3"]' \
        --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' \
        - "$1" >/dev/null
    rm -rf "$root"
}

# debian_image "PACKAGES" "LINES OF A DOCKERFILE" NAME: Python's slim image with packages of Debian.
debian_image() {
    local folder
    folder="$(mktemp -d)"
    mkdir "$folder/links"
    [ ! -d "${PIP_FIND_LINKS:-}" ] || cp -r "$PIP_FIND_LINKS"/. "$folder/links/"
    {
        echo "FROM python:3.11-slim-bookworm"
        echo "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends $1 >/dev/null" \
            "&& rm -rf /var/lib/apt/lists/*"
        printf '%b\n' "$2"
    } >"$folder/Dockerfile"
    docker build -q -t "$3" "$folder" >/dev/null
    rm -rf "$folder"
}

case "${1:-}" in
    start)
        engine
        image python:3.11-slim-bookworm slim
        # With a compiler, and with the wheels that pip finds on this machine.
        image python:3.11-bookworm debian_image "gcc libc6-dev python3-dev curl make git" \
            "COPY links /opt/links\nENV PIP_FIND_LINKS=/opt/links"
        image prom/prometheus:v2.42.0 debian_image prometheus \
            'RUN install -d -o 65534 /prometheus\nUSER 65534\nENTRYPOINT ["prometheus"]'
        image prom/alertmanager:v0.25.0 debian_image prometheus-alertmanager \
            'RUN install -d -o 65534 /alertmanager\nUSER 65534\nENTRYPOINT ["prometheus-alertmanager"]'
        image haproxy:2.6-bookworm debian_image haproxy 'USER haproxy\nCMD ["haproxy"]'
        image redis:7-bookworm debian_image redis-server \
            'RUN install -d -o 999 -g 999 /data\nWORKDIR /data\nCMD ["redis-server"]'
        ;;
    stop)
        [ -f "$pidfile" ] || exit 0
        pid="$(cat "$pidfile")"
        rm -f "$pidfile"
        kill "$pid" 2>/dev/null || exit 0
        for _ in $(seq 60); do
            kill -0 "$pid" 2>/dev/null || exit 0
            sleep 0.5
        done
        fail "the engine (process $pid) does not end"
        ;;
    *) fail "start or stop" ;;
esac
