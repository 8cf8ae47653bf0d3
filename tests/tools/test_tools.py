#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of the Python tools, on data made here. Exit status 77: build/venv is missing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import subprocess
import tempfile
import unittest
import zlib
from pathlib import Path
from typing import Any

from support import Scratch, in_environment, run_tool

if __name__ == "__main__":
    in_environment()

import gguf  # noqa: E402
import common  # noqa: E402
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import zstandard  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tokenizers.pre_tokenizers import ByteLevel  # noqa: E402

import compare_reference  # noqa: E402
import quickstart_texts  # noqa: E402
import tokenize_text  # noqa: E402

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, MLP, BLOCKS = 4, 2, 8, 32, 64, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["t h", "Ġ th", "Ġth e", "1 9"]


def vocabulary() -> list[str]:
    """Special tokens, the 256 byte characters, and what the merges make."""
    return [*SPECIAL, *sorted(ByteLevel.alphabet()), *(m.replace(" ", "") for m in MERGES)]


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """The order in which llama.cpp stores q and k: of each head, row i of both halves side by side."""
    out = np.empty_like(rows)
    size = rows.shape[0] // heads
    for head in range(heads):
        for i in range(size // 2):
            out[head * size + 2 * i] = rows[head * size + i]
            out[head * size + 2 * i + 1] = rows[head * size + size // 2 + i]
    return out


def block_weights(random: np.random.Generator) -> dict[str, np.ndarray]:
    """One block's tensors by their Hugging Face names."""

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    return {
        "input_layernorm": normal(HIDDEN),
        "self_attn.q_proj": normal(HEADS * HEAD_DIM, HIDDEN),
        "self_attn.k_proj": normal(KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.v_proj": normal(KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.o_proj": normal(HIDDEN, HEADS * HEAD_DIM),
        "post_attention_layernorm": normal(HIDDEN),
        "mlp.gate_proj": normal(MLP, HIDDEN),
        "mlp.up_proj": normal(MLP, HIDDEN),
        "mlp.down_proj": normal(HIDDEN, MLP),
    }


GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, architecture: str = "llama", pre: str = "smollm") -> dict[str, np.ndarray]:
    """A tiny GGUF model; returns its weights by their Hugging Face names."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    embedding = random.standard_normal((len(tokens), HIDDEN), dtype=np.float32)
    norm = random.standard_normal(HIDDEN, dtype=np.float32)
    weights = {"model.embed_tokens.weight": embedding, "model.norm.weight": norm}
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", norm)
    for block in range(BLOCKS):
        for name, values in block_weights(random).items():
            weights[f"model.layers.{block}.{name}.weight"] = values
            heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(name)
            stored = values if heads is None else interleave(values, heads)
            writer.add_tensor(f"blk.{block}.{GGUF_NAMES[name]}.weight", stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def read_tokens(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """A token file's ids and attributes."""
    with h5py.File(path, "r") as file:
        return file["tokens"][:], dict(file.attrs)


class GgufConverter(Scratch):
    """tools/gguf_to_huggingface.py."""

    def test_float32_weights_are_the_same_bits(self) -> None:
        """Names, shapes, the order of q and k rows, and config.json."""
        weights = write_gguf(self.folder / "m.gguf")
        out = self.folder / "model"
        done = run_tool("gguf_to_huggingface.py", self.folder / "m.gguf", out, "--dtype", "f32")
        self.assertEqual(done.returncode, 0, done.stderr)
        found = load_file(out / "model.safetensors")
        self.assertEqual(sorted(found), sorted(weights))
        for name, values in weights.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        config = json.loads((out / "config.json").read_text())
        self.assertEqual(config["rope_parameters"], {"rope_theta": 100000.0, "rope_type": "default"})
        self.assertEqual(config["rms_norm_eps"], 1e-5)
        self.assertEqual((config["head_dim"], config["num_key_value_heads"]), (HEAD_DIM, KV_HEADS))
        self.assertTrue(config["tie_word_embeddings"])
        self.assertEqual(config["dtype"], "float32")
        self.assertEqual([p.name for p in out.glob("*.part")], [])

    def test_shards_bfloat16_and_skipping(self) -> None:
        """Three shards hold every tensor once; a complete folder is left alone, a torn one is not."""
        weights = write_gguf(self.folder / "m.gguf")
        out = self.folder / "model"
        arguments = (self.folder / "m.gguf", out, "--shards", 3)
        self.assertEqual(run_tool("gguf_to_huggingface.py", *arguments).returncode, 0)
        index = json.loads((out / "model.safetensors.index.json").read_text())
        self.assertEqual(sorted(index["weight_map"]), sorted(weights))
        files = common.shard_files(out)
        self.assertEqual(len(files), 3)
        headers = [common.read_safetensors_header(file) for file in files]
        self.assertEqual(sum(len(header) for header in headers), len(weights))
        self.assertEqual({e["dtype"] for h in headers for e in h.values()}, {"BF16"})
        total = sum(2 * values.size for values in weights.values())
        self.assertEqual(index["metadata"]["total_size"], total)
        again = run_tool("gguf_to_huggingface.py", *arguments)
        self.assertIn("is complete", again.stdout)
        files[1].write_bytes(files[1].read_bytes()[:-1])
        again = run_tool("gguf_to_huggingface.py", *arguments)
        self.assertIn("Converting", again.stdout)
        common.read_safetensors_header(files[1])

    def test_bfloat16_rounds_to_nearest_even(self) -> None:
        """By hand: ties go to the even bit pattern."""
        bits = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0xFF800000], dtype="<u4")
        expected = [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xFF80]
        self.assertEqual(common.to_bfloat16(bits.view("<f4")).tolist(), expected)
        self.assertEqual(common.to_bfloat16(np.array([np.nan], dtype="<f4")).tolist(), [0x7FC0])

    def test_refusals(self) -> None:
        """Another architecture or pre-tokenizer: status 2 and a message that names it."""
        write_gguf(self.folder / "a.gguf", architecture="mamba")
        write_gguf(self.folder / "b.gguf", pre="unheard-of")
        for name, word in (("a.gguf", "mamba"), ("b.gguf", "unheard-of"), ("c.gguf", "no such file")):
            done = run_tool("gguf_to_huggingface.py", self.folder / name, self.folder / "out")
            self.assertEqual(done.returncode, 2)
            self.assertIn(word, done.stderr)
            self.assertFalse((self.folder / "out" / "config.json").exists())


class TokenFiles(Scratch):
    """tools/tokenize_text.py with the converted tokenizer."""

    def setUp(self) -> None:
        """Makes a model folder."""
        super().setUp()
        write_gguf(self.folder / "m.gguf")
        self.model = self.folder / "model"
        done = run_tool("gguf_to_huggingface.py", self.folder / "m.gguf", self.model)
        self.assertEqual(done.returncode, 0, done.stderr)

    def tokenize(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Runs the tool."""
        return run_tool("tokenize_text.py", *arguments, "--model", self.model)

    def test_round_trip_and_digits(self) -> None:
        """The text comes back; digits are single tokens though a merge "1 9" exists."""
        tokenizer = Tokenizer.from_file(str(self.model / "tokenizer.json"))
        text = "In 1919 the naïve <|im_end|> man\n\n  said: 日本\t!"
        tokenizer.encode_special_tokens = True
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        self.assertEqual(tokenizer.decode(ids, skip_special_tokens=False), text)
        names = [tokenizer.id_to_token(number) for number in ids]
        self.assertNotIn("19", names)
        self.assertIn("Ġthe", names)
        self.assertNotIn("<|im_end|>", names)
        tokenizer.encode_special_tokens = False
        self.assertEqual(tokenizer.encode("<|im_end|>").ids, [SPECIAL.index("<|im_end|>")])

    def test_attributes_and_split(self) -> None:
        """The two files together are the text, in order, without anything added."""
        text = "the end of the year 19\n" * 400
        (self.folder / "a.txt").write_text(text)
        out = self.folder / "a.h5"
        done = self.tokenize(self.folder / "a.txt", "--out", out, "--test-fraction", 0.25)
        self.assertEqual(done.returncode, 0, done.stderr)
        train, attributes = read_tokens(out)
        test, _ = read_tokens(self.folder / "a-test.h5")
        tokenizer = Tokenizer.from_file(str(self.model / "tokenizer.json"))
        whole = tokenizer.encode(text, add_special_tokens=False).ids
        self.assertEqual(np.concatenate([train, test]).tolist(), whole)
        self.assertEqual(len(test), round(len(whole) * 0.25))
        self.assertEqual(train.dtype, np.dtype("<u2"))
        digest = hashlib.sha256((self.model / "tokenizer.json").read_bytes()).hexdigest()
        self.assertEqual(attributes["tokenizer_sha256"], digest)
        self.assertEqual(attributes["vocab_size"], len(vocabulary()))
        self.assertEqual(attributes["source"], "a.txt")
        self.assertEqual(attributes["format_version"], 1)
        same = ("--out", out, "--test-fraction", 0.25)
        self.assertIn("is complete", self.tokenize(self.folder / "a.txt", *same).stdout)

    def test_what_is_there_is_complete_only_for_the_same_input_and_options(self) -> None:
        """Another text under the same name, another split or limit: written again. A missing text: an error."""
        text, out = self.folder / "a.txt", self.folder / "a.h5"
        text.write_text("the end of the year 19\n" * 40)
        self.assertEqual(self.tokenize(text, "--out", out).returncode, 0)
        before = len(read_tokens(out)[0])
        self.assertIn("is complete", self.tokenize(text, "--out", out).stdout)
        for options, expected in (
            (("--test-tokens", 10), before - 10),
            (("--test-tokens", 20), before - 20),
            (("--max-tokens", 30), 30),
            ((), before),
        ):
            self.assertIn(" tokens", self.tokenize(text, "--out", out, *options).stdout)
            self.assertEqual(len(read_tokens(out)[0]), expected, options)
        text.write_text("another text\n" * 40)
        self.assertIn("writing it again", self.tokenize(text, "--out", out).stdout)
        text.unlink()
        done = self.tokenize(text, "--out", out)
        self.assertEqual((done.returncode, "no such file" in done.stderr), (2, True), done.stderr)

    def test_bad_options_and_files_are_named_without_a_traceback(self) -> None:
        """A negative limit, a folder that cannot be written, a tokenizer.json of another form."""
        (self.folder / "a.txt").write_text("the end\n" * 40)
        (self.folder / "file").write_text("")
        other = self.folder / "other"
        other.mkdir()
        (other / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "unheard-of"}}')
        out = ("--out", self.folder / "b.h5")
        for words, expected in (
            ((*out, "--max-tokens", -5), "--max-tokens: found -5"),
            ((*out, "--max-tokens", 0), "--max-tokens: found 0"),
            (("--out", self.folder / "file" / "b.h5"), "file"),
            ((*out, "--model", other), "other/tokenizer.json: not a tokenizer"),
        ):
            done = run_tool("tokenize_text.py", self.folder / "a.txt", "--model", self.model, *words)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(expected, done.stderr)
            self.assertNotIn("Traceback", done.stderr)

    def test_a_folder_as_output(self) -> None:
        """The files in it are named after the first input, whether or not the folder is there yet."""
        text = "the end of the year 19\n" * 40
        for name, target in (("mine.txt", "new/"), ("mine.jsonl", "there"), ("texts", "there/")):
            with self.subTest(name=name):
                (self.folder / "there").mkdir(exist_ok=True)
                source = self.folder / name
                if name == "texts":
                    source.mkdir()
                    (source / "a.txt").write_text(text)
                else:
                    source.write_text(text if name.endswith(".txt") else json.dumps({"text": text}) + "\n")
                done = self.tokenize(source, "--out", f"{self.folder}/{target}", "--test-fraction", 0.1, "--force")
                self.assertEqual(done.returncode, 0, done.stderr)
                for end in ("", "-test"):
                    made = self.folder / target / f"{source.stem}{end}.h5"
                    self.assertGreater(len(read_tokens(made)[0]), 0)

    def test_pieces_give_the_tokens_of_the_whole(self) -> None:
        """A file read in small pieces has the ids of the uncut text."""
        text = "the  year\n\n 1919\nthe\tend \n\n\nof the\nth\r\nthe\n" * 200
        (self.folder / "a.txt").write_text(text, newline="")
        tokenizer, _, _ = tokenize_text.load_tokenizer(self.model)
        original, tokenize_text.PIECE = tokenize_text.PIECE, 64
        try:
            pieces = list(tokenize_text.documents([self.folder / "a.txt"]))
        finally:
            tokenize_text.PIECE = original
        self.assertGreater(len(pieces), 20)
        stream = io.BytesIO()
        count = tokenize_text.encode_to(stream, pieces, tokenizer, np.dtype("<u2"), None)
        whole = tokenizer.encode(text, add_special_tokens=False).ids
        self.assertEqual(np.frombuffer(stream.getvalue(), dtype="<u2").tolist(), whole)
        self.assertEqual(count, len(whole))

    def test_kinds_of_input(self) -> None:
        """A folder with .jsonl, .jsonl.gz and .jsonl.zst gives the texts in the order of names."""
        source = self.folder / "texts"
        (source / "inner").mkdir(parents=True)
        line = '{"text": "%s"}\n'
        (source / "a.jsonl").write_text(line % "the" + "\n" + line % "t")
        (source / "b.jsonl.gz").write_bytes(gzip.compress((line % "h").encode()))
        packed = zstandard.ZstdCompressor().compress((line % "1" + line % "9").encode())
        (source / "inner" / "c.jsonl.zst").write_bytes(packed)
        (source / "notes.md").write_text("not read")
        done = self.tokenize(source, "--out", self.folder / "t.h5")
        self.assertEqual(done.returncode, 0, done.stderr)
        tokens, _ = read_tokens(self.folder / "t.h5")
        tokenizer = Tokenizer.from_file(str(self.model / "tokenizer.json"))
        self.assertEqual([tokenizer.id_to_token(t) for t in tokens], ["th", "e", "t", "h", "1", "9"])

    def test_bad_input(self) -> None:
        """Broken UTF-8, a line without "text", an unknown suffix, too large a test part: status 2."""
        (self.folder / "broken.txt").write_bytes(b"abc\xff\n")
        (self.folder / "no.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
        (self.folder / "x.pdf").write_text("a")
        (self.folder / "short.txt").write_text("the")
        cases = (
            (["broken.txt"], "UTF-8"),
            (["no.jsonl"], "no.jsonl:2"),
            (["x.pdf"], "unknown kind"),
            (["short.txt", "--test-tokens", "50"], "would be empty"),
        )
        for arguments, word in cases:
            out = self.folder / "bad.h5"
            done = self.tokenize(self.folder / arguments[0], *arguments[1:], "--out", out)
            self.assertEqual((done.returncode, word in done.stderr), (2, True), done.stderr)
            self.assertFalse(out.exists())


class TextPieces(unittest.TestCase):
    """Reading in pieces."""

    def test_cuts_only_where_tokens_do_not_change(self) -> None:
        """After a line end with no white space on either side; nowhere else."""
        self.assertEqual(tokenize_text.cut_position("ab\ncd\n"), 3)
        self.assertEqual(tokenize_text.cut_position("ab\n\ncd\nef"), 7)
        self.assertEqual(tokenize_text.cut_position("ab\n cd \nef\n\n"), len("ab\n cd \nef\n\n"))

    def test_pieces_join_to_the_text(self) -> None:
        """Nothing is lost, with and without places to cut."""
        for text in ("line of words\nnext  \n\n  indented\n" * 3000, "x" * 50_000, ""):
            with tempfile.TemporaryFile("w+", newline="") as stream:
                stream.write(text)
                stream.seek(0)
                original, tokenize_text.PIECE = tokenize_text.PIECE, 1000
                try:
                    pieces = list(tokenize_text.text_pieces(stream))
                finally:
                    tokenize_text.PIECE = original
            self.assertEqual("".join(pieces), text)
            for piece in pieces[:-1]:
                self.assertLessEqual(len(piece), 10_000)


class RdbReader(unittest.TestCase):
    """Jane Austen's novels without R, on a file made here."""

    @staticmethod
    def record(lines: list[str | None], version: int = 3) -> bytes:
        """A character vector as R's lazy-load database stores it."""
        data = b"X\n" + struct.pack(">iii", version, 0x40201, 0x30500)
        if version == 3:
            data += struct.pack(">i", 5) + b"UTF-8"
        data += struct.pack(">ii", 16, len(lines))
        for line in lines:
            raw = b"" if line is None else line.encode()
            data += struct.pack(">ii", 0x40009, -1 if line is None else len(raw)) + raw
        return struct.pack(">I", len(data)) + zlib.compress(data)

    def test_two_records(self) -> None:
        """Versions 2 and 3, an empty line, NA and a letter beyond ASCII."""
        data = self.record(["EMMA", "", "é"]) + self.record([None, "end"], version=2)
        found = [quickstart_texts.string_vector(r) for r in quickstart_texts.rdb_records(data)]
        self.assertEqual(found, [["EMMA", "", "é"], ["", "end"]])

    def test_broken_files(self) -> None:
        """Cut, lying or foreign data is an error, never a wrong text."""
        good = self.record(["EMMA"])
        lying = struct.pack(">I", 7) + good[4:]
        for data in (good[:-3], lying, good + b"ab", b"\0\0\0\5hello"):
            with self.assertRaises(quickstart_texts.RdbError):
                list(quickstart_texts.rdb_records(data))
        with self.assertRaises(quickstart_texts.RdbError):
            quickstart_texts.string_vector(b"X\n" + struct.pack(">iiiii", 2, 0, 0, 13, 1))

    def test_bounded_text_ends_with_a_line(self) -> None:
        """The cut is at a line end within the size."""
        self.assertEqual(quickstart_texts.bounded(iter(["ab\ncd\n", "ef\ngh\n"]), 8), "ab\ncd\n")
        self.assertEqual(quickstart_texts.bounded(iter(["ab\n", "cd\n"]), 100), "ab\ncd\n")


class ReferenceComparison(unittest.TestCase):
    """tools/compare_reference.py."""

    def test_limits(self) -> None:
        """mean4 is a geometric mean; each cell has its own limit."""
        domains = compare_reference.DOMAINS
        summary = {"perplexity": {d: {"dense": 2.0**i, "merged": 8.0} for i, d in enumerate(domains)}}
        summary["perplexity"]["pydoc"]["standalone"] = {"pydoc": 10.3, "jargon": 10.3}
        table = compare_reference.run_table(summary, "fedspallm")
        self.assertAlmostEqual(table["dense"]["mean4"], 2.0**1.5)
        reference = {
            "dense": {**table["dense"], "austen": 1.001},
            "fedspallm": {**table["fedspallm"], "austen": 8.3},
            "standalone_pydoc": {"pydoc": 10.0},
            "standalone_jargon": {"pydoc": 10.0},
        }
        _, misses = compare_reference.compare(table, reference)
        self.assertEqual(
            [miss.split(":")[0] for miss in misses], ["dense, austen", "standalone_pydoc, pydoc"]
        )


if __name__ == "__main__":
    unittest.main()
