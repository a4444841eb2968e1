#!/bin/sh
# Prints the path of promtool and, where there is none, fetches it first: `promtool=$(deploy/tools.sh)`.
# Debian's package is unpacked into .tools/ (git ignores it), not installed: no root, no service, nothing on the system.
# `prometheus` lies in the same directory. Running it again fetches nothing. Messages go to standard error.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
tools=$root/.tools

fail() {
    printf 'deploy/tools.sh: %s\n' "$1" >&2
    exit 1
}

# Only into a directory that a failure leaves behind unused; what is in usr/ is complete.
unpack() {
    (cd "$work" && apt-get download "$1" >&2) || return 1
    dpkg -x "$work/$1"_*.deb "$work/tree"
}

if command -v promtool; then
    exit 0
fi
if [ -x "$tools/usr/bin/promtool" ]; then
    printf '%s\n' "$tools/usr/bin/promtool"
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    fail "no promtool here and no apt to fetch it with; install Prometheus 2.42 or later (promtool is part of it)"
fi

mkdir -p "$tools"
work=$(mktemp -d "$tools/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt fetches as a user of its own when root starts it

unpack prometheus || fail "apt-get could not fetch the package prometheus; run apt-get update first"
if [ ! -x "$work/tree/usr/bin/promtool" ]; then
    # From Debian 13 on it is a package of its own.
    unpack promtool || fail "apt-get could not fetch the package promtool; run apt-get update first"
fi
rm -rf "$tools/usr"
mv "$work/tree/usr" "$tools/usr"
printf '%s\n' "$tools/usr/bin/promtool"
