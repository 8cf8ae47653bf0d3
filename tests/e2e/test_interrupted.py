#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A run is caught at a chosen place: inside a write, in each phase, after a first signal. A disk that is slow to
sync (tests/slurm/slow_disk.c) makes places last long enough to be caught in; jobs stand still while disturbed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from background import Job, held, manifest_entries
from harness import ABORTS, DONE, ROOT, Outcome, ProgramTest, enter_venv, file_digests, main, merged, run

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402
import oracle  # noqa: E402

BLOCKS = 5
PEER_LOST, STOPPED = 6, 75
SLOW = "60"  # milliseconds that each fsync takes


class Interrupted(ProgramTest):
    config: dict[str, Any]
    evaluation: list[dict[str, Any]]
    slow_disk: dict[str, str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        model = models.deepen(models.LLAMA, cls.folder / "input", BLOCKS)
        clients = models.clients_of(cls.folder / "tokens", model, 3)
        unseen = models.random_tokens(cls.folder / "unseen.h5", model, 9, 40 * 400)
        cls.config = merged(
            models.run_config(model, cls.folder / "run", clients),
            {"run": {"checkpoint_every": 1, "keep_clients": True}},
        )
        cls.evaluation = [{"name": "unseen", "tokens": str(unseen), "sequence_length": 40}]
        disk = cls.preloaded(ROOT / "tests" / "slurm" / "slow_disk.c")
        cls.slow_disk = {"LD_PRELOAD": disk, "SLOW_DISK_MS": SLOW}

    def setUp(self) -> None:
        self.run_dir = self.folder / self._testMethodName / "run"
        self.run_dir.parent.mkdir()

    def written(self, **sections: Any) -> Path:
        config = merged(merged(self.config, {"run": {"dir": str(self.run_dir)}}), sections)
        return self.write_config(config, f"{self._testMethodName}/config.toml")

    def digests(self) -> dict[str, Any]:
        run_file = oracle.digest_of_blocks(self.run_dir / "run.h5")
        found = {"model": file_digests(self.run_dir / "model"), "run.h5": run_file}
        for file in sorted((self.run_dir / "clients").glob("*.h5")):
            found[file.name] = oracle.digest_of_blocks(file)
        return found

    def undisturbed(self, config: Path) -> dict[str, Any]:
        self.done("prune", config, "--quiet", ranks=2)
        found = self.digests()
        shutil.rmtree(self.run_dir)
        return found

    def finish(self, config: Path, expected: dict[str, Any], ranks: int = 2) -> None:
        outcome = self.done("prune", config, ranks=ranks)
        self.assertEqual(self.digests(), expected, str(outcome))

    def caught(
        self,
        config: Path,
        place: Callable[[], bool],
        *options: str,
        ranks: int = 2,
        env: Mapping[str, str] | None = None,
    ) -> Job:
        """A job that stands still at a place."""
        return held(
            lambda: Job("prune", config, *options, ranks=ranks, env=env),
            place,
            place,
            lambda: shutil.rmtree(self.run_dir, ignore_errors=True),
        )

    def merged_blocks(self) -> int:
        return len(list((self.run_dir / "blocks").glob("*.h5")))

    def amid(self) -> bool:
        return 1 <= self.merged_blocks() < BLOCKS

    # ------------------------------------------------------------ killed

    def test_killed_inside_each_kind_of_write(self) -> None:
        config = self.written()
        expected = self.undisturbed(config)
        for pattern in (
            "resume.json.part",
            "status.json.part",
            "blocks/*.part",
            "manifest.json.part",
            "state/client-1/*.part",
            "clients/client-0/*.part",
            "clients/client-2.h5.part",
            "model.part/*.safetensors",
            "run.h5.part",
            "summary.json.part",
        ):
            with self.subTest(pattern=pattern):
                shutil.rmtree(self.run_dir, ignore_errors=True)
                inside = lambda p=pattern: any(self.run_dir.glob(p))  # noqa: E731
                self.caught(config, inside, "--quiet", env=self.slow_disk).kill_all()
                self.assertTrue(inside(), "the remains of a write")
                self.finish(config, expected)
                self.assertEqual([str(file) for file in self.run_dir.rglob("*.part")], [])

    def unlisted(self) -> bool:
        """Whether a block's file is there that does not count yet."""
        try:
            listed = {entry["file"] for entry in manifest_entries(self.run_dir)}
        except OSError:
            listed = set()
        return bool({file.name for file in (self.run_dir / "blocks").glob("*.h5")} - listed)

    def test_killed_between_a_blocks_file_and_its_listing(self) -> None:
        config = self.written(federation={"topology": "owners"})
        expected = self.undisturbed(config)
        for ranks in (2, 3):
            self.caught(config, self.unlisted, "--quiet", ranks=ranks, env=self.slow_disk).kill_all()
            self.finish(config, expected)
            shutil.rmtree(self.run_dir)

    def phase(self, name: str) -> bool:
        try:
            return f'"phase": "{name}"' in (self.run_dir / "status.json").read_text()
        except OSError:
            return False

    def check_lost(self, outcome: Outcome, phase: str) -> None:
        self.assertNotIn(DONE, outcome.statuses, str(outcome))
        survivors = [outcome.statuses[0], outcome.statuses[2]]
        # When the first of them has gone, mpiexec may be quicker to end the other one (status -1).
        self.assertIn(PEER_LOST, survivors, str(outcome))
        self.assertTrue(set(survivors) <= {PEER_LOST, -1}, str(outcome))
        self.assertEqual(outcome.stderr.count("fedspallm: error:"), 1, str(outcome))
        self.assertRegex(outcome.stderr, rf"error: rank 1 on \S+ is lost in {phase}\b", str(outcome))

    def test_a_rank_killed_or_stopped_in_each_phase(self) -> None:
        config = self.written(evaluation=self.evaluation)
        for phase in ("dense evaluation", "pruning", "saving", "evaluation"):
            for number in (signal.SIGKILL, signal.SIGSTOP):
                with self.subTest(phase=phase, signal=number.name):
                    here = lambda p=phase: self.phase(p)  # noqa: E731
                    job = self.caught(config, here, "--watchdog", "3", ranks=3, env=self.slow_disk)
                    # The others hear of the phase from the victim, which moves on by less than one.
                    job.signal(signal.SIGCONT)
                    self.assertTrue(job.hold())
                    self.assertTrue(here(), "it lasts")
                    job.signal(number, 1)
                    job.signal(signal.SIGCONT, 0, 2)
                    self.check_lost(job.end(), phase)
                    shutil.rmtree(self.run_dir)

    # ------------------------------------------------------------ signals

    def taken(self, job: Job, rank: int, number: signal.Signals) -> bool:
        """Whether the signal is not pending any more."""
        status = Path(f"/proc/{job.pids()[rank]}/status").read_text()
        pending = int(status.partition("ShdPnd:")[2].split()[0], 16)
        return pending >> (number - 1) & 1 == 0

    def test_the_same_signal_twice_leaves_at_once(self) -> None:
        config = self.written()
        expected = self.undisturbed(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number.name):
                job = self.caught(config, self.amid, env=self.slow_disk)
                job.signal(number, 0)
                job.signal(signal.SIGCONT, 0)  # alone: rank 1 cannot agree to anything
                self.assertTrue(job.wait_until(lambda j=job, n=number: self.taken(j, 0, n)))
                job.signal(number, 0)
                self.assertTrue(job.wait_until(lambda j=job: 0 not in j.pids()))
                job.signal(signal.SIGCONT)  # rank 1 hears of it when it looks
                outcome = job.end()
                self.check_left(outcome, "the signal came twice", 0, "pruning")
                self.finish(config, expected)
                shutil.rmtree(self.run_dir)

    def check_left(self, outcome: Outcome, why: str, rank: int, phase: str) -> None:
        """All ranks have left at once, with one message."""
        # When the first of them has gone, mpiexec may be quicker to end the shell of another one (status -1).
        self.assertIn(STOPPED, outcome.statuses, str(outcome))
        self.assertTrue(set(outcome.statuses) <= {STOPPED, -1}, str(outcome))
        said = rf"^fedspallm: leaving at once: {why}; .* \(rank {rank} on \S+, in {phase}\b"
        self.assertEqual(len(re.findall(said, outcome.stderr, re.MULTILINE)), 1, str(outcome))
        self.assertEqual(outcome.stderr.count("leaving at once"), 1, str(outcome))
        self.assertNotIn("fedspallm: error", outcome.stderr, str(outcome))
        if phase != "setup":  # which has not written it yet
            status = json.loads((self.run_dir / "status.json").read_text())
            self.assertEqual((status["state"], status["exit_status"]), ("stopped", STOPPED))

    def test_the_grace_time_of_one_rank_ends_all_outside_of_pruning(self) -> None:
        plain = self.written(evaluation=self.evaluation)
        expected = self.undisturbed(plain)
        config = self.written(evaluation=self.evaluation, run={"grace_seconds": 0})
        for phase in ("setup", "dense evaluation", "saving", "evaluation"):
            for rank in (0, 2):
                with self.subTest(phase=phase, rank=rank):
                    shutil.rmtree(self.run_dir, ignore_errors=True)
                    writing = self.run_dir / "resume.json.part"  # the first thing that is written
                    here = lambda p=phase, w=writing: w.exists() if p == "setup" else self.phase(p)  # noqa: E731
                    job = self.caught(config, here, ranks=3, env=self.slow_disk)
                    job.signal(signal.SIGCONT)  # all come to the phase
                    self.assertTrue(job.hold())
                    self.assertTrue(here(), "it lasts")
                    job.signal(signal.SIGTERM, rank)
                    job.signal(signal.SIGCONT)
                    self.check_left(job.end(), "the grace time is over", rank, phase)
                    self.finish(config, expected, ranks=3)

    def test_the_grace_time_ends_a_job_whose_ranks_do_not_come_to_a_common_block(self) -> None:
        many = 30000
        path = models.random_tokens(self.folder / "much.h5", self.folder / "input", 5, 40 * many)
        slow = {**self.config["client"][2], "tokens": str(path), "samples": many}
        run_section = {"grace_seconds": 0.1, "checkpoint_every": 1000}
        config = self.written(client=[*self.config["client"][:2], slow], run=run_section)
        quick_one = self.run_dir / "clients" / "client-0" / "r01-b0000.h5"  # while the last client has just begun
        job = self.caught(config, lambda: quick_one.exists() and self.merged_blocks() == 0, ranks=3)
        job.signal(signal.SIGTERM, 1)
        job.signal(signal.SIGCONT)
        self.check_left(job.end(), "the grace time is over", 1, "pruning")
        self.assertEqual(self.merged_blocks(), 0)

    # ------------------------------------------------------------ files

    def test_the_folder_is_locked_until_the_outcome_is_written(self) -> None:
        job = Job("prune", self.written(), "--quiet", ranks=2, env=self.slow_disk)
        lease = self.run_dir / ".lease.json"
        self.assertTrue(job.wait_until(lease.exists))
        job.wait_until(lambda: not lease.exists())
        status = json.loads((self.run_dir / "status.json").read_text())
        self.assertEqual(status["state"], "finished")
        self.assertEqual(job.end().status, DONE)

    def test_no_file_of_a_block_stays_open(self) -> None:
        """Whenever one looks: a rank may be reading or writing one block, and has no other one open."""
        config = self.written()
        for look in range(4):
            job = self.caught(config, lambda n=look: self.merged_blocks() > n and self.amid(), env=self.slow_disk)
            for rank, pid in job.pids().items():
                names = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
                files = [name for name in names if name.startswith(str(self.run_dir)) and ".h5" in name]
                self.assertLessEqual(len(files), 2, f"rank {rank}: {files}")  # a merged block, a client's own one
                for name in files:
                    self.assertTrue(name.endswith(".part"), f"rank {rank}: {files}")
            job.kill_all()
            shutil.rmtree(self.run_dir)

    def test_few_blocks_wait_for_a_slow_disk(self) -> None:
        """Clients that nothing couples are held up by their own files, rather than filling the memory with blocks."""
        count = 4
        clients = models.clients_of(self.folder / "slow-tokens", self.folder / "input", count)
        config = self.written(client=clients, federation={"aggregation": "none"}, run={"checkpoint_every": 1000})

        def made() -> int:
            """Blocks of clients that are computed, as the root has told."""
            try:
                return count * (json.loads((self.run_dir / "status.json").read_text())["block"] + 1)
            except (OSError, KeyError, TypeError):
                return 0

        job = self.caught(config, lambda: 3 * count <= made() < BLOCKS * count, ranks=1, env=self.slow_disk)
        written = len(list(self.run_dir.glob("clients/*/r*.h5")))
        job.kill_all()
        self.assertLessEqual(made() - written, 3, "one is being written, two may wait")

    def test_where_nothing_can_be_locked(self) -> None:
        config = self.written()
        expected = self.undisturbed(config)
        outcome = self.done(
            "prune", config, ranks=2, env={"LD_PRELOAD": self.preloaded(ROOT / "tests" / "e2e" / "no_locks.c")}
        )
        self.assertIn("flock does not work here", outcome.stderr)
        self.assertEqual(self.digests(), expected)

    def test_standard_output_does_not_grow_with_the_ranks(self) -> None:
        lines = []
        config = self.written(evaluation=self.evaluation)
        for ranks in (2, 8):
            outcome = self.done("prune", config, "--restart", ranks=ranks)
            lines.append(len(outcome.stdout.splitlines()))
            logs = sorted(file.name for file in (self.run_dir / "logs").iterdir())
            self.assertEqual(logs, [f"rank_{rank:04}.log" for rank in range(ranks)])
        self.assertEqual(*lines)
        self.assertNotRegex(outcome.stderr, ABORTS)
        self.assertEqual(run("inspect", self.run_dir).status, DONE)


if __name__ == "__main__":
    main()
