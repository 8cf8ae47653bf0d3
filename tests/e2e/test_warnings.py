#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Warnings about input that is sound and still not what somebody wants, dry runs of other sizes, and numbers on the
command line that nothing can be made of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from harness import (
    BAD_INPUT,
    DONE,
    MPIEXEC,
    NO_RESOURCES,
    PROGRAM,
    enter_venv,
    environment,
    main,
    merged,
)

if __name__ == "__main__":
    enter_venv()

import numpy as np  # noqa: E402

import models  # noqa: E402


class Warned(models.ModelTest):
    def config(self, **changes: Any) -> Path:
        base = models.run_config(self.model, self.folder / self._testMethodName, self.clients)
        return self.write_config(merged(base, changes))

    def warnings(self, *arguments: object, ranks: int = 1, **changes: Any) -> list[str]:
        """Of a dry run."""
        outcome = self.done("prune", self.config(**changes), "--dry-run", *arguments, ranks=ranks)
        return re.findall("fedspallm: warning: (.*)", outcome.stderr)


class Inputs(Warned):
    def test_an_attribute_of_another_vocabulary(self) -> None:
        vocab = models.vocabulary(self.model)
        other = models.write_tokens(self.folder / "other.h5", np.arange(400) % vocab, vocab + 5)
        said = f"other.h5: its attribute vocab_size is {vocab + 5}, the model's vocab_size {vocab}"
        clients = [{**self.clients[0], "tokens": str(other)}, *self.clients[1:]]
        self.assertIn(said, "\n".join(self.warnings(client=clients)))
        sets = [{"name": "e", "tokens": str(other), "sequence_length": 40}]
        self.assertIn(said, "\n".join(self.warnings(evaluation=sets)))
        outcome = self.done("eval", self.model, "--tokens", other, "--sequence-length", 40, "--json")
        self.assertIn(said, outcome.stderr)

    def test_the_same_content_under_other_names(self) -> None:
        copy = shutil.copy(self.clients[0]["tokens"], self.folder / "copy.h5")
        clients = [*self.clients[:2], {**self.clients[2], "tokens": str(copy)}]
        sets = [{"name": "e", "tokens": str(copy), "sequence_length": 40}]
        for ranks in (1, 3):
            found = "\n".join(self.warnings(ranks=ranks, client=clients, evaluation=sets))
            self.assertRegex(found, "client 'client-2': .*copy.h5 has the same content as .*client-0.h5 of client 'client-0'")
            self.assertIn("evaluation 'e'", found)
        found = "\n".join(self.warnings(evaluation=sets))
        self.assertRegex(found, "evaluation 'e': .*copy.h5 is also a client's calibration file .*client-0.h5")
        self.assertEqual(len(self.warnings(evaluation=[])), 1, "no evaluation, and nothing else")

    def test_random_windows_of_a_text_of_one_window(self) -> None:
        one = models.random_tokens(self.folder / "one.h5", self.model, 5, 40)
        clients = [{**self.clients[0], "tokens": str(one)}, *self.clients[1:]]
        said = "client 'client-0': its text has 40 tokens, exactly one window"
        self.assertIn(said, "\n".join(self.warnings(client=clients)))
        self.assertNotIn(said, "\n".join(self.warnings(client=[{**clients[0], "samples": 1}, *clients[1:]])))


class Ranks(Warned):
    def test_ranks_without_clients_are_counted(self) -> None:
        said = "2 of 5 ranks have no client and prune nothing"
        self.assertIn(said, "\n".join(self.warnings("--assume-ranks", 5)))
        self.assertNotIn("have no client", "\n".join(self.warnings(ranks=2)))
        outcome = self.done("prune", self.config(), ranks=4)
        self.assertEqual(outcome.stderr.count("1 of 4 ranks have no client"), 1, str(outcome))

    def test_clients_ranks_are_those_of_the_assumed_size(self) -> None:
        clients = [{**client, "rank": 7 - index} for index, client in enumerate(self.clients)]
        config = self.config(client=clients)
        outcome = self.done("prune", config, "--dry-run", "--assume-ranks", 8)
        self.assertRegex(outcome.stdout, r"(?m)^ +7 +1 ")
        self.refused(BAD_INPUT, ["client-0.rank: found 7, expected 0 .. 6"], "prune", config, "--dry-run", "--assume-ranks", 7)
        self.refused(BAD_INPUT, ["client-0.rank: found 7, expected 0 .. 0"], "prune", config, "--dry-run")

    def test_token_files_of_other_machines_are_not_needed(self) -> None:
        clients = [{**self.clients[0], "tokens": "/nowhere/a.h5", "rank": 3}, *self.clients[1:]]
        found = "\n".join(self.warnings("--assume-ranks", 4, client=clients))
        self.assertIn("client 'client-0': /nowhere/a.h5 is not on this machine", found)
        self.refused(BAD_INPUT, ["/nowhere/a.h5"], "prune", self.config(client=[clients[1], {**clients[0], "rank": 0}]), "--dry-run")

    def test_equal_rows_become_one(self) -> None:
        outcome = self.done("prune", self.config(), "--dry-run", "--assume-ranks", 10000)
        self.assertEqual(len(re.findall(r"(?m)^ *\d+(?:\.\.\d+)? +\d+ ", outcome.stdout)), 4, outcome.stdout)
        self.assertRegex(outcome.stdout, r"(?m)^3\.\.9999 +0 ")

    def test_assumed_ranks_are_for_dry_runs_and_have_a_range(self) -> None:
        for words, said in (
            (("--assume-ranks", "4"), "--dry-run"),
            (("--dry-run", "--assume-ranks", "0"), "1 to 1000000"),
            (("--dry-run", "--assume-ranks", "-4"), "1 to 1000000"),
            (("--dry-run", "--assume-ranks", "1000001"), "1 to 1000000"),
        ):
            self.assertRegex(self.command_line(BAD_INPUT, "prune", self.config(), *words), said)
        self.assertFalse((self.folder / self._testMethodName).exists())

    def command_line(self, status: int, *words: object) -> str:
        done = subprocess.run(
            [PROGRAM, *map(str, words)], capture_output=True, text=True, check=False, env=environment({})
        )
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr

    def test_numbers_of_other_commands(self) -> None:
        tokens = ("--tokens", self.clients[0]["tokens"])
        for number in (0, -5):
            self.assertIn("--samples", self.command_line(BAD_INPUT, "eval", self.model, *tokens, "--samples", number))
        for number in (-3, 100000):
            self.assertIn("--threads", self.command_line(BAD_INPUT, "bench", "spmm", "--quick", "--threads", number))

    def test_more_samples_than_memory_names_client_and_key(self) -> None:
        config = self.config(calibration={"samples": 2_000_000_000}, client=self.clients[:1])
        said = ["client 'client-0': calibration.samples: found 2000000000, expected at most [0-9]+"]
        self.refused(NO_RESOURCES, said, "prune", config)

    def test_ranks_bound_to_few_cores(self) -> None:
        cores = len(os.sched_getaffinity(0))
        if cores < 2:
            self.skipTest("one core: it cannot be bound to fewer")
        config = self.config(run={"threads": 0})
        for binding, extra, expected in (("core", (), 1), ("none", (), 0), ("core", ("--set", "run.threads=1"), 0)):
            command = [MPIEXEC, "-np", "1", "--bind-to", binding, PROGRAM, "prune", str(config), "--restart", *extra]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment({}))
            self.assertEqual(done.returncode, DONE, done.stderr)
            self.assertEqual(done.stderr.count("the launcher binds ranks to few cores"), expected, done.stderr)


class Hints(Warned):
    def test_eval_of_a_run_directory_and_export_of_an_unfinished_run(self) -> None:
        place = self.folder / "run"
        self.done("prune", self.config(run={"dir": str(place)}))
        said = ["found a run directory, expected a model directory; name .*run/model"]
        self.refused(BAD_INPUT, said, "eval", place, "--tokens", self.clients[0]["tokens"], "--sequence-length", 40)
        (place / "run.h5").unlink()  # as a run leaves it that is stopped before its end
        out = self.folder / "exported"
        self.refused(BAD_INPUT, ["unfinished: 2 of 2 blocks are merged"], "export", place, "--out", out)


if __name__ == "__main__":
    main()
