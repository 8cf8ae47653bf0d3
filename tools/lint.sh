#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Looks at the sources with clang-format, clang-tidy and shellcheck: see --help.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

usage() {
    cat <<'TEXT'
Usage: tools/lint.sh [--format] [FILE.cpp...]

Checks the layout of all C++ files (.clang-format), runs clang-tidy (.clang-tidy) over the named files, or
all of src/, with the compile commands of build/release, and shellcheck over the scripts.
Exit status 1 when something is found. clang-tidy 16 or newer is needed: 14 cannot read C++20 headers of GCC 12
(Debian packages clang-format-14, clang-tidy-16, shellcheck).
  --format   only the layout and the scripts
TEXT
}

format_only=false
case "${1:-}" in
-h | --help) usage && exit 0 ;;
--format) format_only=true && shift ;;
esac

failed=0
mapfile -t sources < <(git ls-files '*.cpp' '*.hpp' '*.cu' '*.cuh')
clang-format --dry-run -Werror "${sources[@]}" || failed=1
mapfile -t scripts < <(git ls-files '*.sh' '*.sbatch' '.ci/run')
shellcheck -x "${scripts[@]}" || failed=1
$format_only && exit "$failed"

files=("$@")
((${#files[@]})) || mapfile -t files < <(git ls-files 'src/*.cpp' ':!src/backend/cuda/*')
printf '%s\n' "${files[@]}" |
    xargs -P "$(nproc)" -n 4 clang-tidy-16 -p build/release --quiet --warnings-as-errors='*' \
        --extra-arg=-Wno-unknown-warning-option || failed=1
exit "$failed"
