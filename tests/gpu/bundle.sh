#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Packs what tests/gpu/run.sh needs into one folder: see --help.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: tests/gpu/bundle.sh [DIR]

Builds the preset `cuda` for one architecture and copies the GPU tests, the benchmarks, the program and what
tests/gpu/run.sh runs beside them into DIR (default: build/gpu-bundle; 48 MB), with all libraries but
those of CUDA, C and C++, and with Open MPI's components. A machine with a GPU, the libraries of CUDA 13 (its
toolkit, or PyTorch's packages) and an x86-64 Linux no older than this one needs nothing else: no network,
compiler, HDF5 or MPI. Python with numpy and h5py makes the model for the part `client`.
  CUDA_ARCHITECTURES   of the GPU there (default: 90)
  PUBLISHED            checkout of the published SparseGPT, for the part `published` (default: left out)
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
mkdir -p "$bundle"/{bin,lib,openmpi,tools}
cp build/cuda/tests/{backend,pipeline,device_run}_gpu_test build/cuda/{backend_bench,fedspallm} "$bundle/bin"
strip "$bundle"/bin/*
# Open MPI opens its components at run time. Those for networks want libraries that are not needed here.
components="$(ompi_info --parsable --path pkglibdir | cut -d: -f3)"
for component in "$components"/mca_*.so; do
    ldd "$component" | grep -qE 'lib(fabric|uc[pst]|psm|ibverbs|rdmacm|cuda|oshmem|munge)' || cp "$component" "$bundle/openmpi"
done
# The C and C++ libraries have to be the machine's own, and CUDA must match its driver.
ldd "$bundle"/bin/* "$bundle"/openmpi/* | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libcu[^/]*|libnvJitLink|libnccl|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s))\.so[^/]*$' |
    xargs -I{} cp -L {} "$bundle/lib"
cp -r tests/data "$bundle/data"
cp tools/{make_synthetic_model,common}.py "$bundle/tools"
cp tests/gpu/{run.sh,published.py} "$bundle"
if [[ -n "${PUBLISHED:-}" ]]; then
    mkdir "$bundle/published"
    cp "$PUBLISHED"/*.py "$bundle/published"
fi
git rev-parse HEAD >"$bundle/revision"
git diff --quiet HEAD -- src include tests cmake || echo "with changes not committed" >>"$bundle/revision"
du -sh "$bundle"
