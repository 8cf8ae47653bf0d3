#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Repeats the reference run of configs/reference.toml and prints its perplexities beside the recorded ones.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

usage() {
    cat <<'TEXT'
Usage: tools/run_reference.sh FOLDER [--prepare-only | --all] [ARGUMENTS OF 'fedspallm prune']

FOLDER holds the reference's token files (*.calibration.h5, *.test.h5) and its results.json.
Copies the token files to data/reference, makes models/smollm2-135m-f32, prunes with
configs/reference.toml on two MPI ranks and compares (tools/compare_reference.py).
  --prepare-only   stop before pruning
  --all            also the reference's other rows (merge without expansion, plain mean, pooled data,
                   magnitude), and the same runs with two other orders of summation (the rounding floor)
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
prepare_only=false all=false
case "${1:-}" in
--prepare-only) prepare_only=true && shift ;;
--all) all=true && shift ;;
esac
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

runs="$root/runs" # of every run, under its own name
declare -a compared=() floor=()

# prune_row NAME CONFIG ARGUMENTS...: one run, in runs/NAME; a finished one is left alone.
prune_row() {
    local name="$1" config="$2"
    shift 2
    printf '\n== %s\n' "$name"
    mpirun -np 2 "$program" prune "$root/configs/$config.toml" --set run.dir="$runs/$name" "$@"
}

alone=(--set report.standalone=false --set run.keep_clients=false) # stand-alone rows come from the first run

# all_rows SUFFIX: the rows beside the first, under names that end in SUFFIX.
all_rows() {
    local suffix="$1"
    shift
    prune_row "reference-noexpand$suffix" reference "${alone[@]}" --set federation.mask_expansion=false "$@"
    prune_row "reference-fedavg$suffix" reference "${alone[@]}" --set federation.mask_expansion=false \
        --set federation.aggregation=mean "$@"
    prune_row "reference-central$suffix" reference-central "$@"
    rows=("$runs/reference-noexpand$suffix/summary.json=fedspallm_noexpand"
        "$runs/reference-fedavg$suffix/summary.json=fedavg"
        "$runs/reference-central$suffix/summary.json=central")
}

prune_row reference reference "$@"
compared=("$runs/reference/summary.json")
if $all; then
    all_rows "" "$@"
    prune_row reference-magnitude reference "${alone[@]}" --set prune.method=magnitude \
        --set prune.count=exact "$@" # the published way of counting is SparseGPT's
    compared+=("${rows[@]}" "$runs/reference-magnitude/summary.json=magnitude")
    for kernels in avx2 baseline; do
        export FEDSPALLM_ISA=$kernels
        prune_row "reference-floor-$kernels" reference "$@"
        all_rows "-floor-$kernels" "$@"
        floor+=("$runs/reference-floor-$kernels/summary.json" "${rows[@]}")
    done
fi
exec "$root/tools/compare_reference.py" "$reference/results.json" "${compared[@]}" --floor "${floor[@]}"
