#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests, checks and times the CUDA backend on this machine's GPU: see --help.
set -uo pipefail

usage() {
    cat <<'TEXT'
Usage: tests/gpu/run.sh [--bundle DIR] [--quick]

Runs on a machine with a GPU and prints a report (Markdown): the tests labelled `gpu` (updates over NCCL among
them, between GPUs where there are several), benchmarks in fp32, f16 and bf16, sparse products beside dense ones,
and compute-sanitizer's four tools over the backend's tests and the merge of updates. It takes the programs from DIR
(tests/gpu/bundle.sh made it; default: build/gpu-bundle if that is there) or else builds the preset `cuda`
here, for the GPU that is here. A part that fails does not stop the others.
  --quick   no compute-sanitizer, the small model's shapes only
Exit status: 0 all passed, 1 a test or a check failed, 2 nothing could be run.
TEXT
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
bundle="$root/build/gpu-bundle" quick=false
while (($#)); do
    case "$1" in
    --bundle) bundle="${2:?tests/gpu/run.sh: --bundle needs a folder}" && shift ;;
    --quick) quick=true ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done

if [[ -x "$bundle/bin/backend_gpu_test" ]]; then
    bin="$bundle/bin"
    export LD_LIBRARY_PATH="$bundle/lib:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export FEDSPALLM_TEST_DATA="$bundle/data"
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
    bin="$root/build/gpu-bin"
    revision="$(git rev-parse HEAD)"
fi
[[ -d "$bin" ]] || exit 2
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
failed=0

# Runs a test program or a check, prints its outcome as a row and, when it fails, the end of its output.
# What is skipped has not passed: on this machine it is a failure.
check() {
    local name="$1" begin=$SECONDS status
    shift
    timeout 600 "$@" >"$log" 2>&1
    status=$?
    if ((status == 0)) && grep -q 'SKIPPED' "$log"; then status=skipped; fi
    printf '| %s | %s | %s s | %s |\n' "$name" "$([[ $status == 0 ]] && echo passed || echo "FAILED ($status)")" \
        $((SECONDS - begin)) "$(grep -E '^\[  (PASSED|FAILED)  \]|ERROR SUMMARY|RACECHECK SUMMARY' "$log" | head -3 | paste -sd' ')"
    [[ $status == 0 ]] && return
    failed=1
    grep -E 'FAILED|Failure|error|Error|hazard' "$log" | head -40
    tail -15 "$log"
}

printf '# CUDA backend on a GPU\n\n'
printf -- '- date: %s\n- revision: %s\n' "$(date -u +%Y-%m-%dT%H:%MZ)" "$revision"
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | sed 's/^/- GPU: /'
printf -- '- command: tests/gpu/run.sh\n\n## Tests\n\n| what | outcome | time | |\n|---|---|---|---|\n'
check "backend against the reference" "$bin/backend_gpu_test"
check "models, pruning, sparse products, updates on the device" "$bin/pipeline_gpu_test"
if command -v mpirun >/dev/null; then
    check "one rank, three clients, updates over NCCL to itself" "$bin/device_run_gpu_test"
else
    printf '| updates over NCCL | not run: no mpirun on the PATH, whose library they need | | |\n'
fi
gpus="$(nvidia-smi --list-gpus | wc -l)"
if ((gpus > 1)) && command -v mpirun >/dev/null; then
    check "a rank on each of $gpus GPUs, updates over NCCL" mpirun --oversubscribe -np "$gpus" "$bin/device_run_gpu_test"
else
    printf '| updates over NCCL between GPUs | not run: %s GPU, mpirun %s | | |\n' "$gpus" \
        "$(command -v mpirun >/dev/null && echo found || echo missing)"
fi

printf '\n## Benchmarks\n'
shapes=(smollm2-135m)
$quick || shapes+=(llama-2-7b)
for shape in "${shapes[@]}"; do
    for backend in cuda cuda-f16 cuda-bf16; do
        printf '\n### %s, %s\n\n' "$shape" "$backend"
        timeout 240 "$bin/backend_bench" sparsegpt 1 5 "$backend" "$shape" || failed=1
        [[ $backend != cuda ]] || { echo && timeout 240 "$bin/backend_bench" spmm 1 5 "$backend" "$shape"; } || failed=1
    done
done
printf '\n### fedspallm bench sparsegpt --backend cuda\n\n```\n'
timeout 120 "$bin/fedspallm" bench sparsegpt --backend cuda || failed=1
printf '```\n'

if ! $quick; then
    printf '\n## compute-sanitizer\n\n| tool | outcome | time | |\n|---|---|---|---|\n'
    # Own kernels only: the libraries' are NVIDIA's, and these tools slow them down a hundredfold.
    own='-*linear*:*gram*:*inverse*:*Factorization*:*SixteenBit*:*Tf32*:*Copies*:*MemoryThat*:*attention*'
    for tool in memcheck racecheck initcheck synccheck; do
        if command -v compute-sanitizer >/dev/null; then
            check "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/backend_gpu_test" \
                --gtest_filter="$own"
            check "$tool, updates" compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/pipeline_gpu_test" \
                --gtest_filter='*Updates*:*Hidden*'
        else
            printf '| %s | not run: no compute-sanitizer on the PATH | | |\n' "$tool"
        fi
    done
fi
exit "$failed"
