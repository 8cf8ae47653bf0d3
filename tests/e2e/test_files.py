#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""inspect, export and unpack on the files of a real run, sound and tampered with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from harness import BAD_INPUT, CHECK_FAILED, ProgramTest, enter_venv, file_digests, main, merged, run

if __name__ == "__main__":
    enter_venv()

import numpy as np  # noqa: E402

import models  # noqa: E402
import oracle  # noqa: E402

TOP_KEYS = {"format_version", "kind", "complete", "ok", "problems", "sparsity", "matrices"}
MATRIX_KEYS = {"name", "block", "rows", "columns", "dropped", "zeros", "target", "votes"}


class RunFiles(ProgramTest):
    """One run of three clients on two ranks, read only; tests that change files copy it first."""

    model: Path
    run_dir: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.model = models.copy_model(models.LLAMA, cls.folder / "input")
        cls.run_dir = cls.folder / "run"
        clients = models.clients_of(cls.folder / "tokens", cls.model, 3)
        config = models.run_config(cls.model, cls.run_dir, clients)
        cls().prune(merged(config, {"run": {"keep_clients": True}, "prune": {"sparsity": 0.55}}), ranks=2)

    def setUp(self) -> None:
        self.here = self.folder / self._testMethodName

    def copy_of_run(self) -> Path:
        return Path(shutil.copytree(self.run_dir, self.here / "run"))

    def problems(self, status: int, path: Path) -> dict[str, Any]:
        outcome = run("inspect", path, "--json")
        self.assertEqual(outcome.status, status, str(outcome))
        return dict(outcome.json())


class Inspect(RunFiles):
    def test_json_of_a_run_equals_an_independent_count(self) -> None:
        for path in (self.run_dir, self.run_dir / "run.h5"):
            found = self.problems(0, path)
            self.assertLessEqual(TOP_KEYS, found.keys())
            self.assertEqual((found["format_version"], found["kind"]), (1, "run"))
            self.assertEqual((found["complete"], found["ok"], found["problems"]), (True, True, []))
            records = {
                name: (block, matrix)
                for (_, block), matrices in oracle.read_blocks(self.run_dir / "run.h5").items()
                for name, matrix in matrices.items()
            }
            self.assertEqual([entry["name"] for entry in found["matrices"]], list(records))
            dropped = weights = 0
            for entry in found["matrices"]:
                self.assertEqual(entry.keys(), MATRIX_KEYS)
                block, record = records[entry["name"]]
                self.assertEqual(entry["block"], block)
                self.assertEqual((entry["rows"], entry["columns"]), record.mask.shape)
                self.assertEqual((entry["dropped"], entry["zeros"]), (record.dropped, record.zeros))
                self.assertEqual(entry["target"], oracle.exact_count(0.55, record.mask.size))
                assert record.votes is not None
                self.assertEqual(entry["votes"], np.bincount(record.votes.ravel(), minlength=4).tolist())
                dropped, weights = dropped + record.dropped, weights + record.mask.size
            self.assertAlmostEqual(found["sparsity"], dropped / weights, places=12)

    def test_json_of_models_counts_their_zeros(self) -> None:
        for model in (self.model, self.run_dir / "model"):
            found = self.problems(0, model)
            self.assertEqual((found["kind"], found["complete"], found["ok"]), ("model", True, True))
            tensors = models.load_model(model)
            for entry in found["matrices"]:
                self.assertEqual(entry["zeros"], int((tensors[entry["name"]].widened() == 0).sum()))
            self.assertEqual(len(found["matrices"]), 14)

    def test_text_ends_with_the_verdict(self) -> None:
        text = self.done("inspect", self.run_dir).stdout
        self.assertRegex(text, r"q_proj.*\n(.*\n)*.*55\.\d+ %")
        self.assertIn("no differences", text)

    def test_a_weight_that_came_back_is_found(self) -> None:
        copy = self.copy_of_run()
        name = "model.layers.1.mlp.up_proj.weight"

        def revive(tensors: dict[str, models.Tensor]) -> None:
            flat = tensors[name].data.ravel()
            flat[np.flatnonzero(flat == 0)[0]] = 0x3F80  # 1.0

        models.change(copy / "model", revive)
        found = self.problems(CHECK_FAILED, copy)
        self.assertFalse(found["ok"])
        self.assertTrue(any(name in problem for problem in found["problems"]), found["problems"])
        self.assertFalse(any("layers.0" in problem for problem in found["problems"]), found["problems"])
        self.assertIn(name, run("inspect", copy).stdout)

    def test_a_changed_weight_with_the_same_count_is_found(self) -> None:
        copy = self.copy_of_run()
        name = "model.layers.0.self_attn.q_proj.weight"

        def change(tensors: dict[str, models.Tensor]) -> None:
            flat = tensors[name].data.ravel()
            flat[np.flatnonzero(flat)[0]] ^= 1

        models.change(copy / "model", change)
        self.assertTrue(any(name in problem for problem in self.problems(CHECK_FAILED, copy)["problems"]))

    def test_a_torn_block_file_is_a_failed_check(self) -> None:
        for damage in ("flip", "truncate", "remove"):
            with self.subTest(damage=damage):
                copy = Path(shutil.copytree(self.run_dir, self.here / damage))
                block = copy / "blocks" / "r01-b0001.h5"
                content = bytearray(block.read_bytes())
                if damage == "remove":
                    block.unlink()
                else:
                    content[len(content) // 2] ^= 0x40
                    block.write_bytes(content if damage == "flip" else content[: len(content) // 2])
                outcome = run("inspect", copy, "--json")
                self.assertEqual(outcome.status, CHECK_FAILED, str(outcome))
                self.assertIn("r01-b0001.h5", outcome.stderr)

    def test_what_is_no_run_and_no_model_is_bad_input(self) -> None:
        self.here.mkdir()
        (self.here / "text.h5").write_text("no HDF5")
        self.refused(BAD_INPUT, ["text.h5"], "inspect", self.here / "text.h5")
        self.refused(BAD_INPUT, ["nothing"], "inspect", self.here / "nothing")
        self.refused(BAD_INPUT, [self._testMethodName], "inspect", self.here)


class Export(RunFiles):
    def test_huggingface_directory_equals_the_output_model(self) -> None:
        self.done("export", self.run_dir, "--out", self.here)
        self.assertEqual(file_digests(self.here), file_digests(self.run_dir / "model"))

    def test_a_moved_run_without_its_model_can_be_exported(self) -> None:
        copy = self.copy_of_run()
        shutil.rmtree(copy / "model")
        self.done("export", copy, "--out", self.here / "out", "--model", self.model)
        self.assertEqual(file_digests(self.here / "out"), file_digests(self.run_dir / "model"))

    def test_clients_result_is_its_own_file_over_the_dense_model(self) -> None:
        before = models.load_model(self.model)
        for client in ("client-0", "client-2"):
            out = self.here / client
            self.done("export", self.run_dir, "--out", out, "--client", client)
            after = models.load_model(out)
            self.assertEqual(list(after), list(before))
            records = {
                name: matrix
                for matrices in oracle.read_blocks(self.run_dir / "clients" / f"{client}.h5").values()
                for name, matrix in matrices.items()
            }
            self.assertEqual(len(records), 14)
            for name, tensor in after.items():
                if name in records:
                    np.testing.assert_array_equal(tensor.widened(), records[name].values, name)
                else:
                    self.assertEqual(tensor.data.tobytes(), before[name].data.tobytes(), name)

    def test_bitmask_file_is_smaller_and_lossless(self) -> None:
        self.done("export", self.run_dir, "--out", self.here / "small", "--format", "bitmask")
        file = self.here / "small" / "model.fspm"
        large = sum(path.stat().st_size for path in (self.run_dir / "model").iterdir())
        pruned = sum(
            tensor.data.nbytes
            for name, tensor in models.load_model(self.model).items()
            if "_proj.weight" in name
        )
        saved = (large - file.stat().st_size) / pruned
        self.assertGreater(
            saved, 0.55 - 1 / 16 - 0.04, "55 % of the values go, a bit of 16 each and headers come"
        )
        self.done("unpack", file, "--model", self.model, "--out", self.here / "large")
        self.assertEqual(file_digests(self.here / "large"), file_digests(self.run_dir / "model"))

    def test_damaged_bitmask_file_is_refused(self) -> None:
        self.done("export", self.run_dir, "--out", self.here, "--format", "bitmask")
        file = self.here / "model.fspm"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        self.refused(
            BAD_INPUT, ["model.fspm"], "unpack", file, "--model", self.model, "--out", self.here / "out"
        )
        self.assertFalse((self.here / "out").exists())

    def test_bad_requests_are_refused(self) -> None:
        out = ("--out", self.here / "out")
        self.refused(
            BAD_INPUT, ["bitmask", "hugging"], "export", self.run_dir, *out, "--format", "huggingfce"
        )
        self.refused(BAD_INPUT, ["nobody"], "export", self.run_dir, *out, "--client", "nobody")
        self.refused(BAD_INPUT, ["nothing"], "export", self.folder / "nothing", *out)
        self.assertFalse((self.here / "out").exists())

    def test_another_dense_model_is_refused(self) -> None:
        other = models.copy_model(models.SHARDED, self.here / "other")
        self.refused(
            BAD_INPUT, ["model"], "export", self.run_dir, "--out", self.here / "out", "--model", other
        )


if __name__ == "__main__":
    main()
