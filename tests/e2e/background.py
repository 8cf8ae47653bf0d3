# SPDX-License-Identifier: Apache-2.0
"""A run of the program that goes on while the test looks at it, signals it or kills it."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import ERROR, MPIEXEC, PROGRAM, RECORDER, Outcome, environment


def manifest_entries(run_dir: Path) -> list[dict[str, Any]]:
    """The merged blocks that count. A job killed while it replaced the manifest leaves the one before."""
    file = run_dir / "manifest.json"
    file = file if file.exists() else run_dir / "manifest.previous.json"
    entries: list[dict[str, Any]] = json.loads(file.read_text())["entries"]
    return entries


class Job:
    """`fedspallm ARGUMENTS` under mpiexec, each rank below a shell that keeps its status."""

    def __init__(self, *arguments: object, ranks: int, env: Mapping[str, str] | None = None) -> None:
        self.ranks = ranks
        self.begin = time.monotonic()
        self._statuses = tempfile.TemporaryDirectory(prefix="fedspallm-statuses-")
        self._output = tempfile.TemporaryFile("w+")  # pylint: disable=consider-using-with
        self._errors = tempfile.TemporaryFile("w+")  # pylint: disable=consider-using-with
        self.command = [MPIEXEC, "-np", str(ranks), "sh", "-c", RECORDER, "sh", PROGRAM, *map(str, arguments)]
        mark = {"FEDSPALLM_STATUSES": self._statuses.name}
        self._process = subprocess.Popen(  # pylint: disable=consider-using-with
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            env=environment({**mark, **(env or {})}),
            start_new_session=True,
        )
        atexit.register(self.kill_all)  # where a test failed and left it, standing still perhaps

    def pids(self) -> dict[int, int]:
        """Process of each rank that runs now."""
        mark = f"FEDSPALLM_STATUSES={self._statuses.name}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.readlink(entry / "exe") != os.path.realpath(PROGRAM):
                    continue
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:  # it has ended meanwhile
                continue
            if mark in variables:
                rank = next(v for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK="))
                found[int(rank.split(b"=")[1])] = int(entry.name)
        return found

    def wait_until(self, what: Callable[[], bool], seconds: float = 300) -> bool:
        """False when the job ended before `what` came true."""
        end = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < end:
            if what():
                return True
            time.sleep(0.002)
        return what()

    def stands_still(self) -> bool:
        """Whether every thread of the ranks that run now is stopped, and there is one."""
        states = []
        for pid in self.pids().values():
            try:
                for file in Path(f"/proc/{pid}/task").glob("*/stat"):
                    states.append(file.read_text().rpartition(")")[2].split()[0])
            except OSError:  # it has ended meanwhile
                return False
        return bool(states) and set(states) == {"T"}

    def hold(self) -> bool:
        """Stops all ranks (SIGSTOP) and waits until they stand still; False when the job ended before."""

        def stopped() -> bool:
            self.signal(signal.SIGSTOP)
            return self.stands_still()

        return self.wait_until(stopped)

    def runs_for(self, seconds: float) -> bool:
        """Waits so long after the start; False when the job ended before."""
        try:
            self._process.wait(max(0.0, self.begin + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            return True
        return False

    def under_way(self, run_dir: Path) -> bool:
        """Whether all ranks are past MPI_Init and watch each other, as this job's status.json shows. Before,
        mpiexec has to notice a rank that dies, and the shell that keeps its status hides that from it."""
        try:
            status = json.loads((run_dir / "status.json").read_text())
        except (OSError, ValueError):
            return False
        return status["pid"] in self.pids().values()

    def signal(self, number: signal.Signals, *ranks: int) -> None:
        """Sends a signal to the processes of these ranks (none named: of all), those that still run."""
        for rank, pid in self.pids().items():
            if not ranks or rank in ranks:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass

    def kill_all(self) -> list[str]:
        """SIGKILL to everything at once, the launcher too: as a node that loses power. What it said till then."""
        self.signal(signal.SIGKILL)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.signal(signal.SIGKILL)  # ranks that had only just been started
        self._process.wait()
        while self.pids():
            self.signal(signal.SIGKILL)
            time.sleep(0.01)
        return self._close()

    def _close(self) -> list[str]:
        atexit.unregister(self.kill_all)
        texts = []
        for stream in (self._output, self._errors):
            stream.seek(0)
            texts.append(stream.read())
            stream.close()
        self._statuses.cleanup()
        return texts

    def end(self, seconds: float = 300) -> Outcome:
        """Waits for the end; a job that does not come to it fails the test with what it said."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired as late:
            texts = self.kill_all()
            raise AssertionError(f"{' '.join(self.command)}: no end in {seconds} s\n{texts[1]}") from late
        codes = []
        for rank in range(self.ranks):
            file = Path(self._statuses.name, str(rank))
            codes.append(int(file.read_text()) if file.exists() and file.read_text().strip() else -1)
        texts = self._close()
        return Outcome(self.command, codes, texts[0], texts[1], time.monotonic() - self.begin)


def held(
    start: Callable[[], Job], reached: Callable[[], bool], early: Callable[[], bool], tidy: Callable[[], object]
) -> Job:
    """A job that stands still soon after `reached` came true, while `early` still holds: what a test does then is
    never too late. A busy machine may keep the test from looking in time; then it tidies up and starts again."""
    for _ in range(20):
        job = start()
        if job.wait_until(reached) and job.hold() and early():
            return job
        said = job.kill_all()[1]
        if ERROR.search(said):
            raise AssertionError(f"{' '.join(job.command)}\n{said}")
        tidy()
    raise AssertionError(f"{' '.join(job.command)}: 20 times quicker than this test\n{said}")
