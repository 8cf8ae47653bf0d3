#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad models, token files and places: one exit status on all ranks, one message that names what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from harness import BAD_INPUT, NO_RESOURCES, NUMERICAL, enter_venv, file_digests, main, merged

if __name__ == "__main__":
    enter_venv()

import h5py  # noqa: E402
import numpy as np  # noqa: E402

import models  # noqa: E402


class Errors(models.ModelTest):
    """Every case changes one thing of a configuration that runs."""

    vocab: int

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.vocab = models.vocabulary(cls.model)

    def config(self, **changes: Any) -> dict[str, Any]:
        return merged(
            models.run_config(self.model, self.folder / self._testMethodName, self.clients), changes
        )

    def refuse(
        self, status: int, expected: list[str], *arguments: object, ranks: int = 2, **changes: Any
    ) -> None:
        config = self.config(**changes)
        self.refused(status, expected, "prune", self.write_config(config), *arguments, ranks=ranks)
        model = Path(config["run"]["dir"]) / "model"
        self.assertFalse(model.exists(), "no model is made of an error")

    def with_tokens(self, client: int, path: Path) -> list[dict[str, Any]]:
        return [
            {**entry, "tokens": str(path)} if index == client else entry
            for index, entry in enumerate(self.clients)
        ]

    def model_with(self, edit: Any) -> dict[str, Any]:
        folder = models.copy_model(models.LLAMA, self.folder / f"{self._testMethodName}-input")
        return {"path": str(models.change(folder, edit))}

    # ------------------------------------------------------------ token files

    def test_missing_token_file_of_one_rank(self) -> None:
        for client in (0, 1):
            self.refuse(BAD_INPUT, ["absent.h5"], client=self.with_tokens(client, self.folder / "absent.h5"))

    def test_missing_token_files_of_several_ranks_come_in_one_message(self) -> None:
        clients = [
            {**entry, "tokens": str(self.folder / f"absent-{index}.h5")}
            for index, entry in enumerate(self.clients)
        ]
        self.refuse(BAD_INPUT, ["absent-0.h5", "absent-1.h5", "absent-2.h5"], ranks=3, client=clients)

    def test_all_that_is_wrong_comes_in_one_message(self) -> None:
        """Ranks, lengths, both files of one client and another client's."""
        lists = [{**entry, "rank": 0} for entry in self.clients]
        lists[0]["tokens"] = [str(self.folder / "absent-a.h5"), str(self.folder / "absent-b.h5")]
        lists[2]["tokens"] = str(self.folder / "absent-c.h5")
        long = {"sequence_length": 100000}
        self.refuse(
            BAD_INPUT,
            ["calibration.sequence_length: found 100000", "absent-a.h5", "absent-b.h5", "absent-c.h5"],
            client=lists, calibration=long,
        )  # fmt: skip
        lists[0]["rank"], lists[1]["rank"] = 7, 8
        expected = [r"client-0\.rank: found 7", r"client-1\.rank: found 8", "sequence_length: found 100000"]
        self.refuse(BAD_INPUT, expected, client=lists, calibration=long)

    def test_token_outside_the_vocabulary(self) -> None:
        ids = np.zeros(500, int)
        ids[77] = self.vocab
        path = models.write_tokens(self.folder / "outside.h5", ids, self.vocab)
        self.refuse(BAD_INPUT, ["outside.h5", "token 77 is 320", "319"], client=self.with_tokens(1, path))
        ids[77] = -1
        path = models.write_tokens(self.folder / "negative.h5", ids, self.vocab)
        self.refuse(BAD_INPUT, ["negative.h5", "token 77 is -1"], client=self.with_tokens(2, path))

    def test_too_few_tokens(self) -> None:
        path = models.write_tokens(self.folder / "short.h5", np.zeros(39, int), self.vocab)
        self.refuse(BAD_INPUT, ["short.h5", "39 tokens", "at least 40"], client=self.with_tokens(1, path))
        path = models.write_tokens(self.folder / "shortish.h5", np.zeros(239, int), self.vocab)
        self.refuse(
            BAD_INPUT,
            ["shortish.h5", "239 tokens", "at least 240"],
            client=self.with_tokens(1, path),
            calibration={"sampling": "sequential"},
        )

    def test_evaluation_set_with_too_few_tokens(self) -> None:
        path = models.write_tokens(self.folder / "little.h5", np.zeros(100, int), self.vocab)
        sets = [{"name": "small", "tokens": str(path), "samples": 3, "sequence_length": 40}]
        self.refuse(BAD_INPUT, ["little.h5", "100 tokens", "120"], evaluation=sets)

    def test_file_that_holds_no_tokens(self) -> None:
        text = self.folder / "text.h5"
        text.write_text("once upon a time")
        self.refuse(BAD_INPUT, ["text.h5"], client=self.with_tokens(1, text))
        other = self.folder / "other.h5"
        with h5py.File(other, "w") as file:
            file["words"] = np.zeros(100, "<i4")
        self.refuse(BAD_INPUT, ["other.h5", "'?tokens'?"], client=self.with_tokens(1, other))
        with h5py.File(other, "w") as file:
            file["tokens"] = np.zeros(100, "<f8")
        self.refuse(BAD_INPUT, ["other.h5", "int32 or uint16"], client=self.with_tokens(1, other))

    # ------------------------------------------------------------ models and their shapes

    def test_window_longer_than_the_model_allows(self) -> None:
        self.refuse(
            BAD_INPUT, ["calibration.sequence_length", "129", "128"], calibration={"sequence_length": 129}
        )

    def test_pattern_that_does_not_divide_the_columns(self) -> None:
        prune = {"sparsity": None, "pattern": "8:16", "block_size": 32}
        self.refuse(BAD_INPUT, [r"model\.layers\.0\.self_attn\.q_proj\.weight", "72", "16"], prune=prune)

    def test_an_input_error_leaves_an_earlier_run_alone(self) -> None:
        config = self.config()
        self.prune(config)
        before = file_digests(Path(config["run"]["dir"]))
        prune = {"sparsity": None, "pattern": "8:16"}
        bad = self.write_config(merged(config, {"prune": prune}))
        self.refused(BAD_INPUT, ["q_proj"], "prune", bad, "--restart")
        self.assertEqual(file_digests(Path(config["run"]["dir"])), before)

    def test_nan_in_a_weight_names_the_tensor(self) -> None:
        name = "model.layers.1.mlp.up_proj.weight"

        def poison(tensors: dict[str, models.Tensor]) -> None:
            tensors[name].data[3, 5] = 0x7FC0

        model = self.model_with(poison)
        self.refuse(NUMERICAL, [name], model=model)
        sets = [{"name": "set", "tokens": self.clients[0]["tokens"], "samples": 2, "sequence_length": 40}]
        self.refuse(NUMERICAL, [name], model=model, evaluation=sets)

    def test_infinite_embedding_is_numerical(self) -> None:
        def poison(tensors: dict[str, models.Tensor]) -> None:
            tensors["model.embed_tokens.weight"].data[:] = 0x7F80

        self.refuse(NUMERICAL, ["embed_tokens|client"], model=self.model_with(poison))

    def test_singular_hessian_names_client_and_matrix(self) -> None:
        self.refuse(
            NUMERICAL,
            ["client-[012]", r"model\.layers\.0\.self_attn\.q_proj\.weight", "positive definite"],
            prune={"damping": 1e-30},  # five times ten-fold of nothing is nothing
            calibration={"samples": 1, "sequence_length": 8},  # fewer tokens than columns
        )

    def test_inputs_of_zeros_cost_nothing_and_count_exactly(self) -> None:
        def empty(tensors: dict[str, models.Tensor]) -> None:
            tensors["model.embed_tokens.weight"].data[:] = 0

        config = self.config(model=self.model_with(empty))
        self.done("prune", self.write_config(config))

    def test_torn_or_incomplete_models(self) -> None:
        folder = models.copy_model(models.LLAMA, self.folder / "torn")
        weights = folder / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-100])
        self.refuse(BAD_INPUT, ["model.safetensors"], model={"path": str(folder)})
        weights.write_bytes(whole)
        models.change(folder, lambda tensors: tensors.__delitem__("model.layers.1.mlp.down_proj.weight"))
        self.refuse(BAD_INPUT, [r"model\.layers\.1\.mlp\.down_proj\.weight"], model={"path": str(folder)})
        (folder / "config.json").write_text("{")
        self.refuse(BAD_INPUT, ["config.json"], model={"path": str(folder)})

    def test_what_is_not_implemented_is_refused(self) -> None:
        for key, value in {
            "quantization_config": {"quant_method": "gptq"},
            "hidden_act": "relu6",
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
        }.items():
            with self.subTest(key=key):
                folder = Path(shutil.copytree(self.model, self.folder / f"odd-{key}"))
                config = json.loads((folder / "config.json").read_text())
                (folder / "config.json").write_text(json.dumps({**config, key: value}))
                self.refuse(BAD_INPUT, ["config.json"], model={"path": str(folder)}, ranks=1)

    # ------------------------------------------------------------ federation, places, resources

    def test_rank_of_a_client_that_does_not_exist(self) -> None:
        clients = [{**entry, "rank": index + 1} for index, entry in enumerate(self.clients)]
        self.refuse(BAD_INPUT, [r"client.*rank", "found 2", "2 ranks"], client=clients)

    def test_what_this_build_lacks_names_the_preset(self) -> None:
        if "CUDA off" not in self.done("--version").stdout:
            self.skipTest("this build has CUDA")
        preset = ["--preset cuda|preset `?cuda"]
        self.refuse(BAD_INPUT, ["cuda", *preset], run={"backend": "cuda"})
        self.refuse(BAD_INPUT, ["nccl", *preset], run={"backend": "auto"}, federation={"transport": "nccl"})
        self.assertFalse((self.folder / self._testMethodName).exists(), "refused before anything is made")

    def test_blocks_that_nobody_draws(self) -> None:
        clients = [{**self.clients[0], "resources": 0.5}]
        self.refuse(
            BAD_INPUT,
            ["1 of 2 blocks", "coverage"],
            client=clients,
            federation={"layer_sampling": "resources"},
        )

    def test_run_directory_that_cannot_be_made(self) -> None:
        below_a_file = self.folder / "input" / "config.json" / "run"
        for place in (below_a_file, Path("/proc/fedspallm-run")):
            config = self.write_config(self.config(run={"dir": str(place)}))
            self.refused(NO_RESOURCES, [f"{place}|run.dir"], "prune", config, ranks=2)

    def test_more_memory_than_there_is(self) -> None:
        memory = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/meminfo").read_text().splitlines()
            if "MemTotal" in line
        )
        samples = 2 * memory // (40 * 800)  # hidden states and activations take 832 bytes a token
        if samples * 160 > 1 << 30:
            self.skipTest("the windows alone would take more than 1 GiB on this machine")
        self.refuse(
            NO_RESOURCES, ["memory", "MB"], ranks=1, calibration={"samples": samples}, client=self.clients[:1]
        )
        self.assertFalse((self.folder / self._testMethodName).exists())


if __name__ == "__main__":
    main()
