# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations that pruning a model takes: what is needed, and what the published code performs.

A multiply-add counts as 2. Notation: a linear layer has r rows (outputs) and n columns (inputs), T = S * L
tokens in S sequences of length L, d = heads * head_dim.

Needed, each thing once:
  forward        2 r n T per matrix, and per block 2 d L (L + 1) S for the causal half of Q K^T and P V
  hessian        n^2 T per group of matrices with the same input (q,k,v; o; gate,up; down): 2 n^2 T for
                 X^T X, half of it since the result is symmetric
  factorization  2 n^3 / 3 per group: a Cholesky factorization (n^3 / 3), a triangular inverse (n^3 / 3)
  sweep          r n (n - 1) per matrix: column j changes r (n - 1 - j) weights by one multiply-add, in its
                 own column block or by the trailing update; the block size does not matter. Counted for
                 all columns as if no error were zero: an upper bound at sparsity < 1.
Norms, RoPE, softmax, activations, scores and selection are left out: below 1 % of the sum, and not GEMM.

Performed by the published code (SparseGPT, order "block"): two forward passes with the whole square of the
attention (where the attention in use skips the masked half, that is less), a full GEMM 2 n^2 T and
Cholesky + inverse from it + Cholesky (n^3 / 3 + 2 n^3 / 3 + n^3 / 3) for every matrix, and a sweep in which
each column updates its block with the columns already done left out, as above.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
from common import fail

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
MATRIX = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+_proj)\.weight")
PHASES = ("forward", "hessian", "factorize", "sweep")


@dataclass(frozen=True)
class Shape:
    """What the work depends on: the matrices of one block, and how many blocks there are."""

    blocks: int
    attention: int  # heads * head_dim
    matrices: dict[str, tuple[int, int]]  # q_proj ... down_proj: rows, columns

    @property
    def weights(self) -> int:
        """Prunable weights of the model."""
        return self.blocks * sum(rows * columns for rows, columns in self.matrices.values())

    @property
    def shared_columns(self) -> list[int]:
        """Input widths of the groups that share a Hessian."""
        return [self.matrices[group[0]][1] for group in GROUPS]


def head_width(config: dict[str, Any]) -> int:
    """heads * head_dim; older configurations leave head_dim out."""
    heads = config["num_attention_heads"]
    return int(heads * (config.get("head_dim") or config["hidden_size"] // heads))


def shape_of(config: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> Shape:
    """The shape by config.json and the tensors' shapes. ValueError where it is not of a known family."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type {family!r} found, one of {', '.join(FAMILIES)} expected")
    blocks: dict[int, dict[str, tuple[int, int]]] = {}
    for name, dimensions in tensors.items():
        match = MATRIX.fullmatch(name)
        if match:
            rows, columns = dimensions
            blocks.setdefault(int(match[1]), {})[match[2]] = (rows, columns)
    wanted = {name for group in GROUPS for name in group}
    count = config["num_hidden_layers"]
    for block in range(count):
        if set(blocks.get(block, {})) != wanted:
            raise ValueError(
                f"block {block}: matrices {sorted(blocks.get(block, {}))}, expected {sorted(wanted)}"
            )
        if blocks[block] != blocks[0]:
            raise ValueError(f"block {block} has other shapes than block 0")
    return Shape(count, head_width(config), blocks[0])


def read_shape(model: Path) -> Shape:
    """The shape of a Hugging Face directory; ends the program where there is none."""
    try:
        config = json.loads((model / "config.json").read_text())
        headers = [common.read_safetensors_header(file) for file in common.shard_files(model)]
        tensors = {name: tuple(entry["shape"]) for header in headers for name, entry in header.items()}
        return shape_of(config, tensors)
    except (OSError, ValueError, KeyError) as error:
        fail(f"{model}: not a model directory this comparison knows: {error}")


def sweep_flop(matrices: Iterable[tuple[int, int]]) -> float:
    """Sum of r n (n - 1)."""
    return float(sum(rows * columns * (columns - 1) for rows, columns in matrices))


def needed(shape: Shape, samples: int, length: int) -> dict[str, float]:
    """FLOP by phase that one client needs; see the formulas above."""
    tokens = samples * length
    attention = 2 * shape.attention * length * (length + 1) * samples
    return {
        "forward": float(2 * shape.weights * tokens + shape.blocks * attention),
        "hessian": float(shape.blocks * sum(n * n for n in shape.shared_columns) * tokens),
        "factorize": shape.blocks * sum(2 * n**3 / 3 for n in shape.shared_columns),
        "sweep": shape.blocks * sweep_flop(shape.matrices.values()),
    }


def performed_by_published(shape: Shape, samples: int, length: int) -> dict[str, float]:
    """FLOP by phase that the published code performs for the same client."""
    tokens = samples * length
    attention = 4 * shape.attention * length * length * samples
    columns = [n for _, n in shape.matrices.values()]
    return {
        "forward": 2 * float(2 * shape.weights * tokens + shape.blocks * attention),
        "hessian": float(shape.blocks * sum(2 * n * n for n in columns) * tokens),
        "factorize": shape.blocks * sum(4 * n**3 / 3 for n in columns),
        "sweep": shape.blocks * sweep_flop(shape.matrices.values()),
    }
