#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs a config on the cores of one machine and stops cleanly on Ctrl-C or TERM: see --help.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

usage() {
    cat <<'TEXT'
Usage: jobs/workstation.sh RANKS CONFIG.toml [ARGUMENTS OF 'fedspallm prune']

Starts RANKS MPI ranks, each with its share of the cores. On TERM or one Ctrl-C the run writes a
checkpoint and ends with status 75 in status.json; the same command goes on from there. A second
Ctrl-C stops at once. FEDSPALLM names another program than build/release/fedspallm.

Example: jobs/workstation.sh 4 configs/quickstart.toml
TEXT
}

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    usage
    exit 0
fi
if (($# < 2)) || [[ ! "$1" =~ ^[1-9][0-9]*$ ]]; then
    usage >&2
    exit 2
fi
ranks="$1" config="$2"
shift 2
program="${FEDSPALLM:-$root/build/release/fedspallm}"
if [[ ! -x "$program" ]]; then
    printf 'workstation: %s is missing; build it: cmake --preset release && cmake --build --preset release\n' \
        "$program" >&2
    exit 2
fi

# shellcheck source-path=SCRIPTDIR source=../tools/mpi-environment.sh
source "$root/tools/mpi-environment.sh" "$ranks"
threads=()
if ((cores >= 2 * ranks)); then
    threads=(--set "run.threads=$((cores / ranks))")
fi
# mpirun would kill its ranks one second after a TERM. They get USR2 instead: checkpoint and end.
export OMPI_MCA_odls_base_sigkill_timeout=5

# mpirun gets a process group of its own, so that a Ctrl-C comes to this script only.
set -m
mpirun -np "$ranks" --bind-to none "$program" prune "$config" "${threads[@]}" "$@" </dev/null &
job=$!
set +m

stops=0
# shellcheck disable=SC2317 # called by the trap
stop() {
    signalled=true
    stops=$((stops + 1))
    if ((stops == 1)); then
        printf '\nworkstation: asking the run to write a checkpoint and end (again: stop now)\n' >&2
        kill -USR2 "$job" 2>/dev/null || :
    else
        kill -TERM "$job" 2>/dev/null || :
    fi
}
trap stop INT TERM

signalled=true
while $signalled; do
    signalled=false
    wait "$job" && status=0 || status=$?
done
if ((status == 0)); then "$root/jobs/make-report.sh" "$config" "$@"; fi
exit "$status"
