# SPDX-License-Identifier: Apache-2.0
"""Small models and token files for the tests: safetensors read and written by this file alone (the program's
own code has no part in it), models cut to what a test needs, tokens by h5py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from harness import FIXTURES, GOLDENS, ProgramTest

LLAMA = FIXTURES / "llama-gqa-tied"  # bfloat16, 2 blocks, 320 tokens, q and k,v of different heights
OPT = FIXTURES / "opt"  # float32, 1 block, biases
SHARDED = GOLDENS / "llama-sharded"  # bfloat16, 3 shards
HALF = GOLDENS / "llama-fp16"

STORAGE: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}


@dataclass
class Tensor:
    """One tensor as it is stored; bfloat16 as its bit patterns."""

    dtype: str
    data: np.ndarray

    def widened(self) -> np.ndarray:
        """The values as float64, exactly."""
        if self.dtype == "BF16":
            return (self.data.astype("<u4") << 16).view("<f4").astype(np.float64)
        return self.data.astype(np.float64)


def load(path: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file, in the order of their bytes."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(raw[8 + size + begin : 8 + size + end], STORAGE[entry["dtype"]])
        tensors[name] = Tensor(entry["dtype"], flat.reshape(entry["shape"]).copy())
    return tensors


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.data.nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.data.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(
        len(text).to_bytes(8, "little") + text + b"".join(t.data.tobytes() for t in tensors.values())
    )


def load_model(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model directory: of its index, or of model.safetensors."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load(folder / "model.safetensors")
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return {name: tensor for shard in names for name, tensor in load(folder / shard).items()}


def copy_model(source: Path, target: Path) -> Path:
    """A model directory as people have it: weights, config.json and the small files beside them."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name != "expected.safetensors":
            shutil.copy(file, target / file.name)
    (target / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "none of our business"}}\n')
    (target / "generation_config.json").write_text('{"do_sample": false}')
    (target / "chat_template.jinja").write_text("{{ messages }}")
    return target


def change(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> Path:
    """Rewrites model.safetensors with edited tensors."""
    tensors = load(folder / "model.safetensors")
    edit(tensors)
    save(folder / "model.safetensors", tensors)
    return folder


def deepen(source: Path, target: Path, blocks: int) -> Path:
    """A llama with more blocks: those there are, again and again, each with its rows rolled."""
    copy_model(source, target)
    config = json.loads((target / "config.json").read_text())
    there = config["num_hidden_layers"]
    config["num_hidden_layers"] = blocks
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def edit(tensors: dict[str, Tensor]) -> None:
        prefix = "model.layers."
        layers = {name: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        for block in range(blocks):
            first = f"{prefix}{block % there}."
            for name, tensor in layers.items():
                if name.startswith(first):
                    data = np.roll(tensor.data, block // there, axis=0)
                    tensors[f"{prefix}{block}.{name[len(first) :]}"] = Tensor(tensor.dtype, data)

    return change(target, edit)


def vocabulary(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text())["vocab_size"])


def write_tokens(path: Path, ids: Iterable[int] | np.ndarray, vocab_size: int, dtype: str = "int32") -> Path:
    """A token file as tools/tokenize_text.py writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["tokens"] = np.asarray(ids, dtype=dtype)
        file.attrs["vocab_size"] = vocab_size
        file.attrs["tokenizer_sha256"] = ""
        file.attrs["source"] = "made by a test"
    return path


def random_tokens(path: Path, model: Path, seed: int, count: int = 1024) -> Path:
    """Tokens that differ between clients in more than their order: each has other frequent ones."""
    vocab = vocabulary(model)
    generator = np.random.default_rng(seed)
    ids = (generator.random(count) ** (1 + seed % 4) * vocab).astype(np.int64)
    return write_tokens(path, (ids + 7 * seed) % vocab, vocab, "uint16" if seed % 2 else "int32")


def clients_of(folder: Path, model: Path, count: int, **keys: Any) -> list[dict[str, Any]]:
    """`count` [[client]] tables with token files of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"client-{index}" for index in range(count)]
    return [
        {"name": name, "tokens": str(random_tokens(folder / f"{name}.h5", model, index)), **keys}
        for index, name in enumerate(names)
    ]


def run_config(model: Path, run_dir: Path, clients: list[dict[str, Any]]) -> dict[str, Any]:
    """The configuration that tests start from."""
    return {
        "model": {"path": str(model)},
        "run": {"dir": str(run_dir), "seed": 7, "backend": "cpu", "threads": 1},
        "prune": {"method": "sparsegpt", "sparsity": 0.5, "block_size": 32},
        "calibration": {"samples": 6, "sequence_length": 40},
        "federation": {"rounds": 1, "aggregation": "l0"},
        "client": clients,
    }


class ModelTest(ProgramTest):
    """A test class with a small model of its own and some clients' texts for it."""

    CLIENTS = 3
    model: Path
    clients: list[dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.model = copy_model(LLAMA, cls.folder / "input")
        cls.clients = clients_of(cls.folder / "tokens", cls.model, cls.CLIENTS)
