#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is missing, builds and runs the tests: see --help.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

usage() {
    cat <<'TEXT'
Usage: tests/run.sh [--quick | --long | --slurm]

Installs what is missing, builds the preset `release` and runs its tests (unit, mpi, e2e, tools). Where CUDA's
compiler is installed, the program and the GPU tests are built with it (preset `cuda`, one architecture). Then
a minute of fuzzing, and the tests again with the address and undefined-behaviour sanitizers (preset `asan`).
  --quick   only the preset release
  --long    also the tests labelled `long`
  --slurm   build the preset release and run the job files on a Slurm of its own, nothing else (part of a plain run, too)
A test that cannot run here (no GPU, no Python environment) is shown as skipped. The last lines say for each step how
many tests passed, failed and were skipped.
TEXT
}

quick=false long=false slurm_only=false
case "${1:-}" in
'') ;;
--quick) quick=true ;;
--long) long=true ;;
--slurm) slurm_only=true ;;
-h | --help) usage && exit 0 ;;
*) usage >&2 && exit 2 ;;
esac

# Tests start up to 4 ranks on whatever this machine has, so waiting ranks must always give way.
# shellcheck source-path=SCRIPTDIR source=../tools/mpi-environment.sh
source tools/mpi-environment.sh 4
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1

failed=()
summary=()

# Runs the tests of a preset; what came of them goes to the summary, a failure is noted and the next step goes on.
run_tests() {
    local name="$1" report="$root/build/tests-$1.xml"
    shift
    rm -f "$report"
    ctest "$@" --output-junit "$report" || failed+=("$name")
    summary+=("$(python3 tests/summarize.py "$name" "$report")")
}

# Compiles and links the CUDA backend for one architecture; its tests run where there is a GPU.
cuda() {
    printf '\n== cuda: configure and build\n'
    if ! command -v nvcc >/dev/null && [[ ! -x /usr/local/cuda/bin/nvcc ]]; then
        printf 'skipped: no nvcc here\n'
        return
    fi
    if ! cmake --preset cuda -DFEDSPALLM_CUDA_ARCHITECTURES=90 >build/configure-cuda.log 2>&1; then
        cat build/configure-cuda.log >&2
        failed+=(cuda)
        return
    fi
    if ! cmake --build --preset cuda --target fedspallm backend_gpu_test pipeline_gpu_test; then
        failed+=(cuda)
        return
    fi
    run_tests cuda --preset cuda --label-regex '^gpu$'
}

# Configures, builds and tests one preset.
test_preset() {
    local preset="$1"
    printf '\n== %s: configure and build\n' "$preset"
    cmake --preset "$preset" >"build/configure-$preset.log" 2>&1 || {
        cat "build/configure-$preset.log" >&2
        printf 'tests/run.sh: configuring the preset %s failed; see above\n' "$preset" >&2
        exit 2
    }
    cmake --build --preset "$preset"
    printf '\n== %s: tests\n' "$preset"
    run_tests "$preset" --preset "$preset" --parallel "$cores"
}

# A few seconds of each fuzz target; the long runs are by hand (docs/fuzzing.md).
fuzz() {
    printf '\n== fuzz\n'
    tools/install-dependencies.sh --fuzz || printf 'tests/run.sh: clang for fuzzing cannot be installed here\n'
    local status=0
    tests/fuzz/run.sh || status=$?
    # 77: skipped, with its own line
    if ((status != 0 && status != 77)); then failed+=(fuzz); fi
}

# The job files on a Slurm that the tests start and end; needs the release build.
slurm() {
    printf '\n== slurm\n'
    local status=0 log=build/tests-slurm.log
    tests/slurm/run.sh 2>&1 | tee "$log" || status=$?
    if ((status == 77)); then
        summary+=("slurm: 0 tests passed, 0 failed, 1 skipped out of 1")
        return
    fi
    local passed ran
    passed="$(grep -c '\.\.\. ok$' "$log" || :)"
    ran="$(sed -n 's/^Ran \([0-9]*\) tests\?.*/\1/p' "$log")"
    summary+=("slurm: $passed tests passed, $((${ran:-0} - passed)) failed, 0 skipped out of ${ran:-0}")
    ((status == 0)) || failed+=(slurm)
}

printf '== dependencies\n'
mkdir -p build
tools/install-dependencies.sh --python
if $slurm_only; then
    cmake --preset release
    cmake --build --preset release --target fedspallm
    slurm
    quick=true
else
    test_preset release
fi
if $long; then
    printf '\n== release: long tests\n'
    run_tests release-long --test-dir build/release --label-regex long --output-on-failure
fi
if ! $quick; then
    slurm
    cuda
    fuzz
    test_preset asan
fi

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"

if ((${#failed[@]})); then
    printf '\ntests/run.sh: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
