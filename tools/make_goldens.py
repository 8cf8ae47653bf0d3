#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/data/goldens: tiny random models with the logits that transformers computes for them.

Each folder holds a model directory and expected.safetensors with tokens.0 (I32, 2 x 40), dense.logits.0
(F32) and dense.nll.0 (F32), computed in float32. Runs in the environment of check_transformers.py and
gives the same files each time.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
from check_transformers import enter_transformers_venv, load_model

if TYPE_CHECKING:
    import torch

OUT = common.ROOT / "tests" / "data" / "goldens"
SEQUENCES, LENGTH, VOCABULARY = 2, 40, 96
GATED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    "rms_norm_eps": 1e-5,
}
OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "word_embed_proj_dim": 32,
    "dropout": 0.0,
}
SLIDING = ["full_attention", "sliding_attention"]


@dataclass(frozen=True)
class Golden:
    """One model to make."""

    name: str
    family: str
    config: dict[str, Any]
    dtype: str = "bfloat16"
    shard_size: str = "1GB"
    finish: Callable[[Path], None] | None = None
    base: dict[str, Any] = field(default_factory=lambda: GATED)


def rope(kind: str, theta: float = 10000.0, **more: Any) -> dict[str, Any]:
    """config.json's rope_parameters."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


def as_transformers_4(folder: Path) -> None:
    """Rewrites config.json with the keys of transformers 4, leaving out what older files leave out."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = parameters["rope_theta"]
    config["rope_scaling"] = {"type": parameters["rope_type"], "factor": parameters["factor"]}
    for key in ("head_dim", "num_key_value_heads", "attention_bias", "mlp_bias"):
        config.pop(key, None)
    config["transformers_version"] = "4.36.0"
    common.write_json(path, config, sort=True)


def as_old_qwen(folder: Path) -> None:
    """Rewrites config.json with max_window_layers deciding which layers slide, without layer_types."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    del config["layer_types"]
    config["max_window_layers"] = 1
    config["transformers_version"] = "4.40.0"
    common.write_json(path, config, sort=True)


def without_prefix(folder: Path) -> None:
    """Renames the tensors to the names of OPT's first checkpoints: without `model.`."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {name.removeprefix("model."): value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


GOLDENS = (
    Golden(
        "llama-llama3-rope",
        "Llama",
        rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    Golden("llama-linear-rope", "Llama", rope("linear", factor=4.0)),
    Golden("llama-biases", "Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    Golden("llama-sharded", "Llama", {"tie_word_embeddings": False}, shard_size="20KB"),
    Golden("llama-fp16", "Llama", {"tie_word_embeddings": True}, dtype="float16"),
    Golden(
        "llama-transformers4",
        "Llama",
        {"num_key_value_heads": 4, **rope("linear", 20000.0, factor=2.0)},
        finish=as_transformers_4,
    ),
    Golden("mistral", "Mistral", {"sliding_window": 16, "head_dim": 8, "tie_word_embeddings": False}),
    Golden("qwen2", "Qwen2", {"tie_word_embeddings": True, **rope("default", 1e6)}),
    Golden(
        "qwen2-sliding",
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": SLIDING},
    ),
    Golden(
        "qwen2-sliding-transformers4",
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": SLIDING},
        finish=as_old_qwen,
    ),
    Golden("qwen3", "Qwen3", {"head_dim": 12, "tie_word_embeddings": False}),
    Golden(
        "opt-post-norm-projection",
        "OPT",
        {"do_layer_norm_before": False, "word_embed_proj_dim": 24},
        base=OPT,
    ),
    Golden("opt-projection", "OPT", {"word_embed_proj_dim": 24}, base=OPT),
    Golden(
        "opt-no-bias-gelu",
        "OPT",
        {"enable_bias": False, "activation_function": "gelu"},
        base=OPT,
        finish=without_prefix,
    ),
)


def randomise(model: Any, generator: torch.Generator) -> None:
    """Weights of useful size; norms and biases that are not trivial."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * noise)
            elif "embed" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(1.2 * noise / parameter.shape[1] ** 0.5)


def expected(model: Any, tokens: list[Any]) -> dict[str, Any]:
    """tokens.I, dense.logits.0 (two sequences) and dense.nll.I as transformers computes them."""
    import torch

    values: dict[str, Any] = {}
    for number, ids in enumerate(tokens):
        with torch.inference_mode():
            logits = model(ids, use_cache=False).logits
        flat = logits[:, :-1].double().flatten(0, 1)
        nll = torch.nn.functional.cross_entropy(flat, ids[:, 1:].flatten())
        values[f"tokens.{number}"] = ids.to(torch.int32)
        values[f"dense.nll.{number}"] = nll.float().reshape(1)
        if number == 0:
            values["dense.logits.0"] = logits[:2].contiguous()
    return values


def save(folder: Path, values: dict[str, Any]) -> None:
    """Writes expected.safetensors and gives all files of FOLDER ordinary modes."""
    from safetensors.torch import save_file

    save_file(values, folder / "expected.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


def make(golden: Golden, seed: int) -> None:
    """Writes one golden folder."""
    import torch
    import transformers

    folder = OUT / golden.name
    shutil.rmtree(folder, ignore_errors=True)
    config = getattr(transformers, f"{golden.family}Config")(**{**golden.base, **golden.config})
    model = getattr(transformers, f"{golden.family}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(seed)
    randomise(model, generator)
    model.to(getattr(torch, golden.dtype)).save_pretrained(folder, max_shard_size=golden.shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if golden.finish is not None:
        golden.finish(folder)
    tokens = torch.randint(3, VOCABULARY, (SEQUENCES, LENGTH), generator=generator)
    save(folder, expected(load_model(folder), [tokens]))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{golden.name:30s} {size:8d} bytes", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="make only these")
    options = parser.parse_args()
    enter_transformers_venv()
    from transformers.utils import logging

    logging.disable_progress_bar()
    for seed, golden in enumerate(GOLDENS, start=1):
        if not options.only or golden.name in options.only:
            make(golden, seed)


if __name__ == "__main__":
    main()
