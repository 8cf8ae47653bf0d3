#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests, checks and times the CUDA backend on this machine's GPU: see --help.
set -uo pipefail

usage() {
    cat <<'TEXT'
Usage: tests/gpu/run.sh [--bundle DIR] [--parts LIST] [--seconds N] [--out DIR] [--quick]

Runs on a machine with a GPU, prints a report (Markdown) and leaves it in DIR. It takes the programs from the
bundle (tests/gpu/bundle.sh made it; default: build/gpu-bundle if that is there) or else builds the preset
`cuda` here, for the GPU that is here. A part that fails does not stop the others. Parts, all by default:
  tests      the tests labelled `gpu`, updates over NCCL among them (between GPUs where there are several)
  bench      `bench sparsegpt` in fp32, f16 and bf16, sparse products beside dense ones
  published  the published SparseGPT code on the same matrices (its checkout is in the bundle; needs torch)
  client     one client of a LLaMA-2-7B with made-up weights, 128 x 2048 tokens, through `prune`: time of each
             phase, peak of the GPU's memory beside the forecast (14 GB in /dev/shm, the run as much again)
  sanitizer  compute-sanitizer's four tools over the backend's tests and the merge of updates
Options:
  --parts LIST   with commas between
  --seconds N    for everything together; what no longer fits is not run and counts as failed
  --out DIR      default: $OUT, or build/gpu-report
  --quick        small shapes only
Where the GPU is lent for ten minutes a command: --parts tests,bench, then published,client, then sanitizer,
each with --seconds 560.
Exit status: 0 all passed, 1 a test or a check failed or did not fit, 2 nothing could be run.
TEXT
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
[[ -x "$here/bin/backend_gpu_test" ]] && bundle="$here" || bundle="$root/build/gpu-bundle"
quick=false parts=tests,bench,published,client,sanitizer seconds=86400 out="${OUT:-$root/build/gpu-report}"
while (($#)); do
    case "$1" in
    --bundle) bundle="${2:?tests/gpu/run.sh: --bundle needs a folder}" && shift ;;
    --parts) parts="${2:?tests/gpu/run.sh: --parts needs a list}" && shift ;;
    --seconds) seconds="${2:?tests/gpu/run.sh: --seconds needs a number}" && shift ;;
    --out) out="${2:?tests/gpu/run.sh: --out needs a folder}" && shift ;;
    --quick) quick=true ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
for part in ${parts//,/ }; do
    [[ " tests bench published client sanitizer " == *" $part "* ]] || { usage >&2 && exit 2; }
done
mkdir -p "$out" || exit 2

# Folders of CUDA's libraries: the toolkit's, then those that PyTorch's packages bring.
cuda_folders() {
    ls -d "${CUDA_HOME:-/usr/local/cuda}/lib64" 2>/dev/null
    command -v python3 >/dev/null && python3 - <<'PY'
import glob
import sys

for folder in sys.path:
    for found in sorted(glob.glob(folder + "/nvidia/*/lib")):
        print(found)
PY
}

alone=(env)
python=(env LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}" python3) # its packages want their own libraries
if [[ -x "$bundle/bin/backend_gpu_test" ]]; then
    bin="$bundle/bin" tools="$bundle/tools"
    # The machine's Python is the project's environment, where there is one at all.
    python=(env LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}" FEDSPALLM_VENV="$(python3 -c 'import sys; print(sys.prefix)' 2>/dev/null)" python3)
    folders="$(cuda_folders | paste -sd:)"
    export LD_LIBRARY_PATH="$bundle/lib${folders:+:$folders}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export FEDSPALLM_TEST_DATA="$bundle/data"
    # A single rank needs no MPI of the machine's own: the bundle's components, and no daemon.
    alone=(env OMPI_MCA_mca_base_component_path="$bundle/openmpi" OMPI_MCA_ess_singleton_isolated=1
        OMPI_MCA_mca_base_component_show_load_errors=0)
    revision="$(paste -sd' ' "$bundle/revision")"
else
    cd "$root" || exit 2
    { cmake --preset cuda -DFEDSPALLM_CUDA_ARCHITECTURES=native &&
        cmake --build --preset cuda; } >build/gpu-build.log 2>&1 || {
        tail -30 build/gpu-build.log >&2
        echo "tests/gpu/run.sh: the preset cuda could not be built here; make a bundle elsewhere with tests/gpu/bundle.sh" >&2
        exit 2
    }
    mkdir -p build/gpu-bin
    ln -sf "$PWD"/build/cuda/tests/{backend,pipeline,device_run}_gpu_test "$PWD"/build/cuda/{backend_bench,fedspallm} build/gpu-bin
    bin="$root/build/gpu-bin" tools="$root/tools"
    revision="$(git rev-parse HEAD)"
fi
missing="$(ldd "$bin"/* 2>/dev/null | awk '/not found/ { print $1 }' | sort -u | paste -sd' ')"
if [[ -n "$missing" ]]; then
    echo "tests/gpu/run.sh: libraries are missing: $missing; found those of CUDA in: $(cuda_folders | paste -sd' ')" >&2
    exit 2
fi
PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin" # compute-sanitizer
log="$(mktemp)" work="" failed=0

# Seconds that a step may take: its own limit, or what is left of all.
limit_of() {
    local left=$((seconds - SECONDS))
    echo $((left < $1 ? left : $1))
}

# check NAME LIMIT COMMAND...: runs a test program or a check, prints its outcome as a row and, when it fails,
# the end of its output. What is skipped has not passed: on this machine it is a failure.
check() {
    local name="$1" limit begin=$SECONDS status
    limit="$(limit_of "$2")"
    shift 2
    if ((limit < 10)); then
        printf '| %s | not run: no time left | | |\n' "$name"
        failed=1
        return
    fi
    timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1
    status=$?
    if ((status == 0)) && grep -q 'SKIPPED' "$log"; then status=skipped; fi
    printf '| %s | %s | %s s | %s |\n' "$name" "$([[ $status == 0 ]] && echo passed || echo "FAILED ($status)")" \
        $((SECONDS - begin)) "$(grep -E '^\[  (PASSED|FAILED)  \]|ERROR SUMMARY|RACECHECK SUMMARY' "$log" | head -3 | paste -sd' ')"
    { printf '\n===== %s\n' "$name" && tail -c 1000000 "$log"; } >>"$out/checks.log"
    [[ $status == 0 ]] && return
    failed=1
    grep -E 'FAILED|Failure|error|Error|hazard' "$log" | head -40
    tail -15 "$log"
}

# measure LIMIT COMMAND...: prints what it prints.
measure() {
    local limit
    limit="$(limit_of "$1")"
    shift
    if ((limit < 10)); then
        echo "not run: no time left: $*"
        failed=1
        return 1
    fi
    timeout --kill-after=10 "$limit" "$@" || {
        echo "FAILED ($?): $*"
        failed=1
        return 1
    }
}

run_tests() {
    printf '\n## Tests\n\n| what | outcome | time | |\n|---|---|---|---|\n'
    check "backend against the reference" 180 "$bin/backend_gpu_test"
    check "models, pruning, sparse products, updates and merges on the device" 240 "$bin/pipeline_gpu_test" \
        --gtest_filter='-*Structured*'
    check "one rank, three clients, updates over NCCL to itself" 120 "${alone[@]}" "$bin/device_run_gpu_test"
    local gpus
    gpus="$(nvidia-smi --list-gpus | wc -l)"
    if ((gpus > 1)) && command -v mpirun >/dev/null; then
        check "a rank on each of $gpus GPUs, updates over NCCL" 180 mpirun --oversubscribe -np "$gpus" "$bin/device_run_gpu_test"
    else
        printf '| updates over NCCL between GPUs | not run: %s GPU, mpirun %s | | |\n' "$gpus" \
            "$(command -v mpirun >/dev/null && echo found || echo missing)"
    fi
    # cuSPARSELt need not be here.
    printf '\nProducts with 2:4 matrices: %s\n' "$(timeout 60 "$bin/pipeline_gpu_test" --gtest_filter='*Structured*' 2>&1 |
        grep -E '^\[ +(PASSED|FAILED|SKIPPED) +\]|cuSPARSELt|cusparseLt' | sort -u | paste -sd' ')"
}

run_bench() {
    printf '\n## Benchmarks\n'
    local shapes=(smollm2-135m) shape backend
    $quick || shapes=(llama-2-7b smollm2-135m)
    for shape in "${shapes[@]}"; do
        for backend in cuda cuda-bf16 cuda-f16; do
            printf '\n### %s, %s\n\n' "$shape" "$backend"
            measure 240 "$bin/backend_bench" sparsegpt 1 5 "$backend" "$shape"
            [[ $backend == cuda-bf16 ]] || { echo && measure 240 "$bin/backend_bench" spmm 1 5 "$backend" "$shape"; }
        done
    done
    printf '\n### fedspallm bench sparsegpt --backend cuda\n\n```\n'
    measure 120 "$bin/fedspallm" bench sparsegpt --backend cuda
    printf '```\n'
}

run_published() {
    printf '\n## The published code, same matrices (beside gram, factorization and sweep of the benchmark)\n\n'
    if [[ ! -f "$bundle/published/sparsegpt.py" ]]; then
        echo "not run: no checkout in the bundle (PUBLISHED=DIR tests/gpu/bundle.sh)"
    else
        measure 300 "${python[@]}" "$here/published.py" --published "$bundle/published" \
            --shape "$($quick && echo smollm2-135m || echo llama-2-7b)"
    fi
}

# Writes the configuration of one client's run; $1: products.
client_config() {
    cat >"$work/client.toml" <<TEXT
[model]
path = "model"
[run]
dir = "run-$1"
backend = "cuda"
products = "$1"
[prune]
sparsity = 0.5
[calibration]
samples = $samples
sequence_length = 2048
sampling = "sequential"
[[client]]
name = "one"
tokens = "tokens.h5"
TEXT
}

# prune_client PRODUCTS [timed]: prunes while the GPU's memory is looked at twice a second. `timed` waits for the
# GPU between phases, so that their seconds are the GPU's own.
prune_client() {
    local watch name="$1${2:+-$2}"
    client_config "$1"
    unset FEDSPALLM_PHASE_TIMES
    [[ "${2:-}" == timed ]] && export FEDSPALLM_PHASE_TIMES=1
    printf '\n### products %s\n\n```\n' "$name"
    measure 60 "${alone[@]}" "$bin/fedspallm" prune "$work/client.toml" --dry-run
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits --loop-ms=500 >"$work/memory" 2>/dev/null &
    watch=$!
    measure 300 "${alone[@]}" "$bin/fedspallm" prune "$work/client.toml"
    kill "$watch" 2>/dev/null
    wait "$watch" 2>/dev/null
    printf '```\n\nmost memory of the GPU in use, by nvidia-smi: %s MiB\n' "$(sort -n "$work/memory" | tail -1)"
    local run="$work/run-$1"
    [[ -f "$run/summary.json" ]] || return
    cp "$run/summary.json" "$out/client-$name-summary.json"
    cp "$run/metrics.jsonl" "$out/client-$name-metrics.jsonl"
    "${python[@]}" - "$run/summary.json" "$work/model/config.json" "$samples" <<'PY'
import json
import sys

summary, model = (json.load(open(path, encoding="utf-8")) for path in sys.argv[1:3])
print("\n```")
for key in ("seconds", "rank_seconds", "time_shares", "peak_gpu_bytes", "transport"):
    print(key, json.dumps(summary.get(key)))
# What each phase has to compute, in flop; all heads have keys of their own.
length, tokens = 2048, 2048 * int(sys.argv[3])
h, m, blocks = model["hidden_size"], model["intermediate_size"], model["num_hidden_layers"]
flop = {
    "forward": tokens * (2 * (4 * h * h + 3 * h * m) + 2 * length * h),
    "hessian": tokens * (3 * h * (h + 1) + m * (m + 1)),
    "factorize": 2 / 3 * (3 * h**3 + m**3),
    "prune": 4 * h**3 + 2 * m * h * h + h * m * m,
}
for phase, work in flop.items():
    seconds = summary["rank_seconds"][0][phase]
    print(f"{phase}: {blocks * work / 1e12:.1f} TFLOP in {seconds:.3f} s, {blocks * work / 1e12 / seconds:.1f} TFLOP/s")
print("```")
PY
    rm -rf "$run"
}

run_client() {
    printf '\n## One client, end to end, in memory\n'
    local shape=llama-2-7b samples=128
    if $quick; then shape=smollm2-135m samples=16; fi
    work="$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)"
    measure 400 "${python[@]}" "$tools/make_synthetic_model.py" --shape "$shape" --out "$work/model" \
        --tokens "$work/tokens.h5" --token-count $((samples * 2048)) || return
    prune_client bf16
    prune_client bf16 timed
    prune_client f32 timed
}

run_sanitizer() {
    printf '\n## compute-sanitizer\n\n| tool | outcome | time | |\n|---|---|---|---|\n'
    # Own kernels only: the libraries' are NVIDIA's, and these tools slow them down a hundredfold.
    local own='-*linear*:*gram*:*inverse*:*Factorization*:*SixteenBit*:*Tf32*:*Copies*:*MemoryThat*:*attention*' tool
    for tool in memcheck racecheck initcheck synccheck; do
        if command -v compute-sanitizer >/dev/null; then
            check "$tool" 300 compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/backend_gpu_test" \
                --gtest_filter="$own"
            check "$tool, updates and merges" 300 compute-sanitizer --tool "$tool" --error-exitcode 9 \
                "$bin/pipeline_gpu_test" --gtest_filter='*Updates*:*Hidden*:*FinishedMerges*'
        else
            printf '| %s | not run: no compute-sanitizer on the PATH | | |\n' "$tool"
        fi
    done
}

main() {
    trap 'rm -rf "$log" ${work:+"$work"}' EXIT
    local part
    printf '# CUDA backend on a GPU\n\n'
    printf -- '- date: %s\n- revision: %s\n' "$(date -u +%Y-%m-%dT%H:%MZ)" "$revision"
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | sed 's/^/- GPU: /'
    printf -- '- command: tests/gpu/run.sh --parts %s\n' "$parts"
    for part in ${parts//,/ }; do
        case "$part" in
        tests) run_tests ;;
        bench) run_bench ;;
        published) run_published ;;
        client) run_client ;;
        sanitizer) run_sanitizer ;;
        esac
    done
    printf '\n%s s in all; %s\n' "$SECONDS" "$( ((failed)) && echo 'something failed' || echo 'nothing failed')"
    exit "$failed"
}

# A pipe, so that the report is whole when this script ends.
main 2>&1 | tee "$out/report.md"
exit "${PIPESTATUS[0]}"
