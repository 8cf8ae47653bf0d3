# SPDX-License-Identifier: Apache-2.0
"""Files that must be refused, for test_bad_input.py: each with a title, a path and a part of the message.

Safetensors files and indices are put together here byte by byte, so that they are wrong in one way only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import models
import numpy as np

Header = dict[str, Any]

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


def token_files(folder: Path, vocabulary: int) -> list[Case]:
    """Token files that are missing, damaged, of another kind or with impossible content."""
    folder.mkdir()
    sound = models.write_tokens(folder / "sound.h5", np.arange(500) % vocabulary, vocabulary).read_bytes()
    cases: list[Case] = []

    def add(title: str, message: str, content: bytes | None = None) -> Path:
        path = folder / f"{title}.h5"
        if content is not None:
            path.write_bytes(content)
        cases.append(Case(title, path, message))
        return path

    add("missing", "no such file")
    add("empty", "not HDF5", b"")
    add("truncated", "truncated", sound[: len(sound) - 600])
    add("wrong-magic", "not HDF5", b"GGUF" + sound[4:])
    add("folder", "not a regular file").mkdir()
    os.mkfifo(add("pipe", "not a regular file"))
    symlink_loop(add("loop", "no such file"))
    add("dangling", "no such file").symlink_to("nothing")

    def dataset(title: str, message: str, write: Callable[[h5py.File], object]) -> None:
        with h5py.File(add(title, message), "w") as file:
            write(file)

    dataset("no-dataset", "no dataset 'tokens'", lambda file: file.create_group("words"))
    dataset("a-group", "tokens", lambda file: file.create_group("tokens"))
    dataset(
        "no-tokens", "at least one token", lambda file: file.create_dataset("tokens", data=np.zeros(0, "<i4"))
    )
    dataset("matrix", "dimension", lambda file: file.create_dataset("tokens", data=np.zeros((9, 60), "<i4")))
    dataset(
        "floats",
        "float64, expected int32 or uint16",
        lambda file: file.create_dataset("tokens", data=np.ones(99)),
    )
    dataset(
        "int64",
        "int64, expected int32 or uint16",
        lambda file: file.create_dataset("tokens", data=np.arange(99)),
    )
    dataset(
        "too-large",
        f"token 7 is {vocabulary}",
        lambda file: file.create_dataset("tokens", data=ids(7, vocabulary)),
    )
    dataset("negative", "token 3 is -1", lambda file: file.create_dataset("tokens", data=ids(3, -1)))
    dataset(
        "never-written",
        "stores 0",
        lambda file: file.create_dataset("tokens", (10**12,), "<i4", chunks=(1024,), compression="gzip"),
    )
    dataset("soft-loop", "tokens", lambda file: file.__setitem__("tokens", h5py.SoftLink("/tokens")))
    dataset("vocab-size-is-text", "'vocab_size'", lambda file: with_attribute(file, "vocab_size", "many"))
    dataset(
        "hash-is-no-text",
        "'tokenizer_sha256'",
        lambda file: with_attribute(file, "tokenizer_sha256", b"\xff\xfe\x01"),
    )
    return cases


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


def weights(folder: Path) -> list[Case]:
    """Models whose model.safetensors is wrong in one way."""
    header, data = split(models.LLAMA / "model.safetensors")
    whole = pack(header, data)
    cases: list[Case] = []

    def add(title: str, message: str, content: bytes) -> None:
        path = models.copy_model(models.LLAMA, folder / title)
        (path / "model.safetensors").write_bytes(content)
        cases.append(Case(title, path, f"model.safetensors: .*{message}"))

    def edited(title: str, message: str, edit: Callable[[Header], object]) -> None:
        copy = json.loads(json.dumps(header))
        edit(copy)
        add(title, message, pack(copy, data))

    def entry(title: str, message: str, tensor: str, **changes: Any) -> None:
        edited(title, f"tensor '{tensor}': .*{message}", lambda copy: copy[tensor].update(changes))

    add("truncated", "truncated", whole[:-100])
    add("empty", "has 0 bytes", b"")
    add("seven-bytes", "has 7 bytes", whole[:7])
    add("wrong-magic", "header claims", b"PK\x03\x04" + whole[4:])
    add("text", "header claims", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    add("header-beyond-the-file", "truncated", pack(header, data, len(whole)))
    add("header-is-no-json", "not valid JSON", pack(b"{" + b"x" * 40, data))
    add("header-is-a-list", "does not start with", pack(b"[1, 2]", data))
    add("header-nests-deeply", "100 deep", pack(b'{"a":' + b"[" * 9999 + b"]" * 9999 + b"}", b""))
    add("longer-than-it-says", "longer than its header says", whole + b"more")
    add(
        "tensor-twice",
        f"'{NORM}' occurs twice",
        pack(json.dumps(header)[:-1].encode() + f',"{NORM}":{{}}}}'.encode(), data),
    )
    begin, end = header[NORM]["data_offsets"]
    size = end - begin
    outside = [len(data), len(data) + size]
    entry("offsets-outside", "data_offsets is .*truncated", NORM, data_offsets=outside)
    other = next(
        e["data_offsets"] for n, e in header.items() if n != "__metadata__" and e["data_offsets"][0] == 0
    )
    overlap = [other[0], other[0] + size]
    edited("offsets-overlap", "tensors overlap", lambda copy: copy[NORM].update(data_offsets=overlap))
    entry("offsets-backwards", "expected begin <= end", NORM, data_offsets=[end, begin])
    entry("offsets-negative", "data_offsets holds -2", NORM, data_offsets=[-2, size - 2])
    entry("offsets-of-another-size", "span", NORM, data_offsets=[begin, end - 2])
    entry("shape-overflows", r"larger than 2\^63 bits", NORM, shape=[2**62, 2**62])
    entry("shape-negative", "shape holds -72", NORM, shape=[-72])
    entry("shape-fractional", r"shape holds 72\.5", NORM, shape=[72.5])
    entry("dtype-unknown", 'unknown dtype "FLOAT"', NORM, dtype="FLOAT")
    entry("dtype-of-integers", "found dtype I16, expected F32, F16 or BF16", NORM, dtype="I16")
    shape = header[QUERY]["shape"]
    entry("shape-transposed", "found shape", QUERY, shape=[shape[0] * 2, shape[1] // 2])
    edited("shape-missing", f"tensor '{NORM}': 'shape' is missing", lambda copy: copy[NORM].pop("shape"))
    edited("tensor-renamed", f"'{QUERY}' is missing", lambda copy: copy.update(x=copy.pop(QUERY)))
    vocabulary, width = header[EMBEDDING]["shape"]
    bytes_of_head = (vocabulary - 1) * width * 2
    head = {
        "dtype": "BF16",
        "shape": [vocabulary - 1, width],
        "data_offsets": [len(data), len(data) + bytes_of_head],
    }
    add(
        "head-added-with-another-shape",
        "'lm_head.weight': found shape",
        pack({**header, "lm_head.weight": head}, data + bytes(bytes_of_head)),
    )
    bias = {"dtype": "BF16", "shape": [shape[0]], "data_offsets": [len(data), len(data) + 2 * shape[0]]}
    name = QUERY.replace("weight", "bias")
    add("bias-that-nobody-knows", "", pack({**header, name: bias}, data + bytes(2 * shape[0])))
    cases[-1] = Case("bias-that-nobody-knows", cases[-1].path, f"'{name}' is a bias")
    return cases


def shards(folder: Path) -> list[Case]:
    """Models in shards whose index and shards do not agree."""
    index_name = "model.safetensors.index.json"
    index = json.loads((models.SHARDED / index_name).read_text())
    names = sorted(set(index["weight_map"].values()))
    first = next(name for name in sorted(index["weight_map"]) if name.endswith("norm.weight"))
    elsewhere = next(name for name in names if name != index["weight_map"][first])
    cases: list[Case] = []

    def add(title: str, message: str, edit: Callable[[Path], object]) -> None:
        path = models.copy_model(models.SHARDED, folder / title)
        edit(path)
        cases.append(Case(title, path, message))

    def mapped(title: str, message: str, **weight_map: str) -> None:
        changed = {**index, "weight_map": {**index["weight_map"], **weight_map}}
        add(title, message, lambda path: (path / index_name).write_text(json.dumps(changed)))

    add(
        "shard-missing",
        f"names the shard '{names[1]}', which is missing",
        lambda path: (path / names[1]).unlink(),
    )
    add("shard-truncated", f"{names[1]}: .*truncated", lambda path: shorten(path / names[1], 100))
    add("shard-empty", f"{names[1]}: has 0 bytes", lambda path: (path / names[1]).write_bytes(b""))
    add(
        "shard-of-another",
        "is in .* and in",
        lambda path: (path / names[1]).write_bytes((path / names[0]).read_bytes()),
    )
    add("index-empty", "not valid JSON", lambda path: (path / index_name).write_text(""))
    add("index-truncated", "not valid JSON", lambda path: shorten(path / index_name, 40))
    add("index-without-map", "'weight_map' is missing", lambda path: (path / index_name).write_text("{}"))
    add(
        "index-names-nothing",
        "names no tensor",
        lambda path: (path / index_name).write_text('{"weight_map":{}}'),
    )
    add(
        "tensor-in-two-shards-of-the-index",
        "occurs twice",
        lambda path: (path / index_name).write_text(
            json.dumps(index).replace('"weight_map": {', f'"weight_map": {{"{first}": "{elsewhere}", ')
        ),
    )
    mapped(
        "index-stale",
        f"'{first}' is in '{elsewhere}', but it is in .*: the index is stale",
        **{first: elsewhere},
    )
    mapped("index-names-a-tensor-too-many", "'one.more' .*no shard has it", **{"one.more": names[0]})
    mapped(
        "index-leaves-the-folder", "expected the name of a file in this folder", **{first: f"../{names[0]}"}
    )
    mapped("index-names-no-file", "found 7, expected a file name", **{first: 7})  # type: ignore[arg-type]
    fewer = {name: file for name, file in index["weight_map"].items() if name != first}
    add(
        "index-forgets-a-tensor",
        f"does not name tensor '{first}'",
        lambda path: (path / index_name).write_text(json.dumps({**index, "weight_map": fewer})),
    )
    return cases


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
