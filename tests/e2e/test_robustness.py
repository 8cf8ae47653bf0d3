#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Failures in the middle of a run, remains of an interrupted one, odd names, idle ranks, several token files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from harness import BAD_INPUT, NO_RESOURCES, ROOT, enter_venv, file_digests, main, merged

if __name__ == "__main__":
    enter_venv()

import h5py  # noqa: E402
import models  # noqa: E402
import numpy as np  # noqa: E402


class Robustness(models.ModelTest):
    def config(self, place: str = "run", **changes: Any) -> dict[str, Any]:
        run_dir = self.folder / self._testMethodName / place
        return merged(models.run_config(self.model, run_dir, self.clients), changes)

    def run_dir(self, place: str = "run") -> Path:
        return self.folder / self._testMethodName / place

    def evaluation(self, name: str = "set") -> list[dict[str, Any]]:
        path = models.random_tokens(self.folder / "unseen.h5", self.model, 11, 200)
        return [{"name": name, "tokens": str(path), "sequence_length": 40}]

    # ------------------------------------------------------------ failures while ranks are at work

    def test_failure_of_the_merging_thread_stops_all_ranks_with_one_message(self) -> None:
        for transport in ("reduce", "gather"):
            config = self.config(transport, federation={"transport": transport, "rounds": 2})
            self.run_dir(transport).mkdir(parents=True)
            (self.run_dir(transport) / "status.json").write_text("{}")  # a run was here
            (self.run_dir(transport) / "blocks").write_text("a file where a folder should be")
            path = self.write_config(config)
            self.refused(NO_RESOURCES, ["blocks"], "prune", path, ranks=3)

    def no_room_for(self, part: str) -> dict[str, str]:
        """A file system that takes no new files of such names."""
        return {"LD_PRELOAD": self.preloaded(ROOT / "tests" / "e2e" / "no_room.c"), "NO_ROOM_FOR": part}

    def test_failure_of_one_clients_files_stops_all_ranks_with_one_message(self) -> None:
        config = self.write_config(self.config(run={"keep_clients": True}))
        self.refused(NO_RESOURCES, ["client-1"], "prune", config, ranks=3, env=self.no_room_for("clients/client-1/"))

    def test_nobody_waits_when_one_client_fails_in_a_later_block(self) -> None:
        config = self.write_config(self.config(federation={"aggregation": "none"}))
        self.refused(NO_RESOURCES, ["r01-b0001"], "prune", config, ranks=2, env=self.no_room_for("clients/client-2/r01-b0001"))

    # ------------------------------------------------------------ remains

    def test_remains_of_an_interrupted_run_do_no_harm(self) -> None:
        self.prune(self.config("clean"))
        expected = file_digests(self.run_dir("clean") / "model")
        config = self.config()
        self.prune(config)
        run_dir = self.run_dir()
        (run_dir / "summary.json").unlink()
        shutil.move(run_dir / "model", run_dir / "model.part")
        (run_dir / "model.part" / "model.safetensors").write_bytes(b"half")
        (run_dir / "blocks" / "r01-b0000.h5.part").write_bytes(b"half")
        (run_dir / "blocks" / "r01-b0001.h5").write_bytes(b"torn")
        (run_dir / "manifest.json").write_text('{"format_ver')
        (run_dir / "run.h5").write_bytes(b"\x89HDF")
        self.prune(config, ranks=2)
        self.assertEqual(file_digests(run_dir / "model"), expected)
        self.assertEqual(list(run_dir.rglob("*.part")), [])
        self.done("inspect", run_dir)

    def test_summary_is_the_last_word_of_a_finished_run(self) -> None:
        config = self.config()
        self.prune(config)
        (self.run_dir() / "summary.json").unlink()
        self.prune(config)
        self.assertTrue((self.run_dir() / "summary.json").exists())

    # ------------------------------------------------------------ clients

    def test_any_client_name_makes_plain_files(self) -> None:
        names = ["with space", "Zoë", ".hidden", "100%", "CON"]
        tokens = self.clients[0]["tokens"]
        config = self.config(
            client=[{"name": name, "tokens": tokens} for name in names], run={"keep_clients": True}
        )
        self.prune(config, ranks=2)
        files = [path for path in (self.run_dir() / "clients").iterdir() if path.suffix == ".h5"]
        self.assertEqual(len(files), len(names))
        self.assertEqual(sorted(path.name for path in self.run_dir().parent.iterdir()), ["run"])
        for name in names:
            out = self.run_dir("out") / str(names.index(name))
            self.done("export", self.run_dir(), "--client", name, "--out", out)

    def test_several_token_files_are_one_text(self) -> None:
        whole = h5py.File(self.clients[0]["tokens"])["tokens"][()]
        vocab = models.vocabulary(self.model)
        parts = [
            models.write_tokens(self.folder / f"part-{index}.h5", part, vocab)
            for index, part in enumerate(np.split(whole, [100, 555]))
        ]
        split = [{**self.clients[0], "tokens": [str(part) for part in parts]}, *self.clients[1:]]
        self.prune(self.config("whole"))
        self.prune(self.config("split", client=split), ranks=2)
        self.assertEqual(
            file_digests(self.run_dir("whole") / "model"), file_digests(self.run_dir("split") / "model")
        )

    def test_a_clients_own_number_of_samples_counts(self) -> None:
        few = [{**self.clients[0], "samples": 1}, *self.clients[1:]]
        self.prune(self.config("few", client=few))
        self.prune(self.config("same"))
        digests = [
            file_digests(self.run_dir(place) / "model")["model.safetensors"] for place in ("few", "same")
        ]
        self.assertNotEqual(*digests)

    def test_idle_ranks_take_part_in_evaluation_only(self) -> None:
        changes = {
            "client": self.clients[:2],
            "evaluation": self.evaluation(),
            "report": {"standalone": True},
        }
        summaries = []
        for ranks in (1, 4):
            self.prune(self.config(str(ranks), **changes), ranks=ranks)
            summaries.append(json.loads((self.run_dir(str(ranks)) / "summary.json").read_text()))
        self.assertEqual(summaries[0]["perplexity"], summaries[1]["perplexity"], "bit for bit")
        self.assertEqual(len(summaries[1]["peak_rss_bytes"]), 4)

    # ------------------------------------------------------------ clients on their own

    def test_stand_alone_clients_have_results_but_no_model(self) -> None:
        changes = {"federation": {"aggregation": "none"}, "evaluation": self.evaluation()}
        self.prune(self.config(**changes), ranks=2)
        self.assertFalse((self.run_dir() / "model").exists())
        summary = json.loads((self.run_dir() / "summary.json").read_text())
        values = summary["perplexity"]["set"]
        self.assertEqual(values.keys(), {"dense", "standalone"})
        self.assertEqual(values["standalone"].keys(), {"client-0", "client-1", "client-2"})
        out = self.run_dir("out")
        self.done("export", self.run_dir(), "--out", out, "--client", "client-1")
        found = self.done("inspect", self.run_dir() / "clients" / "client-1.h5", "--json").json()
        self.assertEqual((found["kind"], found["ok"], len(found["matrices"])), ("run", True, 14))
        self.assertAlmostEqual(found["sparsity"], 0.5, places=3)
        tokens = changes["evaluation"][0]["tokens"]
        common = ("--tokens", tokens, "--sequence-length", 40, "--json")
        exported = self.done("eval", out, *common).json()["evaluations"][0]["perplexity"]
        self.assertEqual(exported, values["standalone"]["client-1"])
        self.refused(BAD_INPUT, ["client"], "export", self.run_dir(), "--out", self.run_dir("none"))

    def test_a_clients_merge_of_one_equals_the_client_alone(self) -> None:
        only = {
            "client": self.clients[:1],
            "evaluation": self.evaluation("s"),
            "report": {"standalone": True},
        }
        self.prune(self.config(**only))
        values = json.loads((self.run_dir() / "summary.json").read_text())["perplexity"]["s"]
        self.assertEqual(values["merged"], values["standalone"]["client-0"])


if __name__ == "__main__":
    main()
