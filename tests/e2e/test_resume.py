#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A run that was killed or stopped goes on with the same command, to the same bits (rulings 18, 19, 23)."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from background import Job, held, manifest_entries
from harness import BAD_INPUT, DONE, ProgramTest, enter_venv, file_digests, main, merged, run

if __name__ == "__main__":
    enter_venv()

import h5py  # noqa: E402

import models  # noqa: E402
import oracle  # noqa: E402

BLOCKS = 24
LOCKED, PEER_LOST, STOPPED = 5, 6, 75
KILLS = int(os.environ.get("FEDSPALLM_KILLS", "2"))  # in each of nine ways; tests/run.sh --long asks for more


class Resume(ProgramTest):
    config: dict[str, Any]
    expected: dict[str, Any]
    seconds: float

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        model = models.deepen(models.LLAMA, cls.folder / "input", BLOCKS)
        base = models.run_config(
            model, cls.folder / "run", models.clients_of(cls.folder / "tokens", model, 3, samples=24)
        )
        cls.config = merged(base, {"run": {"checkpoint_every": 1, "keep_clients": True}})

    def prepared(self, **sections: Any) -> tuple[Path, Path]:
        """A configuration of this test's own, written down: (config file, run directory)."""
        run_dir = self.folder / self._testMethodName / "run"
        config = merged(merged(self.config, {"run": {"dir": str(run_dir)}}), sections)
        (self.folder / self._testMethodName).mkdir(exist_ok=True)
        return self.write_config(config, f"{self._testMethodName}/config.toml"), run_dir

    def digests(self, run_dir: Path) -> dict[str, Any]:
        found = {"model": file_digests(run_dir / "model"), "run.h5": oracle.digest_of_blocks(run_dir / "run.h5")}
        for file in sorted((run_dir / "clients").glob("*.h5")):
            found[file.name] = oracle.digest_of_blocks(file)
        return found

    def undisturbed(self, config: Path, run_dir: Path, ranks: int) -> dict[str, Any]:
        """Runs it without disturbance, in the same directory, which is emptied afterwards."""
        outcome = self.done("prune", config, "--quiet", ranks=ranks)
        type(self).seconds = outcome.seconds
        found = self.digests(run_dir)
        shutil.rmtree(run_dir)
        return found

    def finish(self, config: Path, run_dir: Path, expected: dict[str, Any], ranks: int, *more: str) -> str:
        """The same command runs to its end, with the bits of an undisturbed run. Returns what it said."""
        outcome = self.done("prune", config, *more, ranks=ranks)
        self.assertEqual(self.digests(run_dir), expected, str(outcome))
        left = [str(file) for file in run_dir.rglob("*") if file.suffix == ".part" or "state" in file.parts]
        self.assertEqual([file for file in left if Path(file).is_file()], [], "nothing unfinished is left")
        return outcome.stderr

    def merged_blocks(self, run_dir: Path) -> int:
        return len(list((run_dir / "blocks").glob("*.h5")))

    def held_at(
        self,
        config: Path,
        run_dir: Path,
        blocks: int,
        ranks: int,
        *options: str,
        last: int = BLOCKS - 6,
        env: Mapping[str, str] | None = None,
    ) -> Job:
        """A job that stands still with so many merged blocks or more, and has some more before it."""
        return held(
            lambda: Job("prune", config, *options, ranks=ranks, env=env),
            lambda: self.merged_blocks(run_dir) >= blocks,
            lambda: self.merged_blocks(run_dir) <= last,
            lambda: shutil.rmtree(run_dir),
        )

    def stop_at(self, config: Path, run_dir: Path, blocks: int, ranks: int = 2) -> None:
        """Kills a run when so many blocks are merged."""
        self.held_at(config, run_dir, blocks, ranks).kill_all()

    def kill_at_random(self, transport: str, victims: list[int], **sections: Any) -> None:
        """KILLS kills, each followed by the same command; no victims = the whole job at once."""
        way = {"topology": transport} if transport in ("owners", "nodes") else {"transport": transport}
        config, run_dir = self.prepared(federation={**way, **sections.pop("federation", {})}, **sections)
        expected = self.undisturbed(config, run_dir, 3)
        draw = random.Random(f"{transport}{victims}")
        kills = finished = 0
        while kills < KILLS:
            job = Job("prune", config, "--quiet", "--watchdog", "5", ranks=3)
            moment = draw.uniform(0.1, 1.1 * self.seconds)
            ended = not job.runs_for(moment)
            if victims and not ended:
                ended = not job.wait_until(lambda j=job: j.under_way(run_dir))
            if ended:
                outcome = job.end()
                self.assertEqual(outcome.status, DONE, str(outcome))
            elif victims:
                job.signal(signal.SIGKILL, draw.choice(victims))
                outcome = job.end()
                late = (run_dir / "summary.json").exists()
                self.assertTrue(late or DONE not in outcome.statuses, str(outcome))
                kills += 1
            else:
                job.kill_all()
                kills += 1
            if ended or (run_dir / "summary.json").exists():
                self.assertEqual(self.digests(run_dir), expected)
                finished += 1
                shutil.rmtree(run_dir)
        self.finish(config, run_dir, expected, 3)
        print(f"{transport}, victims {victims or 'all'}: {kills} kills, {finished} runs finished between them")

    def test_kill_the_whole_job_gather(self) -> None:
        self.kill_at_random("gather", [])

    def test_kill_the_whole_job_reduce(self) -> None:
        self.kill_at_random("reduce", [])

    def test_kill_the_whole_job_owners(self) -> None:
        self.kill_at_random("owners", [])

    def test_kill_one_rank_owners(self) -> None:
        self.kill_at_random("owners", [0, 1, 2])

    def test_kill_the_whole_job_nodes(self) -> None:
        self.kill_at_random("nodes", [])

    def test_kill_one_rank_nodes(self) -> None:
        self.kill_at_random("nodes", [0, 1, 2])

    def test_kill_one_rank_gather(self) -> None:
        self.kill_at_random("gather", [0, 1, 2])

    def test_kill_one_rank_reduce(self) -> None:
        self.kill_at_random("reduce", [0, 1, 2])

    def test_kill_with_rounds_and_layer_sampling(self) -> None:
        clients = [{**client, "resources": 0.7} for client in self.config["client"]]
        self.kill_at_random(
            "gather",
            [],
            federation={"rounds": 2, "layer_sampling": "resources", "coverage": "warn"},
            client=clients,
        )

    def test_another_number_of_ranks(self) -> None:
        config, run_dir = self.prepared()
        expected = self.undisturbed(config, run_dir, 1)
        for before, after in ((3, 1), (1, 2), (2, 4)):
            with self.subTest(before=before, after=after):
                self.stop_at(config, run_dir, 6, before)
                said = self.finish(config, run_dir, expected, after)
                self.assertRegex(said, r"going on with block [1-9]\d* of round 1")
                shutil.rmtree(run_dir)

    def test_what_decides_the_result_must_be_the_same(self) -> None:
        config, run_dir = self.prepared()
        expected = self.undisturbed(config, run_dir, 2)
        self.stop_at(config, run_dir, 5)
        self.refused(
            BAD_INPUT,
            [r"prune\.sparsity: 0\.5 in the run directory, 0\.6 now", "--restart", "--force-resume"],
            "prune", config, "--set", "prune.sparsity=0.6", ranks=2,
        )
        tokens = Path(self.config["client"][0]["tokens"])
        good = tokens.read_bytes()
        models.random_tokens(tokens, Path(self.config["model"]["path"]), seed=99)
        try:
            self.refused(
                BAD_INPUT, [r"client\.client-0\.tokens_sha256: [0-9a-f]{64} in the run directory"],
                "prune", config, ranks=2,
            )
        finally:
            tokens.write_bytes(good)
        # What changes no bit may change: threads, transport, ranks, evaluation.
        self.finish(config, run_dir, expected, 3, "--set", "run.threads=2", "--set", "federation.transport=reduce")

    def test_forced_on_another_kernel_set(self) -> None:
        """Blocks behind the last common state come out otherwise there: they are replaced, not compared."""
        supported = self.done("doctor").stdout
        sets = [isa for isa in ("avx512", "avx2", "baseline") if re.search(rf"kernels.* {isa} yes", supported)]
        if len(sets) < 2:
            self.skipTest("only one kernel set runs here")
        first, second = ({"FEDSPALLM_ISA": isa} for isa in sets[:2])
        config, run_dir = self.prepared(run={"checkpoint_every": 4})
        job = self.held_at(config, run_dir, 7, 2, env=first)
        job.kill_all()
        self.refused(BAD_INPUT, [r"kernel_set: .* in the run directory"], "prune", config, ranks=2, env=second)
        held(
            lambda: Job("prune", config, "--force-resume", ranks=2, env=second),
            lambda: self.merged_blocks(run_dir) >= 11,
            lambda: self.merged_blocks(run_dir) <= BLOCKS - 6,
            lambda: self.fail("too late; run it again"),
        ).kill_all()
        # It is a run of the second set's now, and goes back in the same way.
        self.refused(BAD_INPUT, [r"kernel_set: .* in the run directory"], "prune", config, ranks=2, env=first)
        outcome = self.done("prune", config, "--force-resume", ranks=2, env=first)
        self.assertRegex(outcome.stderr, r"going on with block [1-9]\d* of round 1")
        self.assertTrue(self.done("inspect", run_dir, "--json").json()["complete"])

    def test_a_finished_run_of_another_configuration_is_not_taken_for_this_one(self) -> None:
        config, run_dir = self.prepared()
        self.done("prune", config, "--quiet", ranks=2)
        self.assertIn("nothing to do", self.done("prune", config, ranks=2).stderr)
        self.refused(
            BAD_INPUT, [r"finished run of another configuration", r"run\.seed: 7 in the run directory, 8 now"],
            "prune", config, "--set", "run.seed=8",
        )
        self.done("prune", config, "--set", "run.seed=8", "--restart", "--quiet")

    def flip(self, file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    def test_damaged_files_are_passed_over(self) -> None:
        config, run_dir = self.prepared()
        expected = self.undisturbed(config, run_dir, 2)

        def newest(pattern: str) -> Path:
            return sorted(run_dir.glob(pattern))[-1]

        def listed() -> Path:
            """The newest merged block that the manifest knows of."""
            return run_dir / "blocks" / max(entry["file"] for entry in manifest_entries(run_dir))

        damages = {
            "block flipped": (lambda: self.flip(listed()), r"falling back"),
            "block cut": (lambda: os.truncate(listed(), 100), r"falling back"),
            "block gone": (lambda: listed().unlink(), r"falling back"),
            "manifest flipped": (lambda: self.flip(run_dir / "manifest.json"), r"going back to .*previous"),
            "manifest empty": (lambda: os.truncate(run_dir / "manifest.json", 0), r"going back to .*previous"),
            "states flipped": (
                lambda: [self.flip(newest(f"state/{name}/*.state")) for name in ("client-0", "client-2")],
                r"going on with block",
            ),
            "own file flipped": (lambda: self.flip(newest("clients/client-1/*.h5")), r"going on with block"),
            "all states gone": (lambda: shutil.rmtree(run_dir / "state"), r"going on with block 0 of round 1"),
        }
        for name, (damage, said) in damages.items():
            with self.subTest(damage=name):
                shutil.rmtree(run_dir, ignore_errors=True)
                self.stop_at(config, run_dir, 8)
                while not (run_dir / "manifest.json").exists():  # it was just being replaced
                    shutil.rmtree(run_dir)
                    self.stop_at(config, run_dir, 8)
                damage()
                self.assertRegex(self.finish(config, run_dir, expected, 2), said)

    def last_work(self, run_dir: Path) -> list[dict[str, Any]]:
        """The client_block events of the last process."""
        events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        start = max(place for place, event in enumerate(events) if event["event"] == "run_resumed")
        return [event for event in events[start:] if event["event"] == "client_block"]

    def begun(self, run_dir: Path) -> dict[str, int]:
        """By client: the first block that the last process computed."""
        work = self.last_work(run_dir)
        return {str(one["client"]): min(e["block"] for e in work if e["client"] == one["client"]) for one in work}

    def test_clients_that_drifted_apart_go_on_from_where_each_of_them_was(self) -> None:
        """Nothing couples clients that are not merged; what one of them has must not be lost for the other's sake."""
        config, run_dir = self.prepared(federation={"aggregation": "none"}, client=self.config["client"][:2])
        expected = self.undisturbed(config, run_dir, 2)
        own = lambda client: sorted((run_dir / "clients" / client).glob("r*.h5"))  # noqa: E731
        job = held(
            lambda: Job("prune", config, ranks=2),
            lambda: all(len(own(f"client-{rank}")) > 2 for rank in (0, 1)),
            lambda: len(own("client-1")) <= 8 and len(own("client-0")) <= 16,
            lambda: shutil.rmtree(run_dir),
        )
        job.signal(signal.SIGCONT, 0)
        self.assertTrue(job.wait_until(lambda: len(own("client-0")) >= 20))
        job.kill_all()
        slow = len(own("client-1"))
        self.finish(config, run_dir, expected, 2)
        begun = self.begun(run_dir)
        self.assertGreaterEqual(begun.get("client-0", BLOCKS), 18)
        self.assertGreaterEqual(begun["client-1"], slow - 2)

    def test_a_client_without_blocks_of_its_own_may_lag_behind(self) -> None:
        """While it prunes nothing, the others merge on, and forget what they themselves do not need any more."""
        resources = [1.0, 0.15, 1.0]
        clients = [{**one, "resources": share} for one, share in zip(self.config["client"], resources)]
        config, run_dir = self.prepared(federation={"layer_sampling": "resources"}, client=clients)
        expected = self.undisturbed(config, run_dir, 2)
        drawn = {int(name.split()[1].removeprefix("b")) for name in expected["client-1.h5"]}

        def place() -> tuple[int, int]:
            """Where the lagging client is, and the block for which the others wait for it."""
            states = [int(file.stem.split("-b")[1]) for file in run_dir.glob("state/client-1/*.state")]
            at = max(states, default=0)
            return at, min(block for block in [*drawn, BLOCKS] if block >= at)

        def far() -> bool:
            """And nothing that it delivered is still on its way."""
            at, until = place()
            delivered = max((block + 1 for block in drawn if block < at), default=0)
            return 0 < at <= until - 4 and delivered <= self.merged_blocks(run_dir) < until < BLOCKS

        job = held(lambda: Job("prune", config, ranks=2), far, far, lambda: shutil.rmtree(run_dir))
        at, until = place()
        job.signal(signal.SIGCONT, 0)
        self.assertTrue(job.wait_until(lambda: self.merged_blocks(run_dir) >= until))
        job.kill_all()
        said = self.finish(config, run_dir, expected, 2)
        self.assertRegex(said, rf"going on with block {at} of round 1")
        begun = self.begun(run_dir)
        self.assertGreaterEqual(min(begun["client-0"], begun["client-2"]), until - 2)

    def test_a_damaged_file_of_an_earlier_round_is_made_again(self) -> None:
        """A client's own file: the others need not repeat the round, nor is it merged again."""
        config, run_dir = self.prepared(federation={"rounds": 2, "topology": "nodes"})
        expected = self.undisturbed(config, run_dir, 2)
        self.held_at(config, run_dir, BLOCKS + 4, 2, last=2 * BLOCKS - 6).kill_all()
        merged_before = {entry["file"]: entry["xxh3"] for entry in manifest_entries(run_dir)}
        self.flip(run_dir / "clients" / "client-1" / "r01-b0003.h5")
        said = self.finish(config, run_dir, expected, 3)
        self.assertRegex(said, r"going on with block 0 of round 1")
        again = [event for event in self.last_work(run_dir) if event["round"] == 1]
        self.assertEqual({event["client"] for event in again}, {"client-1"})
        after = {entry["file"]: entry["xxh3"] for entry in manifest_entries(run_dir)}
        self.assertEqual({file: after[file] for file in merged_before}, merged_before)

    def test_signals_to_one_rank_stop_all(self) -> None:
        config, run_dir = self.prepared()
        expected = self.undisturbed(config, run_dir, 3)
        for number, rank in ((signal.SIGTERM, 0), (signal.SIGTERM, 2), (signal.SIGUSR2, 1), (signal.SIGINT, 1)):
            with self.subTest(signal=number.name, rank=rank):
                job = self.held_at(config, run_dir, 4, 3)
                job.signal(number, rank)
                job.signal(signal.SIGCONT)
                outcome = job.end()
                self.assertEqual(outcome.status, STOPPED, str(outcome))
                self.assertRegex(outcome.stderr, r"stopped .*before block \d+ of round 1; the same command")
                self.assertEqual(json.loads((run_dir / "status.json").read_text())["state"], "stopped")
                found = json.loads(run("inspect", run_dir, "--json").stdout)
                self.assertEqual((found["complete"], found["ok"]), (False, True), found["problems"])
                self.assertEqual(found["clients"], ["client-0", "client-1", "client-2"])
                self.assertIn("kernel_set", found["provenance"])
                with h5py.File(run_dir / "run.h5") as file:
                    self.assertEqual(len([file["blocks"][name] for name in file["blocks"]]), self.merged_blocks(run_dir))
                events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
                work = [(event["client"], event["block"]) for event in events if event["event"] == "client_block"]
                done = range(self.merged_blocks(run_dir))
                self.assertEqual(sorted(work), [(f"client-{client}", block) for client in range(3) for block in done])
                records = [run_dir / "metrics.jsonl", *(run_dir / "logs").iterdir()]
                before = {file: file.read_text() for file in records}
                self.assertEqual(len(before), 4)
                self.finish(config, run_dir, expected, 3)
                for file, text in before.items():
                    self.assertTrue(file.read_text().startswith(text), f"{file} is appended to, never cut")
                self.assertEqual(json.loads((run_dir / "status.json").read_text())["state"], "finished")
                shutil.rmtree(run_dir)

    def test_usr1_saves_and_goes_on(self) -> None:
        config, run_dir = self.prepared(run={"checkpoint_every": 1000})
        expected = self.undisturbed(config, run_dir, 2)
        states = lambda: list(run_dir.glob("state/*/*.state"))  # noqa: E731

        def asked() -> Job:
            job = self.held_at(config, run_dir, 3, 2)
            self.assertEqual(states(), [], "no state is due by itself")
            job.signal(signal.SIGUSR1, 1)
            job.signal(signal.SIGCONT)
            return job

        def saved_and_merged() -> bool:
            found = [int(file.stem.split("-b")[1]) for file in states()]
            return len(found) == 3 and self.merged_blocks(run_dir) > max(found)

        unfinished = lambda: not (run_dir / "summary.json").exists() and len(states()) == 3  # noqa: E731
        held(asked, saved_and_merged, unfinished, lambda: shutil.rmtree(run_dir)).kill_all()
        self.assertRegex(self.finish(config, run_dir, expected, 2), r"going on with block [1-9]")

    def test_a_second_job_is_kept_out(self) -> None:
        config, run_dir = self.prepared()
        job = self.held_at(config, run_dir, 1, 1)  # it holds the lock for as long as the other one waits
        outcome = run("prune", config)
        self.assertEqual(outcome.status, LOCKED, str(outcome))
        self.assertRegex(outcome.stderr, r"fedspallm: error: .*run.*(in use|held|locked)")
        job.signal(signal.SIGCONT)
        self.assertEqual(job.end().status, DONE)

    def test_sigstop_ends_the_job_and_names_the_rank(self) -> None:
        config, run_dir = self.prepared()
        expected = self.undisturbed(config, run_dir, 3)
        for rank in (1, 0):
            with self.subTest(rank=rank):
                shutil.rmtree(run_dir, ignore_errors=True)
                job = self.held_at(config, run_dir, 3, 3, "--watchdog", "2")
                job.signal(signal.SIGCONT, *{0, 1, 2} - {rank})
                outcome = job.end()
                others = [status for index, status in enumerate(outcome.statuses) if index != rank]
                # When the first of them has gone, mpiexec may be quicker to end the other one (status -1).
                self.assertIn(PEER_LOST, others, str(outcome))
                self.assertTrue(set(others) <= {PEER_LOST, -1}, str(outcome))
                self.assertEqual(outcome.stderr.count("fedspallm: error:"), 1, str(outcome))
                self.assertRegex(outcome.stderr, rf"error: rank {rank} on \S+ is lost in pruning, block \d+:")
                self.finish(config, run_dir, expected, 3)
                shutil.rmtree(run_dir)

    def test_without_a_watchdog_a_rank_may_stand_still(self) -> None:
        config, run_dir = self.prepared()
        expected = self.undisturbed(config, run_dir, 2)
        job = self.held_at(config, run_dir, 3, 2, "--watchdog", "0")
        job.signal(signal.SIGCONT, 0)
        time.sleep(5)  # with --watchdog 2 the job is long over by then
        job.signal(signal.SIGCONT)
        outcome = job.end()
        self.assertEqual(outcome.status, DONE, str(outcome))
        self.assertIn("--watchdog 0: should a rank be lost", outcome.stderr)
        self.assertEqual(self.digests(run_dir), expected)


if __name__ == "__main__":
    main()
