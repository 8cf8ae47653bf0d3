#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The tests of jobs/ on a Slurm of their own: see --help.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

usage() {
    cat <<'TEXT'
Usage: tests/slurm/run.sh [TESTS...]

Installs Slurm and munge where they are missing, starts them on the loopback as this user in a temporary folder,
runs jobs/*.sbatch on them with the release build and ends them again. About two minutes.
Status 77: skipped, because Slurm cannot be installed or started here; the reason is printed.
FEDSPALLM_PROGRAM names another program than build/release/fedspallm.

Example: tests/slurm/run.sh OnSlurm.test_a_cpu_job_on_two_nodes
TEXT
}

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    usage
    exit 0
fi

if ! "$root/tools/install-dependencies.sh" --slurm --python; then
    printf 'skipped: Slurm cannot be installed here\n'
    exit 77
fi
# shellcheck source-path=SCRIPTDIR source=../../tools/mpi-environment.sh
source "$root/tools/mpi-environment.sh" 4
exec python3 "$root/tests/slurm/test_slurm.py" "$@"
