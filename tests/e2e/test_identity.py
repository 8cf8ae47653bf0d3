#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The output directory: the input's, but for the data of pruned matrices (ruling 15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import ProgramTest, enter_venv, file_digests, main, merged

if __name__ == "__main__":
    enter_venv()

import numpy as np  # noqa: E402

import models  # noqa: E402


class Identity(ProgramTest):
    def pruned(self, source: Path, /, **sections: Any) -> Path:
        folder = self.folder / self._testMethodName
        config = models.run_config(source, folder / "run", models.clients_of(folder / "tokens", source, 2))
        self.prune(merged(config, sections))
        return folder / "run" / "model"

    def input_model(self, source: Path) -> Path:
        return models.copy_model(source, self.folder / self._testMethodName / "input")

    def test_sparsity_zero_changes_no_byte(self) -> None:
        for method in ("sparsegpt", "wanda", "magnitude", "random"):
            with self.subTest(method=method):
                model = models.copy_model(models.LLAMA, self.folder / "zero" / method / "input")
                config = models.run_config(
                    model,
                    self.folder / "zero" / method / "run",
                    models.clients_of(self.folder / "zero" / method, model, 3),
                )
                self.prune(merged(config, {"prune": {"method": method, "sparsity": 0.0}}), ranks=2)
                self.assertEqual(
                    file_digests(self.folder / "zero" / method / "run" / "model"), file_digests(model)
                )

    def test_sparsity_zero_keeps_negative_zeros_and_tiny_values(self) -> None:
        def edit(tensors: dict[str, models.Tensor]) -> None:
            for name, tensor in tensors.items():
                if tensor.data.ndim == 2 and ".layers." in name:
                    tensor.data.ravel()[:6] = np.array([-0.0, 1e-12, -1e-20, 1e-30, -1e-39, 0.0], "<f4")

        model = models.change(self.input_model(models.OPT), edit)
        before, after = (
            models.load_model(model),
            models.load_model(self.pruned(model, prune={"sparsity": 0.0})),
        )
        for name, tensor in after.items():
            np.testing.assert_array_equal(tensor.data.view("<u4"), before[name].data.view("<u4"), name)

    def test_sparsity_zero_of_shards_changes_no_byte(self) -> None:
        model = self.input_model(models.SHARDED)
        self.assertEqual(file_digests(self.pruned(model, prune={"sparsity": 0.0})), file_digests(model))

    def test_shards_keep_names_headers_and_index(self) -> None:
        model = self.input_model(models.SHARDED)
        output = self.pruned(model)
        self.assertEqual(file_digests(output).keys(), file_digests(model).keys())
        changed = 0
        for shard in sorted(model.glob("*.safetensors")):
            before, after = shard.read_bytes(), (output / shard.name).read_bytes()
            header = 8 + int.from_bytes(before[:8], "little")
            self.assertEqual(after[:header], before[:header], shard.name)
            self.assertEqual(len(after), len(before), shard.name)
            changed += before != after
        self.assertGreater(changed, 0)
        for name, digest in file_digests(model).items():
            if not name.endswith(".safetensors"):
                self.assertEqual(file_digests(output)[name], digest, name)

    def test_unknown_tensors_pass_through(self) -> None:
        extra = models.Tensor("I64", np.arange(5))

        def add(tensors: dict[str, models.Tensor]) -> None:
            tensors["a.tensor.of.somebody.else"] = extra
            tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = models.Tensor("F32", np.ones(6, "<f4"))
            tensors["zzz.bytes"] = models.Tensor("U8", np.arange(7, dtype="u1"))

        model = models.change(self.input_model(models.LLAMA), add)
        before, after = models.load_model(model), models.load_model(self.pruned(model))
        self.assertEqual(list(before), list(after))
        for name in (
            "a.tensor.of.somebody.else",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "zzz.bytes",
        ):
            self.assertEqual(after[name].data.tobytes(), before[name].data.tobytes(), name)

    def test_other_weight_formats_and_stray_shards_are_not_taken_along(self) -> None:
        model = self.input_model(models.LLAMA)
        (model / "pytorch_model.bin").write_bytes(b"old weights")
        (model / "stray.safetensors").write_bytes(b"not of this model")
        names = file_digests(self.pruned(model)).keys()
        self.assertNotIn("pytorch_model.bin", names)
        self.assertNotIn("stray.safetensors", names)

    def test_float32_output_of_a_bfloat16_model(self) -> None:
        model = self.input_model(models.LLAMA)
        output = self.pruned(model, model={"dtype": "float32"}, prune={"sparsity": 0.0})
        before, after = models.load_model(model), models.load_model(output)
        self.assertEqual(before.keys(), after.keys())
        for name, tensor in after.items():
            self.assertEqual(tensor.dtype, "F32", name)
            np.testing.assert_array_equal(tensor.widened(), before[name].widened(), name)
        self.assertRegex((output / "config.json").read_text(), r'dtype": "float32"')

    def test_no_part_files_are_left(self) -> None:
        output = self.pruned(self.input_model(models.LLAMA))
        self.assertEqual(list(output.parent.rglob("*.part")), [])


if __name__ == "__main__":
    main()
