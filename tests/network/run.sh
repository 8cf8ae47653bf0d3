#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Exchanges between separate hosts with limited cables: see --help.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

usage() {
    cat <<'TEXT'
Usage: tests/network/run.sh [--measure | TESTS...]

Makes four hosts out of network namespaces on this machine, joined by a switch with limited bandwidth, runs the release
build on them and takes them away again. Half a minute. The machine's own network is left alone.
  --measure   no tests: a table of seconds and bytes at 100 Mbit/s and 1 Gbit/s (some minutes on an idle machine)
Status 77: skipped, because this machine does not permit it (no root, no iproute2); the reason is printed.
FEDSPALLM_PROGRAM names another program than build/release/fedspallm.
TEXT
}

case "${1:-}" in
-h | --help) usage && exit 0 ;;
esac

if ! "$root/tools/install-dependencies.sh" --network; then
    printf 'skipped: iproute2 cannot be installed here\n'
    exit 77
fi
# shellcheck source-path=SCRIPTDIR source=../../tools/mpi-environment.sh
source "$root/tools/mpi-environment.sh" 4
if [[ "${1:-}" == --measure ]]; then
    exec python3 "$root/tests/network/measure.py"
fi
exec python3 "$root/tests/network/test_network.py" "$@"
