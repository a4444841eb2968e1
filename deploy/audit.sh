#!/bin/sh
# Asks for known vulnerabilities of what is pinned, with pip-audit. Exit 0: none known, or nobody to ask (which is said);
# 1: some are known; 2: pip-audit is not there or failed in another way.
#
#   deploy/audit.sh [REQUIREMENTS ...]        PIP_AUDIT=... is the command, pip-audit by default
set -u
cd "$(dirname "$0")/.." || exit 2
[ $# -gt 0 ] || set -- requirements.txt requirements-dev.txt
audit=${PIP_AUDIT:-pip-audit}
if ! command -v "${audit%% *}" >/dev/null 2>&1; then
    echo "audit: pip-audit is not there: pip install pip-audit (in an environment of its own)" >&2
    exit 2
fi
for file in "$@"; do
    said=$($audit --require-hashes --disable-pip --no-deps --progress-spinner off -r "$file" 2>&1)
    code=$?
    echo "$said"
    unknown=$(echo "$said" | grep -c "could not be audited")
    case $code:$said in
    0:*"could not be audited"*)  # an index that mirrors packages and knows nothing of vulnerabilities
        if [ "$unknown" -lt "$(grep -c '^[A-Za-z0-9][^;]*==[^;]*$' "$file")" ]; then
            echo "audit: $unknown packages of $file could not be asked about" >&2
            exit 2
        fi
        echo "audit: NOT CHECKED: the index here knows nothing of vulnerabilities, so nobody could be asked about $file" >&2
        exit 0
        ;;
    0:*) ;;
    *ConnectionError* | *"Could not connect"* | *"Connection refused"* | *"name resolution"* | *"Name or service not known"* | \
        *"Network is unreachable"* | *"Max retries exceeded"* | *"timed out"* | *ProxyError*)
        echo "audit: NOT CHECKED: the network is closed here, so nobody could be asked about $file" >&2
        exit 0
        ;;
    1:*) exit 1 ;;
    *) exit 2 ;;
    esac
done
