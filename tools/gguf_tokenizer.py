# SPDX-License-Identifier: Apache-2.0
"""Builds a Hugging Face tokenizer.json from the vocabulary and merges inside a GGUF file.

The pre-tokenizer is chosen by the file's own name for it. Getting it wrong changes the token ids
without any error: "smollm" splits digits one by one, which general converters leave out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from common import atomic_file, fail, write_json

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
CONTROL_TOKEN = 3
USER_DEFINED_TOKEN = 4


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer that llama.cpp means by NAME."""
    if name == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    if name in ("default", "gpt-2"):
        return ByteLevel(add_prefix_space=False)
    if name in ("llama-bpe", "llama3", "qwen2"):
        pattern = QWEN2_PATTERN if name == "qwen2" else LLAMA3_PATTERN
        split = Split(Regex(pattern), behavior="isolated", invert=False)
        return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    fail(
        f"pre-tokenizer '{name}' is not known (known: smollm, gpt-2, llama-bpe, qwen2). "
        "Give the model's own tokenizer.json with --tokenizer FILE"
    )


def build_tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's key-values describe."""
    kind = fields.get("tokenizer.ggml.model")
    if kind != "gpt2":
        fail(
            f"tokenizer model '{kind}' cannot be converted (only byte-level BPE, 'gpt2', can). "
            "Give the model's own tokenizer.json with --tokenizer FILE"
        )
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields.get("tokenizer.ggml.token_type", [1] * len(tokens))
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizer(fields.get("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = ByteLevelDecoder()
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]
    added = [t for t, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED_TOKEN]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in added])
    return tokenizer


def special_tokens(fields: dict[str, Any]) -> dict[str, str]:
    """Names of the special tokens, as special_tokens_map.json spells them."""
    tokens = fields["tokenizer.ggml.tokens"]
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {}
    for name, key in keys.items():
        number = fields.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            found[f"{name}_token"] = tokens[number]
    return found


def write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    tokenizer = build_tokenizer(fields)
    with atomic_file(folder / "tokenizer.json") as stream:
        stream.write(tokenizer.to_str(pretty=True).encode())
    special = special_tokens(fields)
    write_json(folder / "special_tokens_map.json", special)
    config: dict[str, Any] = dict(special)
    config["add_prefix_space"] = False
    config["clean_up_tokenization_spaces"] = False
    config["model_max_length"] = fields[f"{fields['general.architecture']}.context_length"]
    # The class that takes tokenizer.json as it is; others rebuild the pre-tokenizer on their own.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if "tokenizer.chat_template" in fields:
        config["chat_template"] = fields["tokenizer.chat_template"]
    write_json(folder / "tokenizer_config.json", config)
