# SPDX-License-Identifier: Apache-2.0
"""The first blocks of a model as a directory of its own, so that both sides see the same small model."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import common
from common import TensorSource, fail

BLOCK = re.compile(r"model\.layers\.(\d+)\.")


def is_kept(name: str, blocks: int) -> bool:
    """Whether a tensor belongs to no block, or to one of the first BLOCKS."""
    match = BLOCK.match(name)
    return match is None or int(match[1]) < blocks


def read_bytes(path: Path, offset: int, length: int) -> bytes:
    """A piece of a file."""
    with open(path, "rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def kept_tensors(model: Path, blocks: int) -> list[TensorSource]:
    """What to write, read from the model only when it is written."""
    sources = []
    for file in common.shard_files(model):
        header = common.read_safetensors_header(file)
        with open(file, "rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
        for name, entry in header.items():
            if is_kept(name, blocks):
                begin, end = entry["data_offsets"]
                data = partial(read_bytes, file, start + begin, end - begin)
                sources.append(TensorSource(name, entry["dtype"], tuple(entry["shape"]), end - begin, data))
    return sources


def cut(model: Path, blocks: int, out: Path) -> Path:
    """Writes OUT unless it is there, config.json last. MODEL itself where it has no more blocks."""
    config = json.loads((model / "config.json").read_text())
    found = config["num_hidden_layers"]
    if not 1 <= blocks <= found:
        fail(f"--blocks {blocks}: {model} has {found}")
    if blocks == found:
        return model
    marker = {
        "cut_from": str(model.resolve()),
        "blocks": blocks,
        "sha256": common.sha256_file(model / "config.json"),
    }
    stamp = out / "cut.json"
    if stamp.exists() and json.loads(stamp.read_text()) == marker and (out / "config.json").exists():
        return out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    common.write_safetensors(out / "model.safetensors", kept_tensors(model, blocks))
    if (model / "tokenizer.json").exists():
        shutil.copyfile(model / "tokenizer.json", out / "tokenizer.json")
    config["num_hidden_layers"] = blocks
    if isinstance(config.get("layer_types"), list):
        config["layer_types"] = config["layer_types"][:blocks]
    common.write_json(stamp, marker)
    common.write_json(out / "config.json", config)
    return out
