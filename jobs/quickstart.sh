#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# From a fresh Debian 12 machine to a pruned model: see --help.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ranks=2

usage() {
    cat <<'TEXT'
Usage: jobs/quickstart.sh [ARGUMENTS OF 'fedspallm prune']

Installs what is missing, builds, makes a small language model (SmolLM2-135M) and the token files of
four clients from texts in Debian packages, then prunes the model federatedly on two MPI ranks and
prints a table of perplexities. Results: runs/quickstart. About 150 MB are downloaded the first time.
Every step is skipped when its output is complete; a finished run is left alone: --restart runs it again.

Examples: jobs/quickstart.sh
          jobs/quickstart.sh --dry-run
          jobs/quickstart.sh --restart --set prune.sparsity=0.6
TEXT
}

step() { printf '\n== %s\n' "$1"; }

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    usage
    exit 0
fi

step "1/4 Dependencies"
"$root/tools/install-dependencies.sh" --model --texts

step "2/4 Build"
mkdir -p "$root/build"
(cd "$root" && cmake --preset release >build/configure.log 2>&1) || {
    cat "$root/build/configure.log" >&2
    printf 'quickstart: cmake could not configure the project; its messages stand above\n' >&2
    exit 2
}
(cd "$root" && cmake --build --preset release)

step "3/4 Model and token files"
"$root/tools/make_quickstart_data.sh"

step "4/4 Prune: $ranks MPI ranks, 4 clients"
# shellcheck source-path=SCRIPTDIR source=../tools/mpi-environment.sh
source "$root/tools/mpi-environment.sh" "$ranks"
binding=()
threads=()
if ((cores >= 2 * ranks)); then
    # Several cores for each rank: no binding to one core, and as many threads as there are cores.
    binding=(--bind-to none)
    threads=(--set "run.threads=$((cores / ranks))")
fi
mpirun -np "$ranks" "${binding[@]}" \
    "$root/build/release/fedspallm" prune "$root/configs/quickstart.toml" "${threads[@]}" "$@"
"$root/jobs/make-report.sh" "$root/configs/quickstart.toml" "$@"
