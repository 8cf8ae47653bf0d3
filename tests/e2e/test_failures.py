#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a run whose clients fail or are late, or one of whose ranks fails in any phase. Every failure has a
real cause: tokens, weights, files. See docs/robustness.md."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from background import Job, manifest_entries
from harness import (
    ABORTS,
    BAD_INPUT,
    NO_RESOURCES,
    NUMERICAL,
    STARTED_WRONGLY,
    Outcome,
    enter_venv,
    file_digests,
    main,
    run,
)

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402
import numpy as np  # noqa: E402
import oracle  # noqa: E402
from failing import DROP, FailureTest  # noqa: E402

PEER_LOST = 6
#: Transport, or topology, and ranks.
WAYS = (("gather", 1), ("reduce", 2), ("gather", 3), ("reduce", 3), ("nodes", 3))


def way_of(name: str) -> dict[str, str]:
    """What the configuration says."""
    return {"topology": name} if name == "nodes" else {"transport": name}


class FailingClients(FailureTest):
    def test_abort_names_client_and_matrix(self) -> None:
        config = self.config(3)
        expected = [r"client 'client-2', model\.layers\.3\.self_attn\.q_proj\.weight: .*NaN or infinity"]
        for transport, ranks in WAYS:
            with self.subTest(transport=transport, ranks=ranks):
                override = ("--set", *(f"federation.{key}={value}" for key, value in way_of(transport).items()))
                self.refused(NUMERICAL, expected, "prune", config, *override, ranks=ranks)
                shutil.rmtree(self.run_dir())

    def test_drop_from_the_block_where_it_failed(self) -> None:
        self.without_client(3)
        self.done("prune", self.config(-1, "all"), "--quiet", ranks=2)
        before, after = self.blocks("all"), self.blocks("others")
        expected = {key: (before if int(key.split()[1][1:]) < 3 else after)[key] for key in after}
        for transport, ranks in WAYS:
            with self.subTest(transport=transport, ranks=ranks):
                config = self.config(3, federation={**DROP, **way_of(transport)}, run={"keep_clients": True})
                outcome = self.done("prune", config, ranks=ranks)
                self.assertEqual(self.blocks(), expected)
                self.check_named(outcome, "client-2", 3, r"model\.layers\.3\.self_attn\.q_proj.*NaN or infinity")
                for name, status in (("client-0", 0), ("client-2", BAD_INPUT)):
                    out = self.run_dir("out") / f"{name}-{transport}-{ranks}"
                    exported = run("export", self.run_dir(), "--client", name, "--out", out)
                    self.assertEqual(exported.status, status, str(exported))
                shutil.rmtree(self.run_dir())

    def test_a_client_that_never_delivers_leaves_a_run_without_it(self) -> None:
        tokens = Path(self.clients[2]["tokens"])
        beyond = models.write_tokens(self.folder / "beyond.h5", [self.vocab] * 1024, self.vocab)

        def endless(tensors: dict[str, models.Tensor]) -> None:
            tensors["model.embed_tokens.weight"].data[-1] = 0x7F80

        broken = models.change(models.copy_model(self.model(-1), self.folder / "endless"), endless)
        singular = {"prune": {"damping": 1e-30}, "client": [*self.clients[:2], {**self.clients[2], "samples": 1}]}
        many = {"calibration": {"samples": 25}}
        gone, wrong = ({"client": [*self.clients[:2], {**self.clients[2], "tokens": str(path)}]}
                       for path in (tokens.with_name("gone.h5"), beyond))
        cases: dict[str, tuple[int, dict[str, Any], dict[str, Any], str]] = {
            # name: block of the spoiled channel, changes for both runs, for the failing one, the reason
            "missing file": (-1, {}, gone, r"gone\.h5"),
            "tokens outside": (-1, {}, wrong, rf"{self.vocab}.*vocab"),
            "embedding": (-1, {"model": {"path": str(broken)}}, {}, rf"embed_tokens.*row {self.vocab - 1} holds NaN"),
            "overflow, two rounds": (0, {"federation": {"rounds": 2}}, {}, r"layers\.0\..*NaN or infinity"),
            "Hessian": (-1, {**many, "prune": {"damping": 1e-30}}, {**many, **singular}, "not positive definite"),
            "on its own": (0, {"federation": {"aggregation": "none"}}, {}, r"layers\.0\..*NaN or infinity"),
        }
        for index, (name, (block, both, failing, reason)) in enumerate(cases.items()):
            with self.subTest(case=name):
                self.without_client(block, **both)
                changes = {**both, **failing, "federation": {**both.get("federation", {}), **DROP}}
                outcome = self.done("prune", self.config(block, **changes), ranks=1 + index % 3)
                if name == "on its own":
                    for client in ("client-0.h5", "client-1.h5"):
                        mine, alone = (oracle.digest_of_blocks(self.run_dir(place) / "clients" / client)
                                       for place in ("run", "others"))
                        self.assertEqual(mine, alone)
                    self.assertEqual(self.summary()["dropped"][0]["client"], "client-2")
                else:
                    self.assertEqual(self.blocks(), self.blocks("others"))
                    digests = [file_digests(self.run_dir(place) / "model") for place in ("run", "others")]
                    self.assertEqual(*digests)
                    self.check_named(outcome, "client-2", 0, reason)
                shutil.rmtree(self.run_dir().parent)

    def test_nobody_is_left(self) -> None:
        all_fail = [self.client(index, True) for index in range(3)]
        named = ["client-0", "client-1", "client-2"]
        for ranks in (1, 3):
            config = self.config(3, federation=DROP, client=all_fail)
            said = self.refused(BAD_INPUT, [r"model\.layers\.3\..*dropped.*coverage"], "prune", config, ranks=ranks)
            for name in named:
                self.assertIn(f"client '{name}' is left out from block 3", said.stderr)
            self.refused(BAD_INPUT, ["5 of 8 blocks are pruned by no client"], "prune", config, ranks=ranks)
            shutil.rmtree(self.run_dir())
            missing = [{**client, "tokens": str(self.folder / "none.h5")} for client in all_fail]
            config = self.config(-1, federation=DROP, client=missing)
            self.refused(BAD_INPUT, [f"8 of 8 blocks.*{'.*'.join(named)}".replace(".*", r"[\s\S]*")],
                         "prune", config, ranks=ranks)
            shutil.rmtree(self.run_dir())

    def test_nobody_is_left_and_need_not_be(self) -> None:
        all_fail = [self.client(index, True) for index in range(3)]
        config = self.config(3, federation={**DROP, "coverage": "warn"}, client=all_fail)
        self.done("prune", config, ranks=2)
        result, dense = models.load_model(self.run_dir() / "model"), models.load_model(self.model(3))
        for name, tensor in dense.items():
            same = np.array_equal(result[name].data, tensor.data)
            pruned = name.endswith("proj.weight") and int(name.split(".")[2]) < 3
            self.assertEqual(same, not pruned, name)
        self.assertEqual(len(self.summary()["dropped"]), 3)

    def test_killed_after_a_drop(self) -> None:
        for transport in ("gather", "reduce", "nodes"):
            with self.subTest(transport=transport):
                config = self.config(1, federation={**DROP, **way_of(transport)})
                self.done("prune", config, "--quiet", ranks=3)
                expected = self.blocks()
                shutil.rmtree(self.run_dir())
                self.held_at(config, 4, ranks=3).kill_all()
                outcome = self.done("prune", config, ranks=2)
                self.assertEqual(self.blocks(), expected)
                self.check_named(outcome, "client-2", 1, "NaN or infinity")
                shutil.rmtree(self.run_dir())


    def test_text_that_is_gone_when_a_run_goes_on(self) -> None:
        """Merged blocks that had the client cannot be made again: they stay, and the others go on."""
        config = self.config(federation=DROP, run={"checkpoint_every": 1000})  # no states: all is computed again
        self.without_client(-1)
        self.done("prune", self.config(place="all"), "--quiet")
        self.held_at(config, 4, ranks=2).kill_all()
        listed = {entry["block"] for entry in manifest_entries(self.run_dir())}
        tokens = Path(self.clients[2]["tokens"])
        away = tokens.rename(tokens.with_suffix(".away"))
        try:
            changed = [r"client\.client-2\.tokens_sha256: [0-9a-f]{64} in the run directory"]
            self.refused(BAD_INPUT, changed, "prune", config, ranks=2)
            outcome = self.done("prune", config, "--force-resume", ranks=2)
        finally:
            away.rename(tokens)
        with_it, without = self.blocks("all"), self.blocks("others")
        expected = {key: (with_it if int(key.split()[1][1:]) in listed else without)[key] for key in without}
        self.assertEqual(self.blocks(), expected)
        self.check_named(outcome, "client-2", 0, "client-2")


class LateClients(FailureTest):
    def test_a_deadline_needs_updates_that_come_one_by_one(self) -> None:
        config = self.config(federation={"deadline": 1, "transport": "reduce"})
        self.refused(BAD_INPUT, ["federation.deadline", "gather"], "prune", config, ranks=2)
        config = self.config(federation={"deadline": 1, "topology": "nodes"})
        self.refused(BAD_INPUT, ["federation.deadline", "owners"], "prune", config, ranks=2)

    # A block's matrices are pruned when the whole of it was seen: the first of them comes as late as the last.
    # States as large as the late client's are not what is tested.
    AT_THE_END = {"prune": {"order": "block"}, "run": {"checkpoint_every": 1000}}

    def seconds_of_a_block(self, client: dict[str, Any]) -> float:
        """What this machine needs for the first block of a client now, alone."""
        config = self.config(place="alone", client=[client], **self.AT_THE_END)
        folder = self.run_dir("alone")
        job = Job("prune", config, ranks=1)
        pruning: Callable[[], bool] = lambda: '"phase": "pruning"' in self.read(folder / "status.json")
        self.assertTrue(job.wait_until(pruning))
        begin = time.monotonic()
        self.assertTrue(job.wait_until(lambda: any((folder / "blocks").glob("*.h5"))))
        seconds = time.monotonic() - begin
        job.kill_all()
        return seconds

    @staticmethod
    def read(file: Path) -> str:
        try:
            return file.read_text()
        except OSError:
            return ""

    def slow(self, **federation: Any) -> Path:
        """The last client has 5,000 times the text of the others, who are far quicker than the deadline, and it is far
        slower: also on a machine that is busier, or less busy, than when it was measured."""
        samples = 30000
        ids = np.random.default_rng(3).integers(0, self.vocab - 1, 40 * samples)
        path = models.write_tokens(self.folder / "much.h5", ids, self.vocab)
        slow = {"name": "client-2", "tokens": str(path), "samples": samples}
        deadline = self.seconds_of_a_block(slow) / 4
        clients = [*self.clients[:2], slow]
        return self.config(federation={"deadline": deadline, **federation}, client=clients, **self.AT_THE_END)

    def test_abort_names_client_rank_and_block(self) -> None:
        expected = [r"late in block 0: .*not delivered [\d.e-]+ s after.*client 'client-2' on rank 2\."]
        self.refused(PEER_LOST, expected, "prune", self.slow(), ranks=3)

    def test_drop(self) -> None:
        self.without_client(-1, **self.AT_THE_END)
        outcome = self.done("prune", self.slow(**DROP), ranks=3)
        self.assertEqual(self.blocks(), self.blocks("others"))
        self.check_named(outcome, "client-2", 0, r"late: .*q_proj.* was not there [\d.e-]+ s after the others'")


class OneRankFails(FailureTest):
    """In each phase: all processes end with the same status and one message."""

    def ends(self, outcome: Outcome, status: int, *expected: str) -> None:
        self.assertEqual(outcome.status, status, str(outcome))
        self.assertEqual(outcome.messages, 1, str(outcome))
        self.assertNotRegex(outcome.stderr, ABORTS, str(outcome))
        message = outcome.stderr[outcome.stderr.index("fedspallm: error:") :]
        for pattern in expected:
            self.assertRegex(message, pattern)

    def test_setup(self) -> None:
        (self.run_dir() / "logs" / "rank_0001.log").mkdir(parents=True)
        self.ends(run("prune", self.config(), ranks=3), NO_RESOURCES, r"rank_0001\.log")

    def evaluation(self, windows: list[bool]) -> list[dict[str, Any]]:
        """Windows, of which some have the token that spoiled models cannot take."""
        ids = np.random.default_rng(9).integers(0, self.vocab - 1, 40 * len(windows))
        for index, meets_it in enumerate(windows):
            if meets_it:
                ids[40 * index + 20] = self.vocab - 1
        path = models.write_tokens(self.folder / f"set-{windows}.h5", ids, self.vocab)
        return [{"name": "set", "tokens": str(path), "sequence_length": 40}]

    def test_dense_evaluation(self) -> None:
        config = self.config(2, client=self.clients[:2], evaluation=self.evaluation([False, True, False]))
        self.ends(run("prune", config, ranks=3), NUMERICAL, "NaN|not finite|infinite")

    def test_pruning(self) -> None:
        self.ends(run("prune", self.config(5), ranks=3), NUMERICAL, "client 'client-2'", "rank 2 on")

    def disturbed(self, config: Path, disturb: Callable[[], object]) -> Outcome:
        job = self.held_at(config, 3, ranks=3)
        disturb()
        job.signal(signal.SIGCONT)
        return job.end()

    def test_saving(self) -> None:
        config = self.config(run={"keep_clients": True})
        in_the_way = self.run_dir() / "clients" / "client-1.h5" / "not empty"
        self.ends(self.disturbed(config, lambda: in_the_way.mkdir(parents=True)), NO_RESOURCES, r"client-1\.h5")

    def test_evaluation(self) -> None:
        changes = {"run": {"keep_clients": True}, "report": {"standalone": True}}
        config = self.config(evaluation=self.evaluation([False] * 3), **changes)
        file = self.run_dir() / "clients" / "client-1" / "r01-b0000.h5"
        outcome = self.disturbed(config, lambda: os.truncate(file, 100))
        self.ends(outcome, BAD_INPUT, r"r01-b0000\.h5")
        self.assertTrue((self.run_dir() / "model" / "config.json").exists(), "saved before it is evaluated")

    def test_started_as_several_processes_of_slurm(self) -> None:
        outcome = run("prune", self.config(), env={"SLURM_PROCID": "1"})
        self.ends(outcome, STARTED_WRONGLY, "SLURM_PROCID", "mpirun|srun")
        self.assertFalse(self.run_dir().exists())


if __name__ == "__main__":
    main()
