#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""eval: perplexities as transformers computed them (goldens), and the format of ruling 12."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from harness import BAD_INPUT, FIXTURES, GOLDENS, ProgramTest, enter_venv, main, merged, run

if __name__ == "__main__":
    enter_venv()

import numpy as np  # noqa: E402

import models  # noqa: E402

TOP_KEYS = {"format_version", "model", "dtype", "sequence_length", "evaluations"}
SET_KEYS = {"name", "tokens", "samples", "predictions", "nll", "perplexity"}


class Evaluation(ProgramTest):
    def golden_tokens(self, model: Path) -> tuple[list[Path], list[float], int]:
        """The golden's token files, its mean NLL of each, and the length of a window."""
        expected = models.load(model / "expected.safetensors")
        files, nll, length = [], [], 0
        for client in range(sum(name.startswith("tokens.") for name in expected)):
            ids = expected[f"tokens.{client}"].data
            length = ids.shape[1]
            path = self.folder / model.name / f"text {client}.h5"
            files.append(models.write_tokens(path, ids.ravel(), models.vocabulary(model)))
            nll.append(float(expected[f"dense.nll.{client}"].data[0]))
        return files, nll, length

    def test_every_golden_model_has_the_nll_of_transformers(self) -> None:
        folders = [*sorted(FIXTURES.iterdir()), *sorted(GOLDENS.iterdir())]
        self.assertGreaterEqual(len(folders), 16)
        for model in folders:
            with self.subTest(model=model.name):
                files, expected, length = self.golden_tokens(model)
                outcome = run("eval", model, "--tokens", *files, "--sequence-length", length, "--json")
                self.assertEqual(outcome.status, 0, str(outcome))
                found = [entry["nll"] for entry in outcome.json()["evaluations"]]
                np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_json_is_one_object_of_the_agreed_form(self) -> None:
        model = models.LLAMA
        files, _, length = self.golden_tokens(model)
        tokens = [arg for file in reversed(files) for arg in ("--tokens", file)]  # as given, one by one
        outcome = self.done("eval", model, *tokens, "--sequence-length", length, "--samples", 4, "--json")
        self.assertEqual(outcome.stdout.count("\n"), 1, "one line, nothing else")
        found = outcome.json()
        self.assertEqual(found.keys(), TOP_KEYS)
        self.assertEqual((found["format_version"], found["dtype"]), (1, "float32"))
        self.assertEqual((found["model"], found["sequence_length"]), (str(model), length))
        self.assertEqual([entry["name"] for entry in found["evaluations"]], ["text 2", "text 1", "text 0"])
        self.assertEqual(
            [entry["tokens"] for entry in found["evaluations"]], [str(file) for file in reversed(files)]
        )
        for entry in found["evaluations"]:
            self.assertEqual(entry.keys(), SET_KEYS)
            self.assertEqual((entry["samples"], entry["predictions"]), (4, 4 * (length - 1)))
            self.assertAlmostEqual(
                entry["perplexity"], math.exp(entry["nll"]), delta=1e-9 * entry["perplexity"]
            )
        digits = [
            len(number.replace(".", "").lstrip("0"))
            for number in re.findall(r'"nll":\s*([0-9.]+)', outcome.stdout)
        ]
        self.assertEqual(len(digits), 3)
        self.assertGreaterEqual(max(digits), 9, outcome.stdout)

    def test_ranks_change_no_bit_of_it(self) -> None:
        files, _, length = self.golden_tokens(models.LLAMA)
        command = ("eval", models.LLAMA, "--tokens", *files, "--sequence-length", length, "--json")
        alone = self.done(*command)
        self.assertEqual(self.done(*command, ranks=2).stdout, alone.stdout)

    def test_windows_are_the_first_whole_ones(self) -> None:
        model, vocab = models.LLAMA, models.vocabulary(models.LLAMA)
        ids = np.random.default_rng(1).integers(0, vocab, 100)
        whole = models.write_tokens(self.folder / "whole.h5", ids, vocab)
        first = models.write_tokens(self.folder / "first.h5", ids[:96], vocab)
        results = [
            self.done("eval", model, "--tokens", file, "--sequence-length", 32, "--json").json()[
                "evaluations"
            ][0]
            for file in (whole, first)
        ]
        self.assertEqual([result["samples"] for result in results], [3, 3])
        self.assertEqual(results[0]["nll"], results[1]["nll"])

    def test_text_output_names_the_set_and_its_perplexity(self) -> None:
        files, _, length = self.golden_tokens(models.OPT)
        found = self.done(
            "eval", models.OPT, "--tokens", files[0], "--sequence-length", length, "--json"
        ).json()
        text = self.done("eval", models.OPT, "--tokens", files[0], "--sequence-length", length).stdout
        self.assertIn("text 0", text)
        self.assertIn(f"{found['evaluations'][0]['perplexity']:.4f}", text)

    def test_reference_backend_agrees(self) -> None:
        files, expected, length = self.golden_tokens(GOLDENS / "qwen3")
        found = self.done(
            "eval",
            GOLDENS / "qwen3",
            "--tokens",
            files[0],
            "--sequence-length",
            length,
            "--json",
            "--backend",
            "reference",
        ).json()
        np.testing.assert_allclose(found["evaluations"][0]["nll"], expected[0], rtol=1e-5)


class EvaluationOfRuns(ProgramTest):
    model: Path
    summary: dict[str, Any]
    sets: list[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.model = models.copy_model(models.LLAMA, cls.folder / "input")
        clients = models.clients_of(cls.folder / "tokens", cls.model, 3)
        cls.sets = [
            models.random_tokens(cls.folder / f"test-{index}.h5", cls.model, 10 + index, 400)
            for index in range(2)
        ]
        config = merged(
            models.run_config(cls.model, cls.folder / "run", clients),
            {
                "report": {"standalone": True},
                "evaluation": [
                    {"name": f"set {index}", "tokens": str(file), "samples": 5, "sequence_length": 40}
                    for index, file in enumerate(cls.sets)
                ],
            },
        )
        cls().prune(config, ranks=2)
        cls.summary = json.loads((cls.folder / "run" / "summary.json").read_text())

    def perplexities(self, *arguments: object) -> list[float]:
        outcome = self.done(
            "eval", *arguments, "--tokens", *self.sets, "--sequence-length", 40, "--samples", 5, "--json"
        )
        return [entry["perplexity"] for entry in outcome.json()["evaluations"]]

    def test_eval_equals_the_summary(self) -> None:
        for kind, model in {"dense": self.model, "merged": self.folder / "run" / "model"}.items():
            expected = [self.summary["perplexity"][f"set {index}"][kind] for index in range(2)]
            np.testing.assert_allclose(self.perplexities(model), expected, rtol=1e-12, err_msg=kind)

    def test_eval_of_a_client_equals_the_summary(self) -> None:
        for client in ("client-0", "client-1", "client-2"):
            expected = [
                self.summary["perplexity"][f"set {index}"]["standalone"][client] for index in range(2)
            ]
            np.testing.assert_allclose(
                self.perplexities(self.folder / "run", "--client", client), expected, rtol=1e-12
            )

    def test_pruned_models_differ_from_the_dense_one_and_from_each_other(self) -> None:
        for values in self.summary["perplexity"].values():
            distinct = {values["dense"], values["merged"], *values["standalone"].values()}
            self.assertEqual(len(distinct), 5)

    def test_sparse_linears_give_the_same_perplexity(self) -> None:
        places: list[tuple[object, ...]] = [(self.folder / "run" / "model",)]
        places.append((self.folder / "run", "--client", "client-1"))
        for place in places:
            arguments = ["eval", *place, "--tokens", *self.sets, "--sequence-length", 40, "--samples", 5]
            found = self.done(*arguments, "--sparse", "--json").json()
            dense = [entry["perplexity"] for entry in found["evaluations"]]
            sparse = [entry["perplexity"] for entry in found["sparse"]["evaluations"]]
            self.assertEqual(dense, self.perplexities(*place), "without the option nothing changes")
            np.testing.assert_allclose(sparse, dense, rtol=1e-3)
            self.assertEqual(found["sparse"]["linears"] % 14, 0, "all of two blocks' linears, once or more")
            self.assertGreater(found["sparse"]["linears"], 0)
            self.assertGreater(min(found["sparse"]["seconds"], found["sparse"]["dense_seconds"]), 0)
            text = self.done(*arguments, "--sparse").stdout
            self.assertRegex(text, r"sparse test-0 +perplexity")
            self.assertRegex(text, r"s dense, [0-9.]+ s with \d+ linears")
        self.refused(
            BAD_INPUT, ["not pruned"], "eval", self.model, "--sparse", "--tokens", *self.sets, "--sequence-length", 40
        )

    def test_unknown_client_is_refused(self) -> None:
        self.refused(
            BAD_INPUT, ["nobody"], "eval", self.folder / "run", "--client", "nobody", "--tokens", self.sets[0]
        )


if __name__ == "__main__":
    main()
