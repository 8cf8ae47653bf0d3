# SPDX-License-Identifier: Apache-2.0
"""A rank that dies, stops, fails alone or gets stuck ends the whole job, which names it once.

watchdog_program does the bad thing; CMake sets FEDSPALLM_WATCHDOG_PROGRAM and FEDSPALLM_MPIEXEC.
Time limits here only tell an end from a hang.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from harness import MPIEXEC, environment  # noqa: E402

PROGRAM = os.environ["FEDSPALLM_WATCHDOG_PROGRAM"]
LOST, STUCK = 3.0, 5.0
HANG = 300
AT_A_TIME = 3  # jobs; they mostly wait
PEER_LOST, STOPPED, KILLED = 6, 75, 128 + 9
# Writes down a rank's status. mpiexec ends the job when it sees the first rank end badly: it sees that late.
RECORDER = 'trap "" TERM; "$@"; echo "$?" >"$FEDSPALLM_STATUSES/$OMPI_COMM_WORLD_RANK"; sleep 1'
MESSAGE = re.compile(r"^fedspallm: error: (.*)$", re.MULTILINE)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


@dataclass(frozen=True)
class Outcome:
    """What became of one job."""

    statuses: list[int | None]  # by rank; None = not recorded
    launcher: int
    stderr: str
    losses: list[str | None]  # by rank: what on_lost was told
    seconds: float | None  # from the victim's moment to the end
    left: list[int]  # processes that still run

    @property
    def messages(self) -> list[str]:
        """The watchdog's messages."""
        return MESSAGE.findall(self.stderr)


def run(
    mode: str, ranks: int, victim: int, phase: str = "pruning", recorded: bool = True, lost: float = LOST
) -> Outcome:
    """Runs the program. `recorded`: below a shell that keeps each rank's status and hides its end from mpiexec."""
    with tempfile.TemporaryDirectory(prefix="fedspallm-watchdog-") as name:
        folder = Path(name)
        stuck = HANG if mode in ("slow", "known") else STUCK  # slow beyond LOST, which is not lost; nor stuck on a busy machine
        program = [PROGRAM, name, mode, str(victim), phase, str(lost), str(stuck)]
        # Unbound: two ranks bound to a busy core each could look silent.
        variables = {"FEDSPALLM_STATUSES": name, "OMPI_MCA_hwloc_base_binding_policy": "none"}
        if mode == "slow-handler":  # takes as long as mpiexec's patience
            variables["OMPI_MCA_odls_base_sigkill_timeout"] = "3"
        shell = ["sh", "-c", RECORDER, "sh"] if recorded else []
        with subprocess.Popen(
            [MPIEXEC, "-np", str(ranks), *shell, *program],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment(variables),
        ) as job:
            try:
                _, stderr = job.communicate(timeout=HANG)
            except subprocess.TimeoutExpired:
                job.terminate()
                _, stderr = job.communicate()
                raise AssertionError(f"{mode}, {ranks} ranks, victim {victim}: hangs\n{stderr}") from None

        def written(file: str) -> float | None:
            path = folder / file
            return path.stat().st_mtime if path.exists() else None

        def text_of(file: str) -> str | None:
            path = folder / file
            return path.read_text().strip() if path.exists() else None

        began, ends = written("when"), [written(str(rank)) for rank in range(ranks)]
        end = max((moment for moment in ends if moment is not None), default=time.time())
        statuses = [text_of(str(rank)) for rank in range(ranks)]
        pids = [int(text_of(f"pid.{rank}") or 0) for rank in range(ranks)]
        return Outcome(
            [None if status is None else int(status) for status in statuses],
            job.returncode,
            stderr,
            [text_of(f"lost.{rank}") for rank in range(ranks)],
            None if began is None else end - began,
            [pid for pid in pids if pid and alive(pid)],
        )


def each(check: Callable[..., None], *cases: tuple[object, ...]) -> None:
    """Calls `check` with every case, a few at a time."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for result in [pool.submit(check, *case) for case in cases]:
            result.result()


class WatchdogTest(unittest.TestCase):
    """Each job ends; the cases differ in who does what."""

    def check_named(self, outcome: Outcome, cause: str, victim: int, phase: str, pattern: str) -> None:
        """One message, by one rank, that names the victim and its place; nothing is left behind."""
        about = f"{outcome}\n{outcome.stderr}"
        self.assertEqual(len(outcome.messages), 1, about)
        message = outcome.messages[0]
        self.assertRegex(message, rf"rank {victim} on \S+ ", about)
        self.assertRegex(message, rf"{phase}, block 3\b", about)
        self.assertRegex(message, pattern, about)
        self.assertTrue(message.endswith("Start it again."), about)
        self.assertEqual(outcome.left, [], about)
        told = [loss for loss in outcome.losses if loss is not None]
        self.assertTrue(told, about)
        for loss in told:
            self.assertRegex(loss, rf"^{cause} {victim} {phase} 3 (told|quiet)$", about)
        self.assertEqual(sum(loss.endswith(" told") for loss in told), 1, about)
        print(f"  {cause}: all gone {outcome.seconds:.2f} s after the fault (lost {LOST} s, stuck {STUCK} s)")

    def check_statuses(self, outcome: Outcome, victim: int, victims_status: int | None) -> None:
        """Survivors end in 6 and each was told; the victim as said."""
        for rank, status in enumerate(outcome.statuses):
            expected = victims_status if rank == victim else PEER_LOST
            self.assertEqual(status, expected, f"rank {rank}: {outcome}\n{outcome.stderr}")
            if rank != victim:
                self.assertIsNotNone(outcome.losses[rank], f"rank {rank} was not told: {outcome}")

    def check_lost(
        self, mode: str, ranks: int, victim: int, cause: str, status: int, pattern: str, phase: str = "pruning"
    ) -> None:
        """A job that must end by the watchdog."""
        outcome = run(mode, ranks, victim, phase)
        self.check_named(outcome, cause, victim, phase, pattern)
        self.check_statuses(outcome, victim, status)

    def check_quiet(self, mode: str, ranks: int, victim: int, status: int = 0, lost: float = LOST) -> None:
        """A job in which the watchdog has nothing to say."""
        outcome = run(mode, ranks, victim, lost=lost)
        self.assertEqual(outcome.statuses, [status] * ranks, outcome.stderr)
        self.assertEqual(outcome.messages, [], outcome.stderr)
        self.assertEqual(outcome.losses, [None] * ranks)
        self.assertEqual(outcome.left, [])
        self.assertEqual(outcome.stderr.count("an error of all ranks"), int(mode in ("shared", "known")), outcome.stderr)

    def test_a_good_end_is_quiet(self) -> None:
        each(self.check_quiet, *(("normal", ranks, 0) for ranks in (1, 2, 3, 4, 6)))

    def test_switched_off_it_ends_well_too(self) -> None:
        each(self.check_quiet, ("normal", 1, 0, 0, 0), ("normal", 3, 0, 0, 0), ("shared", 2, 0, 2, 0))

    def test_errors_of_all_ranks_slow_ranks_and_early_ones_are_no_loss(self) -> None:
        each(self.check_quiet, ("shared", 1, 0, 2), ("shared", 4, 0, 2), ("slow", 4, 2), ("early", 4, 0))

    def test_a_rank_that_comes_late_with_an_error_that_it_knows_of_is_no_loss(self) -> None:
        each(self.check_quiet, ("known", 2, 0, 2), ("known", 4, 2, 2))

    def test_a_killed_rank_is_named_at_once(self) -> None:
        how = ("closed", KILLED, "is lost in .* killed or crashed")
        each(self.check_lost, *(("kill", *who, *how) for who in ((2, 0), (2, 1), (4, 0), (4, 3))))
        each(self.check_lost, ("kill", 2, 1, *how, "setup"), ("kill", 2, 1, *how, "saving"))

    def test_a_stopped_rank_is_killed_and_named(self) -> None:
        how = ("silent", KILLED, rf"no sign of life for \d+\.\d s \(limit {LOST:g} s\)")
        each(self.check_lost, *(("stop", *who, *how) for who in ((2, 0), (2, 1), (4, 0), (4, 2), (5, 4))))
        each(self.check_lost, ("stop", 2, 1, *how, "setup"), ("stop", 2, 0, *how, "saving"))

    def test_an_error_of_one_rank_ends_all(self) -> None:
        pattern = r"left pruning, block 3 .* do not share: the victim's own error\."
        how = ("failed", PEER_LOST, pattern)
        each(self.check_lost, ("throw", 2, 0, *how), ("throw", 4, 1, *how))

    def test_a_rank_whose_process_ends_is_lost_at_once(self) -> None:
        how = ("closed", "is lost in")
        each(
            self.check_lost,
            ("unwind", 2, 0, how[0], KILLED, how[1]),  # it waited in MPI_Finalize
            ("unwind", 4, 1, how[0], KILLED, how[1]),
            ("terminate", 4, 2, how[0], 128 + 6, how[1]),
            ("exit", 4, 2, how[0], 9, how[1]),
        )

    def test_a_rank_without_progress_is_stuck(self) -> None:
        how = ("stuck", PEER_LOST, f"no rank made progress within {STUCK:g} s")
        each(self.check_lost, *(("loop", *who, *how) for who in ((1, 0), (2, 0), (2, 1), (4, 0), (4, 3))))

    def test_a_rank_killed_while_it_holds_shared_memory_keeps_nobody_waiting(self) -> None:
        how = ("closed", KILLED, "is lost in .* killed or crashed")
        each(self.check_lost, ("stripe", 2, 1, *how), ("stripe", 4, 0, *how))

    def check_stopped(self, ranks: int, victim: int) -> None:
        """A rank that stops at once takes all along, with one message that is no error."""
        outcome = run("leave", ranks, victim)
        about = f"{outcome}\n{outcome.stderr}"
        self.assertEqual(outcome.statuses, [STOPPED] * ranks, about)
        said = re.findall(r"^fedspallm: (.*)$", outcome.stderr, re.MULTILINE)
        self.assertEqual(len(said), 1, about)
        self.assertRegex(said[0], rf"^enough \(rank {victim} on \S+, in pruning, block 3\)$", about)
        self.assertEqual({loss.rpartition(" ")[0] for loss in outcome.losses if loss}, {f"stopped {victim} pruning 3"})
        self.assertIsNotNone(outcome.losses[0], f"the root writes first, however slowly\n{about}")
        self.assertEqual(outcome.left, [], about)

    def test_a_rank_that_stops_takes_all_along(self) -> None:
        each(self.check_stopped, (1, 0), (2, 0), (2, 1), (4, 0), (4, 3), (6, 5))

    def test_a_handler_that_hangs_is_not_waited_for(self) -> None:
        self.check_lost("slow-handler", 2, 1, "closed", KILLED, "is lost in")

    def test_under_plain_mpiexec_nothing_hangs_and_the_lost_rank_is_named(self) -> None:
        for mode, cause, victim in (("kill", "closed", 1), ("kill", "closed", 0), ("stop", "silent", 1)):
            outcome = run(mode, 4, victim, recorded=False)
            self.check_named(outcome, cause, victim, "pruning", "is lost in")
            self.assertNotEqual(outcome.launcher, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
