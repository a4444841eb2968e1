#!/bin/sh
# Prints the path of a program of Prometheus' family, fetching it first where there is none: `promtool=$(deploy/tools.sh)`,
# or `deploy/tools.sh prometheus alertmanager`, one path a line. Names: promtool (the default), prometheus, alertmanager, amtool.
# Debian's packages are unpacked into .tools/ (git ignores it), not installed: no root, no service, nothing on the system.
# Running it again fetches nothing. Messages go to standard error.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
tools=$root/.tools

fail() {
    printf 'deploy/tools.sh: %s\n' "$1" >&2
    exit 1
}

# Where a program is: on the system, or in what was fetched earlier. Debian calls its Alertmanager prometheus-alertmanager.
find_program() {
    case $1 in alertmanager) set -- alertmanager prometheus-alertmanager ;; esac
    for name in "$@"; do
        if command -v "$name"; then
            return 0
        fi
        for found in "$tools"/*/usr/bin/"$name"; do
            if [ -x "$found" ]; then
                printf '%s\n' "$found"
                return 0
            fi
        done
    done
    return 1
}

# Into a directory that a failure leaves behind unused; one that has its package's name is complete.
unpack() {
    mkdir -p "$tools"
    work=$(mktemp -d "$tools/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work" # apt fetches as a user of its own when root starts it
    if ! { (cd "$work" && apt-get download "$1" >&2) && dpkg -x "$work/$1"_*.deb "$work/tree"; }; then
        rm -rf "$work"
        return 1
    fi
    if [ -d "$work/tree/usr/share/prometheus/alertmanager" ]; then
        settle_alertmanager "$work/tree/usr/bin/alertmanager"
    fi
    rm -rf "${tools:?}/$1"
    mv "$work/tree" "$tools/$1"
    rm -rf "$work"
}

# Debian's Alertmanager opens its templates under /usr/share and nowhere else. Unpacked, it gets a /usr/share of its own that
# nobody else sees; the process stays one, so that it ends by its pid.
settle_alertmanager() {
    cat >"$1" <<'EOF'
#!/bin/sh
# Written by deploy/tools.sh.
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
export here
exec unshare --map-root-user --mount sh -c '
    mount -t tmpfs none /usr/share && mkdir /usr/share/prometheus &&
    ln -s "$here/share/prometheus/alertmanager" /usr/share/prometheus/alertmanager &&
    exec "$here/bin/prometheus-alertmanager" "$@"' alertmanager "$@"
EOF
    chmod 755 "$1"
}

runs() {
    "$(find_program "$1")" --version >/dev/null 2>&1
}

fetch() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
        fail "no $1 here and no apt to fetch it with; install Prometheus 2.42 and Alertmanager 0.25 or later (promtool and amtool are part of them)"
    fi
    case $1 in
        # promtool is a package of its own from Debian 13 on, and part of prometheus before.
        promtool) packages="prometheus promtool" ;;
        prometheus) packages="prometheus" ;;
        alertmanager | amtool) packages="prometheus-alertmanager" ;;
        *) fail "no program of this name: $1" ;;
    esac
    for package in $packages; do
        unpack "$package" || fail "apt-get could not fetch the package $package; run apt-get update first"
        if find_program "$1"; then
            runs "$1" && return 0
            rm -rf "${tools:?}/$package"
            fail "$1 of Debian's package $package does not run unpacked (no user namespaces here?); install the package"
        fi
    done
    fail "$1 is not in Debian's package $packages"
}

for program in "${@:-promtool}"; do
    find_program "$program" || fetch "$program"
done
