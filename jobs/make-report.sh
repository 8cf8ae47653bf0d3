#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# After a finished run: writes report.html into its run directory. Called by the other scripts; nothing to change here.
# It never fails: a run is good without a report.
# Usage: make-report.sh CONFIG.toml [ARGUMENTS OF 'fedspallm prune']   (words before CONFIG.toml are skipped)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
config='' dir=''
for word in "$@"; do
    case "$word" in
    *run.dir=*) dir="${word#*run.dir=}" ;;
    *.toml) config="${config:-$word}" ;;
    --dry-run | -h | --help) exit 0 ;;
    esac
done
[[ -n "$config" ]] && command -v python3 >/dev/null || exit 0

# --set run.dir=DIR is relative to the config's folder, as in the config itself.
if [[ -n "$dir" && "$dir" != /* ]]; then dir="$(dirname "$config")/$dir"; fi
written="$(python3 "$root/tools/report.py" "${dir:-$config}" 2>&1 | tail -n 1)" && printf 'report       %s\n' "$written" ||
    printf 'no report.html: %s\n' "$written"
exit 0
