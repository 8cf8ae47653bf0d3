#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/data/fixtures from a folder of full fixtures, keeping what fits into the repository.

A fixture is a tiny model with expected.safetensors: tokens.C of client C, dense.logits.0, dense.nll.C,
sparsegpt50.C.BLOCK.MATRIX (published SparseGPT, 50 %), sparsegpt24.0.* (2:4), l0.* and votes.* (the merge
of the three sparsegpt50). What is kept is listed in KEEP; a model cut to fewer blocks gets its dense.*
values anew from transformers, whose environment (check_transformers.py) this runs in.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
from check_transformers import enter_transformers_venv, load_model
from common import fail

OUT = common.ROOT / "tests" / "data" / "fixtures"


@dataclass(frozen=True)
class Keep:
    """How much of one fixture is kept."""

    blocks: int | None  # blocks of the model; None = all
    expected: tuple[str, ...]  # patterns of the expectations' names


KEEP = {
    # Client 0's two blocks (the cascade through a pruned block), its 2:4 block 0, and the merge of the
    # three clients' block 0 in all matrices but gate and up.
    "llama-gqa-tied": Keep(
        None,
        (
            r"tokens\..*",
            r"dense\..*",
            r"sparsegpt50\.nll\.0",
            r"sparsegpt50\.0\.[01]\..*",
            r"sparsegpt24\.0\.0\..*",
            r"(sparsegpt50\.[12]|l0|votes)\.0\.(self_attn|mlp\.down_proj).*",
        ),
    ),
    # One block of client 0, unstructured.
    "opt": Keep(1, (r"tokens\..*", r"sparsegpt50\.0\.0\..*")),
}


def is_kept_weight(name: str, blocks: int) -> bool:
    """Whether a weight belongs to a model of this many blocks."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return found is None or int(found[1]) < blocks


def cut_model(source: Path, target: Path, blocks: int) -> None:
    """Copies a one-file model with its first blocks only."""
    from safetensors.torch import load_file, save_file

    weights = load_file(source / "model.safetensors")
    kept = {name: value for name, value in weights.items() if is_kept_weight(name, blocks)}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["num_hidden_layers"] = blocks
    common.write_json(target / "config.json", config, sort=True)


def dense_values(folder: Path, tokens: list[Any]) -> dict[str, Any]:
    """dense.logits.0 and dense.nll.C of the model in FOLDER."""
    from make_goldens import expected

    values = expected(load_model(folder), tokens)
    return {name: value for name, value in values.items() if name.startswith("dense.")}


def slim(source: Path, target: Path, keep: Keep) -> None:
    """Writes one slimmed fixture."""
    from make_goldens import save
    from safetensors.torch import load_file

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    full = load_file(source / "expected.safetensors")
    values = {name: v for name, v in full.items() if any(re.fullmatch(p, name) for p in keep.expected)}
    if keep.blocks is None:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(source / name, target / name)
    else:
        cut_model(source, target, keep.blocks)
        clients = sum(1 for name in full if name.startswith("tokens."))
        values |= dense_values(target, [full[f"tokens.{c}"].long() for c in range(clients)])
    save(target, values)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target.name:30s} {size:8d} bytes, {len(values)} of {len(full)} expectations")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fixtures", type=Path, help="folder with the full fixtures")
    options = parser.parse_args()
    enter_transformers_venv()
    for name, keep in KEEP.items():
        if not (options.fixtures / name / "expected.safetensors").is_file():
            fail(f"{options.fixtures / name}: no expected.safetensors")
        slim(options.fixtures / name, OUT / name, keep)


if __name__ == "__main__":
    main()
