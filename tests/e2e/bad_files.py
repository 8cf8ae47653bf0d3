# SPDX-License-Identifier: Apache-2.0
"""Files that must be refused, for test_bad_input.py: each with a title, a path and a part of the message.

Safetensors files and indices are put together here byte by byte, so that they are wrong in one way only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import models
import numpy as np

Header = dict[str, Any]

INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Case:
    """A bad file or folder, and a pattern that the refusal has."""

    title: str
    path: Path
    message: str


def symlink_loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


# ---------------------------------------------------------------- token files


class TokenCases:
    """Token files in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.cases: list[Case] = []

    def add(self, title: str, message: str, content: bytes | None = None) -> Path:
        path = self.folder / f"{title}.h5"
        if content is not None:
            path.write_bytes(content)
        self.cases.append(Case(title, path, message))
        return path

    def hdf5(self, title: str, message: str, write: Callable[[h5py.File], object]) -> None:
        with h5py.File(self.add(title, message), "w") as file:
            write(file)

    def tokens(self, title: str, message: str, data: np.ndarray) -> None:
        self.hdf5(title, message, lambda file: file.create_dataset("tokens", data=data))


def token_files(folder: Path, vocabulary: int) -> list[Case]:
    """Token files that are missing, damaged, of another kind or with impossible content."""
    files = TokenCases(folder)
    sound = models.write_tokens(folder / "sound.h5", np.arange(500) % vocabulary, vocabulary).read_bytes()
    files.add("missing", "no such file")
    files.add("empty", "not HDF5", b"")
    files.add("truncated", "truncated", sound[: len(sound) - 600])
    files.add("wrong-magic", "not HDF5", b"GGUF" + sound[4:])
    files.add("folder", "not a regular file").mkdir()
    os.mkfifo(files.add("pipe", "not a regular file"))
    symlink_loop(files.add("loop", "no such file"))
    files.add("dangling", "no such file").symlink_to("nothing")
    files.tokens("no-tokens", "at least one token", np.zeros(0, "<i4"))
    files.tokens("matrix", "dimension", np.zeros((9, 60), "<i4"))
    files.tokens("floats", "float64, expected int32 or uint16", np.ones(99))
    files.tokens("int64", "int64, expected int32 or uint16", np.arange(99))
    files.tokens("too-large", f"token 7 is {vocabulary}", ids(7, vocabulary))
    files.tokens("negative", "token 3 is -1", ids(3, -1))
    add_odd_objects(files)
    return files.cases


def add_odd_objects(files: TokenCases) -> None:
    """Valid HDF5 without the one dataset of tokens, or with attributes of other types."""
    huge = {"shape": (10**12,), "dtype": "<i4", "chunks": (1024,), "compression": "gzip"}
    files.hdf5("no-dataset", "no dataset 'tokens'", lambda file: file.create_group("words"))
    files.hdf5("a-group", "tokens", lambda file: file.create_group("tokens"))
    files.hdf5("never-written", "stores 0", lambda file: file.create_dataset("tokens", **huge))
    files.hdf5("soft-loop", "tokens", lambda file: file.__setitem__("tokens", h5py.SoftLink("/tokens")))
    for title, name, value in (
        ("vocab-size-is-text", "vocab_size", "many"),
        ("hash-is-no-text", "tokenizer_sha256", b"\xff\xfe\x01"),
    ):
        files.hdf5(title, f"'{name}'", partial(with_attribute, name=name, value=value))


def ids(place: int, value: int) -> np.ndarray:
    tokens = np.ones(500, "<i4")
    tokens[place] = value
    return tokens


def with_attribute(file: h5py.File, name: str, value: str | bytes) -> None:
    file.create_dataset("tokens", data=np.ones(500, "<i4"))
    file.attrs[name] = value


# ---------------------------------------------------------------- safetensors


def pack(header: Header | bytes, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def split(path: Path) -> tuple[Header, bytes]:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


class WeightCases:
    """Models whose model.safetensors is not that of the fixture."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.header, self.data = split(models.LLAMA / "model.safetensors")
        self.cases: list[Case] = []

    def add(self, title: str, message: str, content: bytes) -> None:
        path = models.copy_model(models.LLAMA, self.folder / title)
        (path / "model.safetensors").write_bytes(content)
        self.cases.append(Case(title, path, message))

    def edited(self, title: str, message: str, edit: Callable[[Header], object]) -> None:
        copy = json.loads(json.dumps(self.header))
        edit(copy)
        self.add(title, message, pack(copy, self.data))

    def entry(self, title: str, message: str, tensor: str, **changes: Any) -> None:
        full = f"model.safetensors: tensor '{tensor}': .*{message}"
        self.edited(title, full, lambda copy: copy[tensor].update(changes))

    def added(self, title: str, message: str, tensor: str, shape: list[int]) -> None:
        """One tensor more, of bfloat16 zeros."""
        size, end = 2 * math.prod(shape), len(self.data)
        entry = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        self.add(title, message, pack({**self.header, tensor: entry}, self.data + bytes(size)))


def weights(folder: Path) -> list[Case]:
    """Models whose model.safetensors is wrong in one way."""
    models_of = WeightCases(folder)
    add_broken_files(models_of)
    add_wrong_offsets(models_of)
    add_wrong_tensors(models_of)
    return models_of.cases


def add_broken_files(files: WeightCases) -> None:
    header, data = files.header, files.data
    whole = pack(header, data)
    twice = json.dumps(header)[:-1].encode() + f',"{NORM}":{{}}}}'.encode()
    files.add("truncated", "model.safetensors: .*truncated", whole[:-100])
    files.add("empty", "model.safetensors: has 0 bytes", b"")
    files.add("seven-bytes", "model.safetensors: has 7 bytes", whole[:7])
    files.add("wrong-magic", "header claims", b"PK\x03\x04" + whole[4:])
    files.add("git-lfs-pointer", "git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    files.add("text", "header claims", b"version 1 of my model\n")
    files.add("header-beyond-the-file", "truncated", pack(header, data, len(whole)))
    files.add("header-is-no-json", "not valid JSON", pack(b"{" + b"x" * 40, data))
    files.add("header-is-a-list", "does not start with", pack(b"[1, 2]", data))
    files.add("header-nests-deeply", "100 deep", pack(b'{"a":' + b"[" * 9999 + b"]" * 9999 + b"}", b""))
    files.add("longer-than-it-says", "longer than its header says", whole + b"more")
    files.add("tensor-twice", f"'{NORM}' occurs twice", pack(twice, data))


def add_wrong_offsets(files: WeightCases) -> None:
    begin, end = files.header[NORM]["data_offsets"]
    size, outside = end - begin, len(files.data)
    overlap = [0, size]
    files.edited("offsets-overlap", "tensors overlap", lambda copy: copy[NORM].update(data_offsets=overlap))
    files.entry("offsets-outside", "truncated", NORM, data_offsets=[outside, outside + size])
    files.entry("offsets-backwards", "expected begin <= end", NORM, data_offsets=[end, begin])
    files.entry("offsets-negative", "data_offsets holds -2", NORM, data_offsets=[-2, size - 2])
    files.entry("offsets-of-another-size", "span", NORM, data_offsets=[begin, end - 2])


def add_wrong_tensors(files: WeightCases) -> None:
    rows, columns = files.header[QUERY]["shape"]
    vocabulary, width = files.header[EMBEDDING]["shape"]
    bias = QUERY.replace("weight", "bias")
    files.entry("shape-overflows", r"larger than 2\^63 bits", NORM, shape=[2**62, 2**62])
    files.entry("shape-negative", "shape holds -72", NORM, shape=[-72])
    files.entry("shape-fractional", r"shape holds 72\.5", NORM, shape=[72.5])
    files.entry("dtype-unknown", 'unknown dtype "FLOAT"', NORM, dtype="FLOAT")
    files.entry("dtype-of-integers", "found dtype I16, expected F32, F16 or BF16", NORM, dtype="I16")
    files.entry("shape-transposed", "found shape", QUERY, shape=[rows * 2, columns // 2])
    files.edited("shape-missing", "'shape' is missing", lambda copy: copy[NORM].pop("shape"))
    files.edited("tensor-renamed", f"'{QUERY}' is missing", lambda copy: copy.update(x=copy.pop(QUERY)))
    files.added(
        "head-of-another-shape", "'lm_head.weight': found shape", "lm_head.weight", [vocabulary - 1, width]
    )
    files.added("bias-that-nobody-knows", f"'{bias}' is in a decoder block, but config.json", bias, [rows])
    norm = QUERY.replace("q_proj", "q_norm")
    files.added("norm-that-nobody-knows", f"'{norm}' is in a decoder block, but config.json", norm, [rows])
    beyond = QUERY.replace("layers.0.", "layers.99.")
    files.added("block-that-nobody-knows", f"'{beyond}' is in a decoder block", beyond, [rows, columns])


class ShardCases:
    """Models in shards whose index and shards do not agree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = json.loads((models.SHARDED / INDEX).read_text())
        self.cases: list[Case] = []

    def add(self, title: str, message: str, edit: Callable[[Path], object]) -> None:
        path = models.copy_model(models.SHARDED, self.folder / title)
        edit(path)
        self.cases.append(Case(title, path, message))

    def text(self, title: str, message: str, index: str) -> None:
        self.add(title, message, lambda path: (path / INDEX).write_text(index))

    def mapped(self, title: str, message: str, weight_map: dict[str, Any]) -> None:
        self.text(title, message, json.dumps({**self.index, "weight_map": weight_map}))


def shards(folder: Path) -> list[Case]:
    """Shards that are missing, damaged or another one; indices that are damaged, stale or lead elsewhere."""
    files = ShardCases(folder)
    whole = json.dumps(files.index)
    weight_map: dict[str, Any] = files.index["weight_map"]
    names = sorted(set(weight_map.values()))
    norm = next(name for name in sorted(weight_map) if name.endswith("norm.weight"))
    elsewhere = next(name for name in names if name != weight_map[norm])
    twice = whole.replace('"weight_map": {', f'"weight_map": {{"{norm}": "{elsewhere}", ')
    fewer = {name: file for name, file in weight_map.items() if name != norm}
    second = names[1]
    other = (models.SHARDED / names[0]).read_bytes()
    stale = f"'{norm}' is in '{elsewhere}', but it is in .*: the index is stale"
    files.add(
        "shard-missing", f"the shard '{second}', which is missing", lambda path: (path / second).unlink()
    )
    files.add("shard-truncated", f"{second}: .*truncated", lambda path: shorten(path / second, 100))
    files.add("shard-empty", f"{second}: has 0 bytes", lambda path: (path / second).write_bytes(b""))
    files.add("shard-of-another", "is in .* and in", lambda path: (path / second).write_bytes(other))
    files.text("index-empty", "not valid JSON", "")
    files.text("index-truncated", "not valid JSON", whole[:-40])
    files.text("index-without-map", "'weight_map' is missing", "{}")
    files.text("index-names-nothing", "names no tensor", '{"weight_map":{}}')
    files.text("index-names-a-tensor-twice", f"'{norm}' occurs twice", twice)
    files.mapped("index-stale", stale, {**weight_map, norm: elsewhere})
    files.mapped("index-of-more", "'one.more' .*no shard has it", {**weight_map, "one.more": names[0]})
    files.mapped("index-forgets-one", f"does not name tensor '{norm}'", fewer)
    files.mapped("index-names-no-file", "found 7, expected a file name", {**weight_map, norm: 7})
    files.mapped("index-leads-elsewhere", "a file in this folder", {**weight_map, norm: f"../{names[0]}"})
    return files.cases


def shorten(path: Path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


# ---------------------------------------------------------------- config.json, folders


def model_configs(folder: Path) -> list[Case]:
    """Models whose config.json is damaged or asks for what is not there."""
    good = json.loads((models.LLAMA / "config.json").read_text())
    cases: list[Case] = []

    def text(title: str, message: str, content: str | bytes) -> None:
        path = models.copy_model(models.LLAMA, folder / title)
        (path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        cases.append(Case(title, path, message))

    def key(title: str, message: str, **changes: Any) -> None:
        text(title, message, json.dumps({**good, **changes}))

    text("empty", "config.json: is not valid JSON", "")
    text("truncated", "config.json: is not valid JSON", json.dumps(good)[:-9])
    text("binary", "config.json: is not valid JSON", b"\x89PNG\r\n\x1a\n\x00")
    text("a-list", "config.json: found .*expected an object", "[1]")
    text("key-twice", "'hidden_size' occurs twice", json.dumps(good)[:-1] + ',"hidden_size":1}')
    text("deep", "100 deep", '{"model_type":' + "[" * 9999 + "]" * 9999 + "}")
    key("other-family", "known families", model_type="mamba")
    key("family-is-a-number", "'model_type': found 3, expected a string", model_type=3)
    key("zero-heads", "'num_attention_heads': found 0", num_attention_heads=0)
    key("negative-width", "'hidden_size': found -1", hidden_size=-1)
    key("width-overflows", "'intermediate_size': found", intermediate_size=2**63)
    key("odd-groups", "'num_key_value_heads'", num_key_value_heads=good["num_attention_heads"] + 1)
    key("more-blocks-than-there-are", r"'model\.layers\.2\.", num_hidden_layers=3)
    key("head-dropped", "'lm_head.weight' is missing", tie_word_embeddings=False)
    key("quantized", "'quantization_config'", quantization_config={"quant_method": "gptq"})
    key("sliding-window", "'sliding_window'", sliding_window=16)
    return cases


def model_folders(folder: Path) -> list[Case]:
    """Places where no model is."""
    folder.mkdir()
    cases: list[Case] = []

    def add(title: str, message: str, edit: Callable[[Path], object]) -> None:
        path = models.copy_model(models.LLAMA, folder / title)
        edit(path)
        cases.append(Case(title, path, message))

    def replaced(title: str, message: str, name: str, make: Callable[[Path], object]) -> None:
        def edit(path: Path) -> None:
            (path / name).unlink()
            make(path / name)

        add(title, message, edit)

    cases.append(Case("missing", folder / "nowhere", "nowhere: no such model folder"))
    cases.append(Case("a-loop", symlink_loop(folder / "a-loop"), "a-loop: no such model folder"))
    file = folder / "a-file"
    file.write_text("")
    cases.append(Case("a-file", file, "a-file: no such model folder"))
    add(
        "no-weights",
        "no weights: expected model.safetensors",
        lambda path: (path / "model.safetensors").unlink(),
    )
    replaced(
        "pickled",
        "found pytorch_model.bin: save the model as safetensors",
        "model.safetensors",
        lambda path: path.with_name("pytorch_model.bin").write_bytes(b"\x80"),
    )
    add("no-config", "config.json: no such file", lambda path: (path / "config.json").unlink())
    replaced("config-is-a-folder", "config.json: is not a regular file", "config.json", Path.mkdir)
    replaced("config-is-a-loop", "config.json: no such file", "config.json", symlink_loop)
    replaced("config-is-a-pipe", "config.json: is not a regular file", "config.json", os.mkfifo)
    replaced(
        "weights-are-a-folder", "model.safetensors: is not a regular file", "model.safetensors", Path.mkdir
    )
    replaced("weights-are-a-pipe", "model.safetensors: is not a regular file", "model.safetensors", os.mkfifo)
    replaced("weights-are-a-loop", "no weights", "model.safetensors", symlink_loop)
    return cases


# ---------------------------------------------------------------- run files, bitmask files


def raw_files(folder: Path) -> list[Case]:
    """Files in place of a run's run.h5 and of model.fspm that are neither."""
    cases: list[Case] = []
    for title, content in (
        ("empty", b""),
        ("text", b"once upon a time" * 9),
        ("hdf5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 400),
    ):
        for name, message in (("run.h5", "run.h5: .*cannot be trusted"), ("model.fspm", "model.fspm: ")):
            path = folder / title / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            cases.append(Case(f"{title}-{name}", path, message))
    for name, make in (("pipe", os.mkfifo), ("loop", symlink_loop), ("folder", Path.mkdir)):
        path = folder / name / "model.fspm"
        path.parent.mkdir(parents=True)
        make(path)
        cases.append(Case(name, path, "model.fspm"))
    return cases
