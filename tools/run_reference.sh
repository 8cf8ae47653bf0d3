#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Repeats the reference run of configs/reference.toml and prints its perplexities beside the recorded ones.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

usage() {
    cat <<'TEXT'
Usage: tools/run_reference.sh FOLDER [--prepare-only] [ARGUMENTS OF 'fedspallm prune']

FOLDER holds the reference's token files (*.calibration.h5, *.test.h5) and its results.json.
Copies the token files to data/reference, makes models/smollm2-135m-f32, prunes with
configs/reference.toml on two MPI ranks and compares (tools/compare_reference.py).
  --prepare-only   stop before pruning
TEXT
}

fail() {
    printf 'run_reference: %s\n' "$1" >&2
    exit 2
}

case "${1:-}" in
-h | --help) usage && exit 0 ;;
'') usage >&2 && exit 2 ;;
esac
reference="$1"
shift
prepare_only=false
if [[ "${1:-}" == --prepare-only ]]; then
    prepare_only=true
    shift
fi
[[ -f "$reference/results.json" ]] || fail "no results.json in $reference"

"$root/tools/install-dependencies.sh" --model
mkdir -p "$root/data/reference"
for file in "$reference"/*.h5; do
    [[ -e "$file" ]] || fail "no token files (*.h5) in $reference"
    target="$root/data/reference/$(basename "$file")"
    cmp -s "$file" "$target" || install -m 644 "$file" "$target"
done
"$root/tools/gguf_to_huggingface.py" quickstart "$root/models/smollm2-135m-f32" --dtype f32
$prepare_only && exit 0

program="$root/build/release/fedspallm"
[[ -x "$program" ]] || fail "$program is missing; build first: cmake --preset release && cmake --build --preset release"
# shellcheck source-path=SCRIPTDIR source=mpi-environment.sh
source "$root/tools/mpi-environment.sh" 2
mpirun -np 2 "$program" prune "$root/configs/reference.toml" "$@"
exec "$root/tools/compare_reference.py" "$root/runs/reference/summary.json" "$reference/results.json"
