#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a run that finds no memory, or no space for one of its files."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import unittest
from collections.abc import Callable
from pathlib import Path

from background import Job, held
from harness import ABORTS, NO_RESOURCES, Outcome, enter_venv, file_digests, main

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402
from failing import BLOCKS, DROP, FailureTest  # noqa: E402


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


def empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


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

    def started_without_space(self, config: Path, part: Path) -> Job:
        """A job that from an early block on cannot write PART. It stands still meanwhile, not while it writes PART."""
        job = held(
            lambda: Job("prune", config, ranks=2),
            lambda: self.merged_blocks() >= 1,
            lambda: self.merged_blocks() <= 3 and not part.exists(),
            lambda: shutil.rmtree(self.run_dir()),
        )
        part.parent.mkdir(parents=True, exist_ok=True)
        part.symlink_to("/dev/full")
        job.signal(signal.SIGCONT)
        return job

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
                else:
                    job = self.started_without_space(config, full)
                outcome = job.end()
                if full.is_symlink():
                    full.unlink()
                self.finish(config, expected, outcome, full.name.replace(".part", ""))
                shutil.rmtree(self.run_dir())

    def test_the_model(self) -> None:
        expected = self.expected()
        config = self.config(run={"keep_clients": True})
        shard = self.run_dir() / "model.part" / "model.safetensors"
        job = held(
            lambda: Job("prune", config, ranks=2),
            shard.parent.is_dir,
            lambda: shard.parent.is_dir() and not shard.exists(),  # it is written at the end
            lambda: shutil.rmtree(self.run_dir()),
        )
        shard.symlink_to("/dev/full")
        job.signal(signal.SIGCONT)
        outcome = job.end()
        self.assertFalse(shard.parent.exists())
        self.finish(config, expected, outcome, shard.name)

    def test_a_block_that_another_rank_writes(self) -> None:
        expected = self.expected()
        config = self.config(run={"keep_clients": True}, federation={"topology": "owners"})
        full = self.run_dir() / "blocks" / "r01-b0007.h5.part"
        outcome = self.started_without_space(config, full).end()
        self.assertRegex(outcome.stderr, r"error: rank 1 on \S+: \S*r01-b0007\.h5\.part")
        if full.is_symlink():
            full.unlink()
        self.finish(config, expected, outcome, "r01-b0007.h5")

    def test_no_memory_that_ranks_could_share(self) -> None:
        expected = self.expected()
        small = self.folder / "small"
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(small)]
        mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
        places = {"/nonexistent": "cannot be written to"} | ({str(small): "MB are needed"} if mounted else {})
        config = self.config(run={"keep_clients": True}, federation={"topology": "nodes"})
        try:
            for place, found in places.items():
                with self.subTest(place=place):
                    lacking = {"OMPI_MCA_osc_sm_backing_directory": place}
                    said = [rf"rank 0 on \S+: shared memory: {place} .*{found}", 'topology = "auto"']
                    self.refused(NO_RESOURCES, said, "prune", config, ranks=2, env=lacking)
                    again = self.done("prune", config, "--quiet", ranks=2)
                    self.assertEqual(file_digests(self.run_dir() / "model"), expected, str(again))
                    shutil.rmtree(self.run_dir())
        finally:
            if mounted:
                subprocess.run(["umount", str(small)], check=True)

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
                ready: Callable[[], bool] = lambda n=blocks: (  # type: ignore[misc]
                    (place / "status.json").exists() if n == 0 else self.merged_blocks() >= n
                )
                job = held(
                    lambda: Job("prune", config, ranks=2),
                    ready,
                    lambda: self.merged_blocks() < BLOCKS,
                    lambda: empty(place),
                )
                subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"], check=False, capture_output=True)
                job.signal(signal.SIGCONT)
                outcome = job.end()
                ballast.unlink()
                self.finish(config, expected, outcome, str(place))
                empty(place)
        finally:
            subprocess.run(["umount", str(place)], check=True)


if __name__ == "__main__":
    main()
