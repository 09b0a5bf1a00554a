#!/bin/sh
# Installs the packages of debian.txt whose commands are missing, and says so; `make debian` runs it.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
missing=""
while read -r package command; do
    case "$package" in "" | "#"*) continue ;; esac
    command -v "$command" >/dev/null || missing="$missing $package"
done <"$(dirname "$0")/debian.txt"
[ -n "$missing" ] || exit 0

refuse() {
    echo "Tests need$missing, and $1. Install it by your system's own means, then try again." >&2
    exit 1
}
command -v apt-get >/dev/null || refuse "there is no apt-get here"
if [ "$(id -u)" -eq 0 ]; then
    sudo=""
else
    command -v sudo >/dev/null || refuse "only root may install it, and there is no sudo"
    sudo=sudo
fi
echo "Installing from Debian, for the tests:$missing"
# Tests start processes of their own: the services that come with packages stay off, now at least.
apt="$sudo env DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 RUNLEVEL=1 apt-get -qq"
log="$(mktemp)"
if ! { $apt update && $apt install --yes --no-install-recommends $missing; } >"$log" 2>&1; then
    cat "$log" >&2
    refuse "apt-get failed"
fi
rm -f "$log"
