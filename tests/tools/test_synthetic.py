#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/make_synthetic_model.py. Exit status 77: build/venv is missing."""

from __future__ import annotations

import json
import unittest

from support import Scratch, in_environment, run_tool

if __name__ == "__main__":
    in_environment()

import common  # noqa: E402
import h5py  # noqa: E402
import make_synthetic_model as synthetic  # noqa: E402
import numpy as np  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402


class Synthetic(Scratch):
    """tools/make_synthetic_model.py."""

    def test_tensors_and_config_agree(self) -> None:
        """Every tensor's shape follows from config.json; finite values with the promised deviations."""
        out = self.tiny_model("model", "--dtype", "f32")
        config = json.loads((out / "config.json").read_text())
        weights = load_file(out / "model.safetensors")
        hidden, mlp, blocks = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
        self.assertEqual(len(weights), 3 + 9 * blocks)
        self.assertEqual(weights["lm_head.weight"].shape, (config["vocab_size"], hidden))
        self.assertEqual(weights["model.layers.3.mlp.down_proj.weight"].shape, (hidden, mlp))
        key_rows = config["num_key_value_heads"] * config["head_dim"]
        self.assertEqual(weights["model.layers.0.self_attn.k_proj.weight"].shape, (key_rows, hidden))
        self.assertTrue(all(np.isfinite(values).all() for values in weights.values()))
        gate = weights["model.layers.1.mlp.gate_proj.weight"]
        self.assertAlmostEqual(float(gate.std()) * hidden**0.5, 1.0, delta=0.05)
        self.assertGreater(float(weights["model.norm.weight"].min()), 0)

    def test_the_default_is_bfloat16(self) -> None:
        """The float32 values, rounded."""
        rounded = self.tiny_model("rounded") / "model.safetensors"
        header = common.read_safetensors_header(rounded)
        self.assertEqual({entry["dtype"] for entry in header.values()}, {"BF16"})
        begin, end = header["model.norm.weight"]["data_offsets"]
        exact = load_file(self.tiny_model("exact", "--dtype", "f32") / "model.safetensors")[
            "model.norm.weight"
        ]
        with open(rounded, "rb") as stream:
            stream.seek(8 + int.from_bytes(stream.read(8), "little") + begin)
            self.assertEqual(stream.read(end - begin), common.to_bfloat16(exact).tobytes())

    def test_values_depend_on_seed_and_name_alone(self) -> None:
        """Fewer blocks: the same values; another seed: others; no two matrices alike."""
        whole = load_file(self.tiny_model("a", "--dtype", "f32") / "model.safetensors")
        part = load_file(self.tiny_model("b", "--dtype", "f32", "--blocks", 1) / "model.safetensors")
        other = load_file(self.tiny_model("c", "--dtype", "f32", "--seed", 2) / "model.safetensors")
        self.assertEqual(len(part), 3 + 9)
        for name, values in part.items():
            self.assertEqual(values.tobytes(), whole[name].tobytes(), name)
        name = "model.layers.0.mlp.up_proj.weight"
        self.assertFalse(np.array_equal(whole[name], other[name]))
        self.assertFalse(np.array_equal(whole[name], whole["model.layers.1.mlp.up_proj.weight"]))
        self.assertFalse(np.array_equal(whole[name], whole["model.layers.0.mlp.gate_proj.weight"]))

    def test_shards_cover_each_tensor_once_below_the_limit(self) -> None:
        """LLaMA-2-70B in bfloat16, without writing it."""
        tensors = synthetic.model_tensors(synthetic.SHAPES["llama-2-70b"], 80, None)
        self.assertAlmostEqual(sum(t.values for t in tensors) / 1e9, 68.98, delta=0.01)  # its model card: 69B
        shards = synthetic.split_shards(tensors, 2)
        self.assertEqual([t.name for shard in shards for t in shard], [t.name for t in tensors])
        self.assertLess(max(sum(2 * t.values for t in shard) for shard in shards), 5e9)

    def test_known_sizes(self) -> None:
        """Parameters of the real models."""
        for name, expected in (
            ("llama-2-7b", 6_738_415_616),
            ("llama-3-8b", 8_030_261_248),
            ("smollm2-135m", 134_515_008),
        ):
            shape = synthetic.SHAPES[name]
            found = sum(t.values for t in synthetic.model_tensors(shape, shape.blocks, None))
            self.assertEqual(found, expected, name)

    def test_holes_read_as_zeros_and_take_no_room(self) -> None:
        """Norms, embedding and the first block have values; the file's size is the full one."""
        out = self.tiny_model("model", "--dtype", "f32", "--sparse-on-disk", 1)
        weights = load_file(out / "model.safetensors")
        dense = load_file(self.tiny_model("dense", "--dtype", "f32") / "model.safetensors")
        for name, values in weights.items():
            block = int(name.split(".")[2]) if name.startswith("model.layers") else 0
            hole = name == "lm_head.weight" or (block >= 1 and "norm" not in name)
            np.testing.assert_array_equal(values, 0 * values if hole else dense[name], err_msg=name)
        common.read_safetensors_header(out / "model.safetensors")

    def test_tokens_are_ids_of_the_vocabulary(self) -> None:
        """As many as asked, the attributes of a token file."""
        path = self.folder / "t.h5"
        self.tiny_model("model", "--tokens", path, "--token-count", 5000)
        with h5py.File(path) as file:
            ids = file["tokens"][:]
            self.assertEqual((ids.dtype, len(ids), file.attrs["vocab_size"]), (np.int32, 5000, 512))
            self.assertEqual(file.attrs["tokenizer_sha256"], "")
        self.assertEqual((ids.min() >= 0, ids.max() < 512), (True, True))
        self.assertGreater(len(np.unique(ids)), 500)

    def test_bad_arguments_and_full_folders_are_refused(self) -> None:
        """Exit status 2, a message, nothing written."""
        for bad in (("--blocks", 0), ("--token-count", 0), ("--sparse-on-disk", -1)):
            done = run_tool("make_synthetic_model.py", "--shape", "tiny", "--out", self.folder / "x", *bad)
            self.assertEqual((done.returncode, (self.folder / "x").exists()), (2, False), bad)
        out = self.tiny_model()
        done = run_tool("make_synthetic_model.py", "--shape", "tiny", "--out", out)
        self.assertEqual((done.returncode, "is not empty" in done.stderr), (2, True))
        done = run_tool("make_synthetic_model.py", "--shape", "tiny", "--out", out, "--force")
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
