#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many small runs, each disturbed at random moments and started again until it is done: the bits never differ.

FEDSPALLM_SOAK: number of runs (200). FEDSPALLM_SOAK_SEED: of all that is drawn (1). docs/robustness.md has the
results of the last long run."""

from __future__ import annotations

import collections
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from background import Job
from harness import DONE, Outcome, ProgramTest, enter_venv, file_digests, main

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402
import oracle  # noqa: E402

RUNS = int(os.environ.get("FEDSPALLM_SOAK", "200"))
SEED = int(os.environ.get("FEDSPALLM_SOAK_SEED", "1"))
BLOCKS = 12
STOPPED = 75
KINDS = ("SIGKILL to all", "SIGKILL to one rank", "SIGTERM to one rank", "SIGUSR2 to one rank")


class Soak(ProgramTest):
    counts: collections.Counter[str]

    def start(self, draw: random.Random) -> tuple[Job, int]:
        ranks = draw.randint(1, 4)
        way = draw.choice(("transport=gather", "transport=reduce", "topology=owners", "topology=nodes"))
        self.counts[f"{way}, {ranks} ranks"] += 1
        override = ("--set", f"federation.{way}")
        return Job("prune", self.config, "--quiet", "--watchdog", "10", *override, ranks=ranks), ranks

    def disturb(self, draw: random.Random, seconds: float) -> Outcome | None:
        """One start, disturbed. What the job said when it came to its end in time, or by a signal."""
        job, ranks = self.start(draw)
        if not job.runs_for(draw.uniform(0.05, 1.05) * seconds):
            return job.end()
        kind = draw.choice(KINDS)
        self.counts[kind] += 1
        if kind == KINDS[0]:
            job.kill_all()
            return None
        number = {KINDS[1]: signal.SIGKILL, KINDS[2]: signal.SIGTERM, KINDS[3]: signal.SIGUSR2}[kind]
        if not job.wait_until(lambda: job.under_way(self.run_dir)):
            return job.end()
        job.signal(number, draw.randrange(ranks))
        outcome = job.end()
        if number != signal.SIGKILL:
            # After the program's last step a signal has its default meaning.
            for status in outcome.statuses:
                self.assertIn(status, (STOPPED, DONE, 128 + number, -1), str(outcome))
            for status in set(outcome.statuses) & {STOPPED, DONE}:
                self.counts[f"status {status} after a signal"] += 1
        return outcome

    def digests(self) -> tuple[Any, Any]:
        return file_digests(self.run_dir / "model"), oracle.digest_of_blocks(self.run_dir / "run.h5")

    def finished(self) -> bool:
        return (self.run_dir / "summary.json").exists()

    def test_no_bit_differs(self) -> None:
        self.counts = collections.Counter()
        self.run_dir: Path = self.folder / "run"
        model = models.deepen(models.LLAMA, self.folder / "input", BLOCKS)
        clients = models.clients_of(self.folder / "tokens", model, 4, samples=16)
        config = models.run_config(model, self.run_dir, clients)
        config["run"]["checkpoint_every"] = 2
        self.config = self.write_config(config)
        seconds = self.done("prune", self.config, "--quiet", ranks=2).seconds
        expected = self.digests()
        draw = random.Random(SEED)
        begin = time.monotonic()
        for index in range(RUNS):
            shutil.rmtree(self.run_dir)
            for _ in range(draw.randint(1, 3)):
                if self.finished():
                    break
                self.disturb(draw, seconds)
            outcome = None
            if not self.finished():
                job, _ = self.start(draw)
                outcome = job.end()
                self.assertEqual(outcome.status, DONE, f"seed {SEED}, run {index}\n{outcome}")
            self.assertEqual(self.digests(), expected, f"seed {SEED}, run {index}\n{outcome}")
            if (index + 1) % 20 == 0:
                print(f"{index + 1} runs, {time.monotonic() - begin:.0f} s, no difference", flush=True)
        print(f"{RUNS} runs without a difference, {time.monotonic() - begin:.0f} s, seed {SEED}")
        for name, count in sorted(self.counts.items()):
            print(f"  {name}: {count}")


if __name__ == "__main__":
    main()
