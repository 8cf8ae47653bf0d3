#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the fuzz targets and runs each for a while: see --help and docs/fuzzing.md.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
here="$root/tests/fuzz"
build="${FEDSPALLM_FUZZ_BUILD:-$root/build/fuzz}"

usage() {
    cat <<'TEXT'
Usage: tests/fuzz/run.sh [--runs N] [--list] [--build] [--seeds] [SECONDS] [TARGET...]

Builds the preset `fuzz` and runs each target (default: all) for SECONDS (default: 4) from the seeds in
tests/fuzz/corpus. Exit 1 where a target found something; the input that shows it lies in build/fuzz/findings.
  --runs N   N executions of each target instead, however long they take, each with fewer of the sanitizers' costly
             checks; then what was found once more with all of them
  --list     only name the targets
  --build    only build them
  --seeds    only write the seeds again that the program's own encoders make (where a format changed)
Exit 77, with a line that says so, where clang 16 with libFuzzer is missing (tools/install-dependencies.sh --fuzz).
TEXT
}

targets() {
    local file
    for file in "$here"/*_fuzz.cpp; do basename "$file" _fuzz.cpp; done
}

runs=0 build_only=false seeds=false seconds=4 chosen=()
while (($#)); do
    case "$1" in
    --runs) runs="${2:?--runs needs a number}" && shift ;;
    --list) targets && exit 0 ;;
    --build) build_only=true ;;
    --seeds) seeds=true ;;
    -h | --help) usage && exit 0 ;;
    [0-9]*) seconds="$1" ;;
    -*) usage >&2 && exit 2 ;;
    *) chosen+=("$1") ;;
    esac
    shift
done
((${#chosen[@]})) || mapfile -t chosen < <(targets)

has_libfuzzer() {
    command -v clang++-16 >/dev/null || return 1
    local runtime
    runtime="$(clang++-16 -print-runtime-dir)"
    compgen -G "$runtime/libclang_rt.fuzzer*.a" >/dev/null
}

if ! has_libfuzzer; then
    echo "tests/fuzz/run.sh: skipped: clang 16 with libFuzzer is missing; tools/install-dependencies.sh --fuzz installs it"
    exit 77
fi

mkdir -p "$build"
(cd "$root" && cmake --preset fuzz -B "$build") >"$build/configure.log" 2>&1 || {
    cat "$build/configure.log" >&2
    exit 2
}
if $seeds; then
    cmake --build "$build" --target fuzz_make_seeds
    ASAN_OPTIONS=detect_leaks=0 "$build/fuzz/make_seeds" "$here/corpus"
    exit 0
fi
cmake --build "$build" --target "${chosen[@]/#/fuzz_}"
if $build_only; then exit 0; fi

dictionary_of() {
    case "$1" in
    config) echo "$here/dictionaries/toml.dict" ;;
    architecture | bitmask | block_note | manifest | model_directory | resume_file | run_file | safetensors) echo "$here/dictionaries/json.dict" ;;
    esac
}

# What a long run leaves out: the use of a stack frame after its function returned, leaks after each execution (they
# are looked for at the end), long stacks of allocations, a quarantine that is larger than what one execution frees.
# Inputs are chosen without the statistics of rare features. This halves the time of an execution.
quick_sanitizers="detect_stack_use_after_return=0:malloc_context_size=1:quarantine_size_mb=4:thread_local_quarantine_size_kb=64"
quick_arguments=(-entropic=0 -detect_leaks=0)

# Runs one target; its log stays in the build folder. Inputs found on the way are kept there for the next time.
run_target() {
    local name="$1" dictionary log="$build/$1.log"
    dictionary="$(dictionary_of "$name")"
    local -a arguments=(-max_len=4096 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=16 -print_final_stats=1
        -artifact_prefix="$build/findings/$name-")
    if [[ -n $dictionary ]]; then arguments+=(-dict="$dictionary"); fi
    local -a folders=("$build/found/$name" "$here/corpus/$name")
    mkdir -p "$build/found/$name" "$build/findings"
    local status=0
    if ((runs > 0)); then
        ASAN_OPTIONS="$quick_sanitizers" "$build/fuzz/$name" "${arguments[@]}" "${quick_arguments[@]}" -runs="$runs" \
            "${folders[@]}" >"$log" 2>&1 || status=$?
        ((status != 0)) || "$build/fuzz/$name" "${arguments[@]}" -runs=0 "${folders[@]}" >"$log.again" 2>&1 || {
            status=$?
            cat "$log.again" >>"$log"
        }
    else
        "$build/fuzz/$name" "${arguments[@]}" -max_total_time="$seconds" "${folders[@]}" >"$log" 2>&1 || status=$?
    fi
    awk -v name="$name" -v status="$status" '
        /^stat::number_of_executed_units/ { units = $2 }
        /^stat::average_exec_per_sec/ { rate = $2 }
        /^stat::peak_rss_mb/ { rss = $2 }
        match($0, /cov: [0-9]+/) { coverage = substr($0, RSTART + 5, RLENGTH - 5) }
        END { printf "%-16s %10d executions %7d/s  coverage %5d  peak %4d MB  %s\n", name, units, rate, coverage, rss,
                     status == 0 ? "nothing found" : "FOUND SOMETHING" }' "$log"
    ((status == 0)) || {
        grep -m5 -E '^fuzz: |ERROR: |runtime error|Test unit written' "$log" || tail -n 20 "$log"
        return 1
    }
}

failed=()
for name in "${chosen[@]}"; do
    run_target "$name" || failed+=("$name")
done
if ((${#failed[@]})); then
    echo "tests/fuzz/run.sh: something was found by: ${failed[*]} (logs and inputs in $build)" >&2
    exit 1
fi
