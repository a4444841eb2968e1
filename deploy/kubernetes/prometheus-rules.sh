#!/bin/sh
# Prints deploy/prometheus/rules as PrometheusRule objects for the Prometheus operator; the files stay the only copy:
#
#   deploy/kubernetes/prometheus-rules.sh | kubectl apply --namespace deepseek-meter --filename -
#
# An argument is a label the operator selects rules by: prometheus-rules.sh release=kube-prometheus-stack
set -eu

rules=$(CDPATH='' cd -- "$(dirname -- "$0")/../prometheus/rules" && pwd)
label=${1:-}
case $label in
'' | ?*=?*) ;;
*)
    printf 'prometheus-rules.sh: expected a label as NAME=VALUE, got %s\n' "$label" >&2
    exit 2
    ;;
esac

for file in "$rules"/*.yml; do
    printf -- '---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n'
    printf '  name: deepseek-meter-%s\n  labels:\n    app.kubernetes.io/name: deepseek-meter\n' "$(basename "$file" .yml)"
    if [ -n "$label" ]; then
        printf '    %s: "%s"\n' "${label%%=*}" "${label#*=}"
    fi
    printf 'spec:\n'
    sed 's/^\(.\)/  \1/' "$file"
done
