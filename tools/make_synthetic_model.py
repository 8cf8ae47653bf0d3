#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a Hugging Face model directory of a known model's shape with random weights, and random tokens.

For measurements of speed and memory with shapes whose weights cannot be had. Weights are normal, scaled so
that activations neither vanish nor grow with depth; the norms' weights are log-normal, so that some channels
are louder than others and no two Hessian diagonals are alike. Every tensor's values follow from the seed and
its name alone: the first blocks are the same whatever --blocks is. Real models have outliers and correlations
that these have not: neither perplexity nor the quality of a pruned model means anything here.

--sparse-on-disk K gives values only to the embedding, the norms and the first K blocks; all the rest are
holes in the files, which read as zeros and take no room. For questions of layout and memory only: zeros are
no fair test of pruning, neither of its speed nor of its result.

Memory: some 200 MB, whatever the model's size. Files are renamed when complete, config.json last.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import common
from common import fail

if TYPE_CHECKING:
    import numpy as np

SHARD_BYTES = 4_900_000_000  # hubs want files below 5 GB
CHUNK_VALUES = 1 << 22
DTYPES = {"bf16": ("BF16", "bfloat16", 2), "f16": ("F16", "float16", 2), "f32": ("F32", "float32", 4)}


@dataclass(frozen=True)
class Shape:
    """What config.json says of a LLaMA model."""

    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    blocks: int
    vocabulary: int
    positions: int
    theta: float
    tied: bool = False
    head_dim: int = 0

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.head_dim or self.hidden // self.heads


SHAPES = {
    "llama-2-7b": Shape(4096, 11008, 32, 32, 32, 32000, 4096, 1e4),
    "llama-2-70b": Shape(8192, 28672, 64, 8, 80, 32000, 4096, 1e4),
    "llama-3-8b": Shape(4096, 14336, 32, 8, 32, 128256, 8192, 5e5),
    "smollm2-135m": Shape(576, 1536, 9, 3, 30, 49152, 8192, 1e5, tied=True),
    "tiny": Shape(64, 160, 4, 2, 4, 512, 2048, 1e4),
}


@dataclass(frozen=True)
class Tensor:
    """One tensor, normal with this deviation; a norm's values are exp of that; a hole has none."""

    name: str
    shape: tuple[int, ...]
    deviation: float
    norm: bool = False
    hole: bool = False

    @property
    def values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=SHAPES, required=True, help="whose shape")
    add("--out", type=Path, required=True, metavar="DIR", help="model directory to write")
    add("--blocks", type=int, metavar="N", help="decoder blocks (default: as many as the model has)")
    add("--dtype", choices=DTYPES, default="bf16", help="default: bf16")
    add("--seed", type=int, default=1, help="default: 1")
    add("--sparse-on-disk", type=int, nargs="?", const=2, metavar="K", help="see above (K: 2)")
    add("--tokens", type=Path, metavar="FILE.h5", help="also write a token file of random ids")
    add("--token-count", type=int, default=1 << 18, help="ids in it (default: 262144, i.e. 128 x 2048)")
    add("--force", action="store_true", help="write into a folder that is not empty")
    return parser.parse_args()


def block_tensors(shape: Shape, block: int, depth: int, hole: bool) -> list[Tensor]:
    """The tensors of one decoder block. DEPTH is the whole model's: --blocks changes no value."""
    prefix = f"model.layers.{block}."
    attention, shared = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    inward, residual = 1 / math.sqrt(shape.hidden), 1 / math.sqrt(2 * depth)
    sizes = {
        "self_attn.q_proj": (attention, shape.hidden, inward),
        "self_attn.k_proj": (shared, shape.hidden, inward),
        "self_attn.v_proj": (shared, shape.hidden, inward),
        "self_attn.o_proj": (shape.hidden, attention, residual / math.sqrt(attention)),
        "mlp.gate_proj": (shape.mlp, shape.hidden, inward),
        "mlp.up_proj": (shape.mlp, shape.hidden, inward),
        "mlp.down_proj": (shape.hidden, shape.mlp, residual / math.sqrt(shape.mlp)),
    }
    tensors = [Tensor(f"{prefix}input_layernorm.weight", (shape.hidden,), 0.5, norm=True)]
    for name, (rows, columns, deviation) in sizes.items():
        tensors.append(Tensor(f"{prefix}{name}.weight", (rows, columns), deviation, hole=hole))
    tensors.append(Tensor(f"{prefix}post_attention_layernorm.weight", (shape.hidden,), 0.5, norm=True))
    return tensors


def model_tensors(shape: Shape, depth: int, valued_blocks: int | None) -> list[Tensor]:
    """All tensors in the order of the files."""
    tensors = [Tensor("model.embed_tokens.weight", (shape.vocabulary, shape.hidden), 1.0)]
    for block in range(shape.blocks):
        hole = valued_blocks is not None and block >= valued_blocks
        tensors += block_tensors(shape, block, depth, hole)
    tensors.append(Tensor("model.norm.weight", (shape.hidden,), 0.5, norm=True))
    if not shape.tied:
        size = (shape.vocabulary, shape.hidden)
        tensors.append(
            Tensor("lm_head.weight", size, 1 / math.sqrt(shape.hidden), hole=valued_blocks is not None)
        )
    return tensors


def config_of(shape: Shape, dtype: str) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "dtype": dtype,
        "eos_token_id": 2,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.mlp,
        "max_position_embeddings": shape.positions,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.blocks,
        "num_key_value_heads": shape.kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": shape.theta, "rope_type": "default"},
        "tie_word_embeddings": shape.tied,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }


def generator(seed: int, name: str, chunk: int) -> np.random.Generator:
    """Random numbers keyed by what they are for."""
    import numpy as np

    digest = hashlib.sha256(f"{seed}/{name}/{chunk}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def encode(values: np.ndarray, dtype: str) -> bytes:
    """The bytes of float32 values in the file's dtype."""
    import numpy as np

    if dtype == "bf16":
        return bytes(common.to_bfloat16(values).tobytes())
    return bytes(values.astype(np.dtype("<f2" if dtype == "f16" else "<f4")).tobytes())


def chunks(tensor: Tensor, seed: int, dtype: str) -> Iterator[bytes]:
    """A tensor's bytes, some MB at a time."""
    import numpy as np

    for chunk, begin in enumerate(range(0, tensor.values, CHUNK_VALUES)):
        count = min(CHUNK_VALUES, tensor.values - begin)
        random = generator(seed, tensor.name, chunk)
        values = random.standard_normal(count, dtype=np.float32) * np.float32(tensor.deviation)
        yield encode(np.exp(values) if tensor.norm else values, dtype)


def split_shards(tensors: list[Tensor], width: int) -> list[list[Tensor]]:
    """Tensors in files of less than SHARD_BYTES, in order; a larger tensor has a file of its own."""
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + width * tensor.values > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += width * tensor.values
    return shards


def write_shard(stream: BinaryIO, tensors: list[Tensor], seed: int, dtype: str) -> None:
    """One safetensors file; holes are skipped."""
    code, _, width = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + width * tensor.values
        header[tensor.name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    start = stream.tell()
    for tensor in tensors:
        if not tensor.hole:
            stream.seek(start + header[tensor.name]["data_offsets"][0])
            for piece in chunks(tensor, seed, dtype):
                stream.write(piece)
    stream.flush()
    stream.truncate(start + offset)


def write_model(out: Path, tensors: list[Tensor], seed: int, dtype: str) -> None:
    """All weight files, and the index where there are several."""
    width = DTYPES[dtype][2]
    shards = split_shards(tensors, width)
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        print(f"{out / name}: {width * sum(t.values for t in shard) / 1e9:.2f} GB", flush=True)
        with common.atomic_file(out / name) as stream:
            write_shard(stream, shard, seed, dtype)
    if len(shards) > 1:
        places = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        total = width * sum(tensor.values for tensor in tensors)
        common.write_json(
            out / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": places},
        )


def write_tokens(path: Path, count: int, vocabulary: int, seed: int) -> None:
    """Random ids, all equally likely; reads nothing and has no tokenizer."""
    import h5py
    import numpy as np

    ids = generator(seed, "tokens", 0).integers(0, vocabulary, count, dtype=np.int32)
    with common.atomic_file(path) as stream, h5py.File(stream, "w") as file:
        file.create_dataset("tokens", data=ids)
        file.attrs["vocab_size"] = vocabulary
        file.attrs["tokenizer_sha256"] = ""
        file.attrs["source"] = f"random ids, seed {seed}"
        file.attrs["format_version"] = 1
    print(f"{path}: {count} ids below {vocabulary}")


def check(options: argparse.Namespace) -> None:
    """Ends the program with a message when an argument makes no sense."""
    if options.blocks is not None and options.blocks < 1:
        fail(f"--blocks {options.blocks}: at least 1 expected")
    if options.sparse_on_disk is not None and options.sparse_on_disk < 0:
        fail(f"--sparse-on-disk {options.sparse_on_disk}: at least 0 expected")
    if options.token_count < 1:
        fail(f"--token-count {options.token_count}: at least 1 expected")
    if options.out.exists() and any(options.out.iterdir()) and not options.force:
        fail(f"{options.out} is not empty; --force writes into it all the same")


def main() -> int:
    """Entry point."""
    options = arguments()
    check(options)
    common.enter_venv()
    shape = SHAPES[options.shape]
    depth = shape.blocks
    shape = replace(shape, blocks=options.blocks or shape.blocks)
    tensors = model_tensors(shape, depth, options.sparse_on_disk)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "config.json").unlink(missing_ok=True)
    write_model(options.out, tensors, options.seed, options.dtype)
    common.write_json(options.out / "config.json", config_of(shape, DTYPES[options.dtype][1]))
    if options.sparse_on_disk is not None:
        print(
            f"make_synthetic_model.py: weights from block {options.sparse_on_disk} on, and lm_head where "
            "there is one, are holes that read as zeros: their speed, sparsity and perplexity mean nothing",
            file=sys.stderr,
        )
    if options.tokens:
        write_tokens(options.tokens, options.token_count, shape.vocabulary, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
