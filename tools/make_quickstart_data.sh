#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes models/smollm2-135m and data/{novels,pydoc,gcide,jargon}{,-test}.h5 for configs/quickstart.toml.
# What is complete is left alone. Needs tools/install-dependencies.sh --model --texts.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    sed -n '4,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi

tools/gguf_to_huggingface.py quickstart models/smollm2-135m
tools/quickstart_texts.py build/texts/plain
for domain in novels pydoc gcide jargon; do
    tools/tokenize_text.py "build/texts/plain/$domain.txt" --model models/smollm2-135m \
        --out "data/$domain.h5" --test-fraction 0.1
done
