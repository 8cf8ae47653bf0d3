#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a run whose clients fail or are late, whose disk is full, or one of whose ranks fails in any
phase. Every failure has a real cause: tokens, weights, files. See docs/robustness.md."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
import unittest
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
    ProgramTest,
    enter_venv,
    file_digests,
    main,
    merged,
    run,
)

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402
import numpy as np  # noqa: E402
import oracle  # noqa: E402

PEER_LOST = 6
BLOCKS = 8
CHANNEL = 5
DROP = {"on_client_failure": "drop"}
WAYS = (("gather", 1), ("reduce", 2), ("gather", 3), ("reduce", 3))  # transport, ranks


def spoil(tensors: dict[str, models.Tensor], block: int) -> None:
    """One channel of the residual stream, which only the last token of the vocabulary feeds and which overflows in
    this block: a text without that token never meets it."""
    embedding = tensors["model.embed_tokens.weight"].data
    embedding[:, CHANNEL] = 0
    embedding[-1, CHANNEL] = 0x3F80  # 1 in bfloat16
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.data[CHANNEL] = 0
    if block >= 0:
        tensors[f"model.layers.{block}.input_layernorm.weight"].data[CHANNEL] = 0x7F61  # 3e38


class FailureTest(ProgramTest):
    """Three clients, of which the last one's text has the token that spoiled models cannot take."""

    clients: list[dict[str, Any]]
    vocab: int
    models_made: dict[int, Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.models_made = {}
        cls.vocab = models.vocabulary(models.LLAMA)
        cls.clients = [cls.client(index, index == 2) for index in range(3)]

    @classmethod
    def client(cls, index: int, meets_it: bool) -> dict[str, Any]:
        ids = np.random.default_rng(index).integers(0, cls.vocab - 1, 1024)
        if meets_it:
            ids[20::40] = cls.vocab - 1
        name = f"client-{index}"
        path = cls.folder / "tokens" / f"{name}-{meets_it}.h5"
        return {"name": name, "tokens": str(models.write_tokens(path, ids, cls.vocab))}

    @classmethod
    def model(cls, block: int) -> Path:
        """A model whose spoiled channel overflows in `block`; -1 = nowhere."""
        if block not in cls.models_made:
            folder = models.deepen(models.LLAMA, cls.folder / f"model{block}", BLOCKS)
            cls.models_made[block] = models.change(folder, lambda tensors: spoil(tensors, block))
        return cls.models_made[block]

    def run_dir(self, place: str = "run") -> Path:
        return self.folder / self._testMethodName / place

    def config(self, block: int = -1, place: str = "run", **changes: Any) -> Path:
        """A configuration, written down. Windows are taken in order: random ones depend on a client's number."""
        base = models.run_config(self.model(block), self.run_dir(place), self.clients)
        base["calibration"]["sampling"] = "sequential"
        base["run"]["checkpoint_every"] = 1
        self.run_dir(place).parent.mkdir(exist_ok=True)
        return self.write_config(merged(base, changes), f"{self._testMethodName}/{place}.toml")

    def blocks(self, place: str = "run") -> dict[str, str]:
        return oracle.digest_of_blocks(self.run_dir(place) / "run.h5")

    def without_client(self, block: int, **changes: Any) -> None:
        """The run that the others would have made, in the folder `others`."""
        self.done("prune", self.config(block, "others", **{"client": self.clients[:2], **changes}), "--quiet")

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.run_dir() / "summary.json").read_text())
        return summary

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.run_dir() / "metrics.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def merged_blocks(self) -> int:
        return len(list((self.run_dir() / "blocks").glob("*.h5")))

    def check_named(self, outcome: Outcome, client: str, block: int, reason: str) -> None:
        """Everybody who may ask is told who was left out, from where on, and why."""
        (dropped,) = self.summary()["dropped"]
        self.assertEqual((dropped["client"], dropped["round"], dropped["block"]), (client, 1, block))
        self.assertRegex(dropped["reason"], reason)
        text = rf"client '{client}' is left out from block {block} of round 1 on: .*"
        self.assertRegex(outcome.stdout, "left out +" + text)
        self.assertEqual(len(self.events("client_dropped")), 1)
        self.assertRegex((self.run_dir() / "logs" / "rank_0000.log").read_text(), text)
        found = self.done("inspect", self.run_dir(), "--json").json()
        self.assertRegex("\n".join(found["warnings"]), text)
        self.assertEqual((found["ok"], found["complete"]), (True, True))


class FailingClients(FailureTest):
    def test_abort_names_client_and_matrix(self) -> None:
        config = self.config(3)
        expected = [r"client 'client-2', model\.layers\.3\.self_attn\.q_proj\.weight: .*NaN or infinity"]
        for transport, ranks in WAYS:
            with self.subTest(transport=transport, ranks=ranks):
                override = ("--set", f"federation.transport={transport}")
                self.refused(NUMERICAL, expected, "prune", config, *override, ranks=ranks)
                shutil.rmtree(self.run_dir())

    def test_drop_from_the_block_where_it_failed(self) -> None:
        self.without_client(3)
        self.done("prune", self.config(-1, "all"), "--quiet", ranks=2)
        before, after = self.blocks("all"), self.blocks("others")
        expected = {key: (before if int(key.split()[1][1:]) < 3 else after)[key] for key in after}
        for transport, ranks in WAYS:
            with self.subTest(transport=transport, ranks=ranks):
                config = self.config(3, federation={**DROP, "transport": transport}, run={"keep_clients": True})
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
        for transport in ("gather", "reduce"):
            with self.subTest(transport=transport):
                config = self.config(1, federation={**DROP, "transport": transport})
                self.done("prune", config, "--quiet", ranks=3)
                expected = self.blocks()
                shutil.rmtree(self.run_dir())
                job = Job("prune", config, ranks=3)
                self.assertTrue(job.wait_until(lambda: self.merged_blocks() >= 4))
                job.kill_all()
                outcome = self.done("prune", config, ranks=2)
                self.assertEqual(self.blocks(), expected)
                self.check_named(outcome, "client-2", 1, "NaN or infinity")
                shutil.rmtree(self.run_dir())


    def test_text_that_is_gone_when_a_run_goes_on(self) -> None:
        """Merged blocks that had the client cannot be made again: they stay, and the others go on."""
        config = self.config(federation=DROP, run={"checkpoint_every": 1000})  # no states: all is computed again
        self.without_client(-1)
        self.done("prune", self.config(place="all"), "--quiet")
        job = Job("prune", config, ranks=2)
        self.assertTrue(job.wait_until(lambda: self.merged_blocks() >= 4))
        job.kill_all()
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

    def seconds_of_a_block(self, client: dict[str, Any]) -> float:
        """What this machine needs for the first block of a client now, alone."""
        config = self.config(place="alone", client=[client])
        folder = self.run_dir("alone")
        job = Job("prune", config, ranks=1)
        pruning: Callable[[], bool] = lambda: '"phase": "pruning"' in self.read(folder / "status.json")
        self.assertTrue(job.wait_until(pruning))
        begin = time.monotonic()
        self.assertTrue(job.wait_until(lambda: any((folder / "blocks").glob("*.h5")), 120))
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
        """The last client has a thousand times the text of the others, who wait for it far beyond the deadline."""
        samples = 16000
        ids = np.random.default_rng(3).integers(0, self.vocab - 1, 40 * samples)
        path = models.write_tokens(self.folder / "much.h5", ids, self.vocab)
        slow = {"name": "client-2", "tokens": str(path), "samples": samples}
        deadline = self.seconds_of_a_block(slow) / 8
        return self.config(federation={"deadline": deadline, **federation}, client=[*self.clients[:2], slow])

    def test_abort_names_client_rank_and_block(self) -> None:
        expected = [r"late in block 0: .*not delivered [\d.e-]+ s after.*client 'client-2' on rank 2\."]
        self.refused(PEER_LOST, expected, "prune", self.slow(), ranks=3)

    def test_drop(self) -> None:
        self.without_client(-1)
        outcome = self.done("prune", self.slow(**DROP), ranks=3)
        self.assertEqual(self.blocks(), self.blocks("others"))
        self.check_named(outcome, "client-2", 0, r"late: .*q_proj.* was not there [\d.e-]+ s after the others'")


@unittest.skipIf("FEDSPALLM_SANITIZED" in os.environ, "sanitizers need all addresses")
class OutOfMemory(FailureTest):
    """The last client wants more memory than processes may have."""

    def limited(self, **federation: str) -> Path:
        """More windows than fit: their hidden states alone take 6 GB."""
        limit, hidden_bytes = 4 << 30, 6 << 30
        before = resource.getrlimit(resource.RLIMIT_AS)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_AS, before)
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        window = models.run_config(self.model(-1), self.run_dir(), self.clients)["calibration"]["sequence_length"]
        hidden = json.loads((self.model(-1) / "config.json").read_text())["hidden_size"]
        samples = hidden_bytes // (4 * window * hidden)
        clients = [*self.clients[:2], {**self.clients[2], "samples": samples}]
        return self.config(client=clients, calibration={"sampling": "random"}, federation=federation)

    def test_abort_names_what_did_not_fit(self) -> None:
        expected = [r"client 'client-2': memory: \d+ bytes could not be allocated", "fewer samples"]
        self.refused(NO_RESOURCES, expected, "prune", self.limited(), ranks=3)

    def test_drop(self) -> None:
        outcome = self.done("prune", self.limited(**DROP), ranks=3)
        self.check_named(outcome, "client-2", 0, "memory: .* could not be allocated")


class FullDisk(FailureTest):
    """Every kind of file finds no space once; then there is space, and the same command finishes."""

    def expected(self) -> dict[str, str]:
        self.done("prune", self.config(place="clean", run={"keep_clients": True}), "--quiet", ranks=2)
        return file_digests(self.run_dir("clean") / "model")

    def finish(self, config: Path, expected: dict[str, str], failed: Outcome, name: str) -> None:
        self.assertEqual(failed.status, NO_RESOURCES, str(failed))
        self.assertEqual(failed.messages, 1, str(failed))
        self.assertRegex(failed.stderr, rf"error: [\s\S]*{name}[\s\S]*(No space left|space)", str(failed))
        self.assertNotRegex(failed.stderr, ABORTS)
        self.assertFalse((self.run_dir() / "summary.json").is_file(), "nothing torn counts as finished")
        self.done("prune", config, "--quiet", ranks=2)
        self.assertEqual(file_digests(self.run_dir() / "model"), expected)
        self.assertEqual([str(file) for file in self.run_dir().rglob("*.part") if file.is_file()], [])

    def take_space(self, job: Job, part: Path) -> None:
        """From here on PART cannot be written. The job stands still meanwhile, and not while it writes PART."""
        while not part.is_symlink():
            job.signal(signal.SIGSTOP)
            part.parent.mkdir(parents=True, exist_ok=True)
            if not part.exists():
                part.symlink_to("/dev/full")
            job.signal(signal.SIGCONT)

    def test_each_kind_of_file(self) -> None:
        expected = self.expected()
        config = self.config(run={"keep_clients": True})
        at_once, running = 0, 1
        places = {  # relative path of what is written: when its space goes
            "status.json.part": at_once,
            "config.toml.part": at_once,
            "resume.json.part": at_once,
            "metrics.jsonl": at_once,
            "blocks/r01-b0007.h5.part": running,
            "manifest.json.part": running,
            "clients/client-1/r01-b0007.h5.part": running,
            "clients/client-0/manifest.json.part": running,
            "clients/client-1.h5.part": running,
            "state/client-1/r01-b0007.state.part": running,
            "run.h5.part": running,
            "summary.json.part": running,
        }
        for place, when in places.items():
            with self.subTest(file=place):
                shutil.rmtree(self.run_dir(), ignore_errors=True)
                full = self.run_dir() / place
                if when == at_once:
                    full.parent.mkdir(parents=True)
                    full.symlink_to("/dev/full")
                job = Job("prune", config, ranks=2)
                if when == running:
                    self.assertTrue(job.wait_until(lambda: self.merged_blocks() >= 1))
                    self.take_space(job, full)
                outcome = job.end()
                if full.is_symlink():
                    full.unlink()
                self.finish(config, expected, outcome, full.name.replace(".part", ""))
                shutil.rmtree(self.run_dir())

    def test_the_model(self) -> None:
        expected = self.expected()
        config = self.config(run={"keep_clients": True})
        for _ in range(10):
            job = Job("prune", config, ranks=2)
            files = lambda: list((self.run_dir() / "model.part").glob("*.safetensors"))  # noqa: E731
            self.assertTrue(job.wait_until(lambda: bool(files())))
            job.signal(signal.SIGSTOP)
            if files():
                break
            job.signal(signal.SIGCONT)  # it was faster than this test
            job.end()
            shutil.rmtree(self.run_dir())
        (file,) = files()
        file.unlink()
        file.symlink_to("/dev/full")
        job.signal(signal.SIGCONT)
        outcome = job.end()
        file.unlink(missing_ok=True)
        self.finish(config, expected, outcome, file.name)

    def test_a_file_system_that_fills_up(self) -> None:
        place = self.run_dir()
        place.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            self.skipTest("mounting a tmpfs is not possible here")
        try:
            expected = self.expected()
            config = self.config(run={"keep_clients": True})
            ballast = place / "ballast"
            for blocks in (0, 1, 3, 6):
                job = Job("prune", config, ranks=2)
                ready: Callable[[], bool] = lambda n=blocks: (  # type: ignore[misc]
                    (place / "status.json").exists() if n == 0 else self.merged_blocks() >= n
                )
                self.assertTrue(job.wait_until(ready))
                subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"], check=False, capture_output=True)
                outcome = job.end()
                ballast.unlink()
                self.finish(config, expected, outcome, str(place))
                for entry in place.iterdir():
                    if entry.is_dir():
                        shutil.rmtree(entry)
                    else:
                        entry.unlink()
        finally:
            subprocess.run(["umount", str(place)], check=True)


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
        job = Job("prune", config, ranks=3)
        self.assertTrue(job.wait_until(lambda: self.merged_blocks() >= 3))
        disturb()
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
