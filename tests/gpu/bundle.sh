#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Packs what tests/gpu/run.sh needs into one folder: see --help.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: tests/gpu/bundle.sh [DIR]

Builds the preset `cuda` for one architecture and copies the GPU tests, the benchmarks and the program with
all libraries but those of CUDA, C and C++ into DIR (default: build/gpu-bundle). A machine with a GPU, CUDA 13
and an x86-64 Linux no older than this one needs nothing else: no network, compiler or HDF5, and MPI for the tests of NCCL only.
  CUDA_ARCHITECTURES   of the GPU there (default: 90)
TEXT
}

case "${1:-}" in
-h | --help) usage && exit 0 ;;
-*) usage >&2 && exit 2 ;;
esac
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
bundle="$(realpath -m "${1:-$root/build/gpu-bundle}")"
cd "$root"

targets=(backend_gpu_test pipeline_gpu_test device_run_gpu_test backend_bench fedspallm)
cmake --preset cuda -DFEDSPALLM_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES:-90}" >/dev/null
cmake --build --preset cuda --target "${targets[@]}"

rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/lib"
cp build/cuda/tests/{backend,pipeline,device_run}_gpu_test build/cuda/{backend_bench,fedspallm} "$bundle/bin"
# The C and C++ libraries have to be the machine's own, and CUDA must match its driver.
ldd "$bundle"/bin/* | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libcu[^/]*|libnvJitLink|libnccl|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s))\.so[^/]*$' |
    xargs -I{} cp -L {} "$bundle/lib"
cp -r tests/data "$bundle/data"
git rev-parse HEAD >"$bundle/revision"
git diff --quiet HEAD -- src include tests cmake || echo "with changes not committed" >>"$bundle/revision"
du -sh "$bundle"
