#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`fedspallm simulate`: the same result on any number of ranks and by either transport, bytes as forecast,
laws by seed, files that `inspect` accepts. No timing is judged. Needs the standard library only."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import unittest
from pathlib import Path
from typing import Any

from harness import BAD_INPUT, NO_RESOURCES, ROOT, ProgramTest, main, merged, nodes_of, run

LOCKED = 5
SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "vocab_size": 256,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


class Simulate(ProgramTest):
    folder: Path

    def config(self, **simulate: Any) -> dict[str, Any]:
        """50 virtual clients of a small model, of which some are slow and some leave."""
        model = self.folder / "shape"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text(json.dumps(SHAPE))
        laws = {"clients": 50, "blocks": 6, "stragglers": 0.1, "dropouts": 0.2, **simulate}
        return {
            "model": {"path": str(model)},
            "calibration": {"samples": 2, "sequence_length": 64},
            "federation": {"on_client_failure": "drop"},
            "simulate": laws,
        }

    def simulate(self, config: dict[str, Any], *arguments: str, **how: Any) -> Any:
        return self.done("simulate", self.write_config(config), "--json", *arguments, **how).json()

    def test_bits_and_clients_do_not_depend_on_ranks_or_transport(self) -> None:
        config = self.config()
        first = self.simulate(config)
        self.assertEqual(len(first["ranks"]), 1)
        self.assertEqual(first["blocks_run"], 6)
        self.assertGreater(len(first["virtual"]["dropped"]), 0)
        for ranks in (1, 2, 3):
            for transport in ("gather", "reduce"):
                found = self.simulate(config, "--set", f"federation.transport={transport}", ranks=ranks)
                with self.subTest(ranks=ranks, transport=transport):
                    self.assertEqual(found["digest"], first["digest"])
                    self.assertEqual(found["virtual"]["dropped"], first["virtual"]["dropped"])
                    self.assertEqual(sum(rank["clients"] for rank in found["ranks"]), 50)
                    for rank in found["ranks"]:
                        self.assertEqual(rank["bytes_sent"], rank["bytes_forecast"])
                        self.assertEqual(rank["bytes_sent"] > 0, ranks > 1)
                        self.assertGreater(rank["peak_rss_bytes"], 0)

    def test_owners_give_the_same_bits_for_the_forecast_bytes(self) -> None:
        patterns = {"unstructured": {}, "2:4": {"prune": {"pattern": "2:4"}}}
        for pattern, change in patterns.items():
            config = merged(self.config(), change)
            first = self.simulate(config, "--set", "federation.topology=root")
            for ranks in (1, 2, 4):
                found = self.simulate(config, "--set", "federation.topology=owners", ranks=ranks)
                with self.subTest(pattern=pattern, ranks=ranks):
                    self.assertEqual(found["way"], "owners")
                    self.assertEqual(found["digest"], first["digest"])
                    for rank in found["ranks"]:
                        self.assertEqual(rank["bytes_sent"] > 0, ranks > 1)
                        # Unstructured: slices of a mask differ from each other by what the forecast cannot know.
                        error = 0 if pattern == "2:4" else 0.01 * rank["bytes_forecast"]
                        self.assertAlmostEqual(rank["bytes_sent"], rank["bytes_forecast"], delta=error)

    def test_nodes_give_the_same_bits_for_the_forecast_bytes(self) -> None:
        first = self.simulate(self.config(), "--set", "federation.topology=root")
        for ranks, node in ((1, 1), (2, 2), (4, 1), (4, 2), (4, 3), (4, 4)):
            asked = ("--set", "federation.topology=nodes")
            found = self.simulate(self.config(), *asked, ranks=ranks, env=nodes_of(node))
            with self.subTest(ranks=ranks, node=node):
                self.assertEqual(found["way"], "nodes")
                self.assertEqual(found["digest"], first["digest"])
                most = max(rank["bytes_sent"] for rank in found["ranks"])
                for number, rank in enumerate(found["ranks"]):
                    self.assertEqual(rank["bytes_sent"], rank["bytes_forecast"])
                    if number % node != 0 and ranks > node:
                        self.assertLess(rank["bytes_sent"], most / 20, "only leaders send sums")

    def test_shared_memory_that_lacks(self) -> None:
        missing = {"OMPI_MCA_osc_sm_backing_directory": "/nonexistent"}
        expected = ["shared memory: /nonexistent cannot be written to", 'federation.topology = "auto"']
        config = self.write_config(self.config())
        asked = ("--set", "federation.topology=nodes")
        self.refused(NO_RESOURCES, expected, "simulate", config, *asked, ranks=2, env=missing)
        # Matrices so large that ranks of a host share memory where they can.
        large = {"simulate": {"shape": "smollm2-135m", "clients": 3, "blocks": 1}}
        self.assertEqual(self.simulate(large, ranks=2)["way"], "nodes")
        found = self.simulate(large, ranks=2, env=missing)
        self.assertEqual(found["way"], "gather")
        self.assertIn("topology nodes cannot be had", found["reason"])

    def test_nodes_that_are_no_number(self) -> None:
        config = self.write_config(self.config())
        variable = {"FEDSPALLM_RANKS_PER_NODE": "some"}
        self.refused(BAD_INPUT, ['FEDSPALLM_RANKS_PER_NODE: found "some"'], "simulate", config, ranks=2, env=variable)

    @unittest.skipIf("FEDSPALLM_SANITIZED" in os.environ, "a sanitizer keeps what is freed for a while")
    def test_no_way_of_merging_takes_memory_for_its_clients_updates(self) -> None:
        change = {"prune": {"pattern": "2:4"}, "simulate": {"shape": "smollm2-135m", "blocks": 1, "dropouts": 0.0}}
        for way in ("transport=gather", "transport=reduce", "topology=owners", "topology=nodes"):
            peaks = []
            for clients in (4, 60):  # of 4 MB an update
                found = self.simulate(change, "--set", f"federation.{way}", "--set", f"simulate.clients={clients}", ranks=2)
                peaks.append(max(rank["peak_rss_bytes"] for rank in found["ranks"]))
            with self.subTest(way=way):
                self.assertLess(peaks[1], peaks[0] + 12e6)

    def test_dropouts_and_lateness_follow_the_seed(self) -> None:
        laws = {"dropouts": 0.3, "stragglers": 0.2, "straggler_factor": 50.0, "blocks": 2, "flops": 1e9}
        config = self.config(**laws)
        config["federation"]["deadline"] = 0.1  # of virtual time
        config["federation"]["transport"] = "gather"
        first = self.simulate(config)
        reasons = {one["reason"] for one in first["virtual"]["dropped"]}
        self.assertEqual(reasons, {"left", "late"})
        again = self.simulate(config, ranks=2)
        self.assertEqual(again["virtual"], first["virtual"])
        self.assertEqual(again["digest"], first["digest"])
        other = self.simulate(config, "--set", "run.seed=2")
        self.assertNotEqual(other["virtual"]["dropped"], first["virtual"]["dropped"])
        self.assertNotEqual(other["digest"], first["digest"])

    def test_layer_sampling_spreads_blocks_evenly(self) -> None:
        config = self.config(least_resources=0.3, dropouts=0.0)
        config["federation"]["layer_sampling"] = "resources"
        found = self.simulate(config, ranks=2)
        clients = found["virtual"]["clients_per_block"]
        self.assertLessEqual(max(clients) - min(clients), 1)
        self.assertLess(max(clients), 50)
        for rank in found["ranks"]:
            self.assertEqual(rank["bytes_sent"], rank["bytes_forecast"])

    def test_sizes_are_fitted_held_out_and_forecast(self) -> None:
        config = self.config(fit=[2, 6], held_out=[4], repeats=1, blocks=1, placement="workers")
        for way in ("transport=gather", "transport=reduce", "topology=owners", "topology=nodes"):
            found = self.simulate(config, "--set", f"federation.{way}", ranks=2)
            self.assertEqual(found["way"], way.split("=")[1])
            self.assertEqual([size["clients"] for size in found["sizes"]], [2, 4, 6])
            self.assertEqual([size["held_out"] for size in found["sizes"]], [False, True, False])
            for size in found["sizes"]:
                error = size["forecast_seconds_per_block"] / size["seconds_per_block"] - 1
                self.assertAlmostEqual(size["error"], error, places=9)
            self.assertTrue(found["performance"]["link_measured"])
            self.assertEqual(found["ranks"][0]["clients"], 0)
            for kind in ("strong", "weak"):
                rows = found["forecast"][kind]
                self.assertEqual({row["way"] for row in rows}, {"gather", "reduce", "owners", "nodes"})
                self.assertEqual(max(row["gpus"] for row in rows), 10000)
                self.assertEqual(rows[0]["efficiency"], 1)

    def test_merged_blocks_are_written_where_asked(self) -> None:
        run = self.folder / "run"
        config = self.config(checkpoint=True, clients=5, dropouts=0.0, blocks=2)
        config["run"] = {"dir": str(run)}
        self.simulate(config, ranks=2)
        files = sorted(path.name for path in (run / "blocks").iterdir())
        self.assertEqual(files, ["r01-b0000.h5", "r01-b0001.h5"])
        self.simulate(config)  # what it wrote itself is replaced

    def test_a_run_of_prune_is_not_replaced(self) -> None:
        """Before its first block is done (resume.json), and where only its result is left (run.h5)."""
        for name in ("resume.json", "run.h5"):
            with self.subTest(there=name):
                run = self.folder / name.replace(".", "-")
                (run / "blocks").mkdir(parents=True)
                kept = [run / name, run / "manifest.json", run / "blocks" / "r01-b0000.h5"]
                for path in kept:
                    path.write_text("days of work")
                config = self.config(checkpoint=True, clients=5, dropouts=0.0, blocks=2)
                config["run"] = {"dir": str(run)}
                told = ["simulate.checkpoint: found a run of `prune` in .*another run.dir"]
                self.refused(BAD_INPUT, told, "simulate", self.write_config(config), ranks=2)
                self.assertEqual([path.read_text() for path in kept], ["days of work"] * 3)

    def test_the_folder_is_locked(self) -> None:
        run = self.folder / "locked"
        run.mkdir()
        config = self.config(checkpoint=True, clients=5, dropouts=0.0, blocks=2)
        config["run"] = {"dir": str(run)}
        path = self.write_config(config)
        with (run / ".lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self.refused(LOCKED, ["in use by another process"], "simulate", path)

    @unittest.skipIf(shutil.which("cc") is None, "needs a C compiler for what is preloaded")
    @unittest.skipIf("FEDSPALLM_SANITIZED" in os.environ, "a sanitizer must be the first library")
    def test_a_rank_that_runs_out_of_memory_alone_ends_all(self) -> None:
        """In a step that no rank waits for, so that the others do not hear of it by agreement."""
        library = self.folder / "no_memory.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, ROOT / "tests" / "e2e" / "no_memory.c"], check=True)
        env = {"LD_PRELOAD": str(library), "NO_MEMORY_BYTES": str(12 << 20)}
        config = self.write_config(self.config(clients=200_000, dropouts=0.0, blocks=1))
        outcome = run("simulate", config, ranks=2, env=env)
        self.assertEqual(outcome.statuses[1], NO_RESOURCES, str(outcome))
        self.assertNotEqual(outcome.statuses[0], 0, str(outcome))
        self.assertEqual(outcome.messages, 1, str(outcome))
        self.assertRegex(outcome.stderr, r"error: rank 1 on \S+: out of memory", str(outcome))

    def test_text_for_people(self) -> None:
        config = self.config(fit=[2, 4], held_out=[3], repeats=1, blocks=1)
        text = self.done("simulate", self.write_config(config)).stdout
        for word in ("virtual time of the round", "held out", "FORECAST, strong scaling", "FORECAST, weak"):
            self.assertIn(word, text)

    def test_what_cannot_be_simulated_is_refused(self) -> None:
        cases: list[tuple[str, dict[str, Any]]] = [
            ("there is only one rank", {"simulate": {"placement": "workers"}}),
            ("aggregation.*expected \"l0\" or \"mean\"", {"federation": {"aggregation": "none"}}),
            ("config.json: cannot be read", {"model": {"path": str(self.folder / "nowhere")}}),
            ("unknown key 'simulate.client'; did you mean", {"simulate": {"client": 3}}),
        ]
        for message, change in cases:
            with self.subTest(message=message):
                path = self.write_config(merged(self.config(), change))
                self.refused(BAD_INPUT, [message], "simulate", path)
        lost = self.write_config(self.config(dropouts=1.0))
        self.refused(BAD_INPUT, ["all clients that should prune it were dropped"], "simulate", lost, ranks=2)
        self.refused(BAD_INPUT, ["missing key 'run.dir'"], "prune", self.write_config(self.config()))


if __name__ == "__main__":
    main()
