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
the job files on a Slurm of their own, exchanges between network namespaces with limited bandwidth (as root),
a minute of fuzzing, and the tests again with the address and undefined-behaviour sanitizers (preset `asan`).
  --quick   only the preset release
  --long    also the tests labelled `long` (soak, the reference run's table, valgrind: each is skipped where it lacks what
            it needs), more kills in e2e.resume, the thread sanitizer (preset `tsan`) and 100,000 executions of each fuzz target: hours
  --slurm   build the preset release and run the job files on a Slurm of its own, nothing else (part of a plain run, too)
A test that cannot run here (no GPU, no Python environment) is shown as skipped. The last lines say for each step how
many tests passed, failed and were skipped.
TEXT
}

quick=false long=false slurm_only=false
(($# <= 1)) || { usage >&2 && exit 2; }
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
cuda_tests=(backend_gpu_test pipeline_gpu_test device_run_gpu_test)

# Runs the tests of a preset; what came of them goes to the summary, a failure is noted and the next step goes on.
run_tests() {
    local name="$1" report="$root/build/tests-$1.xml"
    shift
    rm -f "$report"
    # Of what passes, too, all that is printed: it tells what was skipped.
    ctest "$@" --test-output-size-passed 1000000 --output-junit "$report" || failed+=("$name")
    summary+=("$(python3 tests/summarize.py "$name" "$report")")
}

# A step that cannot run here.
note_skipped() {
    summary+=("$1: 0 tests passed, 0 failed, 1 skipped out of 1")
}

has_nvcc() {
    command -v nvcc >/dev/null || [[ -x /usr/local/cuda/bin/nvcc ]]
}

# Configures a preset. A folder that is made here compiles several files as one, in half the time; one that is
# there stays as it is, for those who change a file and build again.
configure() {
    local preset="$1" log="build/configure-$1.log" together=()
    [[ -f "build/$preset/CMakeCache.txt" ]] || together=(-DFEDSPALLM_UNITY=ON)
    cmake --preset "$preset" "${together[@]}" "${@:2}" >"$log" 2>&1 || {
        cat "$log" >&2
        printf 'tests/run.sh: configuring the preset %s failed; see above\n' "$preset" >&2
        return 1
    }
}

build_cuda() {
    configure cuda -DFEDSPALLM_CUDA_ARCHITECTURES=90 || return 1
    cmake --build --preset cuda --target fedspallm "${cuda_tests[@]}"
}

# Compiles and links the CUDA backend for one architecture; its tests run where there is a GPU.
cuda() {
    printf '\n== cuda: build\n'
    if ! has_nvcc; then
        printf 'skipped: no nvcc here\n'
        note_skipped cuda
    elif build_cuda; then
        run_tests cuda --preset cuda --label-regex '^gpu$'
    else
        summary+=("cuda: the build failed")
        failed+=(cuda)
    fi
}

build_preset() {
    local preset="$1"
    printf '\n== %s: configure and build\n' "$preset"
    configure "$preset" || exit 2
    cmake --build --preset "$preset" "${@:2}"
}

# Configures, builds and tests one preset, so many tests at a time.
test_preset() {
    local preset="$1" at_once="$2"
    build_preset "$preset"
    printf '\n== %s: tests\n' "$preset"
    run_tests "$preset" --preset "$preset" --parallel "$at_once"
}

# What later steps build, at the lowest priority: many tests of the release wait more than they compute. Where
# something fails, its own step says it again.
build_ahead() {
    build_preset asan
    if has_nvcc; then build_cuda; fi
    tests/fuzz/run.sh --build
}

# A few seconds of each fuzz target, or as many executions as the arguments say (docs/fuzzing.md).
fuzz() {
    printf '\n== fuzz\n'
    local status=0 log="build/tests-fuzz.log"
    tests/fuzz/run.sh "$@" 2>&1 | tee "$log" || status=$?
    if ((status == 77)); then # its own line says why
        note_skipped fuzz
        return
    fi
    local passed ran
    passed="$(grep -c ' MB  nothing found$' "$log" || :)"
    ran="$(tests/fuzz/run.sh --list | wc -l)"
    summary+=("fuzz: $passed tests passed, $((ran - passed)) failed, 0 skipped out of $ran")
    ((status == 0)) || failed+=(fuzz)
}

# A suite of its own script tests/NAME/run.sh, which needs the release build: what came of it goes to the summary.
script_suite() {
    local name="$1"
    printf '\n== %s\n' "$name"
    local status=0 log="build/tests-$name.log"
    "tests/$name/run.sh" 2>&1 | tee "$log" || status=$?
    if ((status == 77)); then
        note_skipped "$name"
        return
    fi
    local passed skipped ran
    passed="$(grep -c '\.\.\. ok$' "$log" || :)"
    ran="$(sed -n 's/^Ran \([0-9]*\) tests\?.*/\1/p' "$log")"
    # unittest's last line: OK (skipped=1), FAILED (failures=2, skipped=1)
    skipped="$(sed -n 's/^\(OK\|FAILED\) (.*skipped=\([0-9]*\).*/\2/p' "$log")"
    summary+=("$name: $passed tests passed, $((${ran:-0} - passed - ${skipped:-0})) failed, ${skipped:-0} skipped out of ${ran:-0}")
    mapfile -t -O "${#summary[@]}" summary < <(sed -n "s/^\[skipped\] /  skipped within $name: /p" "$log")
    ((status == 0)) || failed+=("$name")
}

printf '== dependencies\n'
mkdir -p build
tools/install-dependencies.sh --python
if $long; then export FEDSPALLM_KILLS=10; fi
if $slurm_only; then
    build_preset release --target fedspallm
    script_suite slurm
elif $quick; then
    test_preset release "$cores"
else
    # Their steps are skipped where these cannot be installed.
    tools/install-dependencies.sh --fuzz --slurm || printf 'tests/run.sh: no Slurm or no clang for fuzzing here\n'
    build_preset release
    (renice -n 19 "$BASHPID" && build_ahead) >build/build-ahead.log 2>&1 &
    ahead=$!
    test_preset release "$cores"
    if $long; then
        printf '\n== release: long tests\n'
        run_tests release-long --test-dir build/release --label-regex long --output-on-failure
    fi
    script_suite slurm
    script_suite network
    wait "$ahead" || :
    cuda
    if $long; then fuzz --runs 100000; else fuzz; fi
    test_preset asan "$((cores + 1))" # nothing else runs now, and ranks wait for each other
    if $long; then test_preset tsan "$cores"; fi
fi

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"

if ((${#failed[@]})); then
    printf '\ntests/run.sh: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
