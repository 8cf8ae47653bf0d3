# SPDX-License-Identifier: Apache-2.0
"""Runs the built program as a user would, alone or under mpiexec, and keeps each rank's exit status.

Only the standard library, so that tests which need no token files run without the Python environment.
CMake sets FEDSPALLM_PROGRAM and FEDSPALLM_MPIEXEC; by hand the release build and `mpiexec` are taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
FIXTURES, GOLDENS = DATA / "fixtures", DATA / "goldens"
PROGRAM = os.environ.get("FEDSPALLM_PROGRAM", str(ROOT / "build" / "release" / "fedspallm"))
MPIEXEC = os.environ.get("FEDSPALLM_MPIEXEC", "mpiexec")
VENV = Path(os.environ.get("FEDSPALLM_VENV", ROOT / "build" / "venv"))
SKIPPED = 77
TIMEOUT = 600  # tells an end from a hang

# The exit statuses of --help.
DONE, CHECK_FAILED, BAD_INPUT, STARTED_WRONGLY, NO_RESOURCES, NUMERICAL = 0, 1, 2, 3, 4, 7

# Every rank runs below a shell that writes down its status and itself ends well: mpiexec would else end the
# other ranks, and their statuses would be lost.
RECORDER = '"$@"; echo "$?" >"$FEDSPALLM_STATUSES/$OMPI_COMM_WORLD_RANK"'
ERROR = re.compile(r"^fedspallm: error: ", re.MULTILINE)
ABORTS = re.compile(
    r"MPI_ABORT|terminate called|Signal: |Segmentation|core dumped|AddressSanitizer|runtime error:|stack trace",
    re.I,
)


def enter_venv() -> None:
    """Goes on inside the project's Python environment; without it the script counts as skipped."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    if not (VENV / ".complete").exists():
        print(f"skipped: {VENV} is missing; make it with tools/install-dependencies.sh --python")
        sys.exit(SKIPPED)
    python = VENV / "bin" / "python"
    os.execv(python, [str(python), *sys.argv])


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, fit for any number of ranks, also for root in a container."""
    ours = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "PMIX_MCA_pcompress_base_silence_warning": "1",
        # What Open MPI takes on one machine anyway; looking for fabrics first costs 0.2 s a start.
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,vader",
        # Open MPI keeps memory at its end; leaks are looked for in the unit tests, where it is not running.
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    launcher = ("OMPI_COMM_WORLD", "PMIX_RANK", "SLURM_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(launcher)}
    return {**ours, **inherited, **extra}


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    command: list[str]
    statuses: list[int]  # by rank
    stdout: str
    stderr: str
    seconds: float

    @property
    def status(self) -> int:
        """The status that all ranks share."""
        if len(set(self.statuses)) != 1:
            raise AssertionError(f"ranks ended with different statuses {self.statuses}\n{self}")
        return self.statuses[0]

    @property
    def messages(self) -> int:
        """How many error messages were printed."""
        return len(ERROR.findall(self.stderr))

    def json(self) -> Any:
        """Standard output as one JSON object with nothing around it."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        text = f"$ {' '.join(self.command)}\nstatuses {self.statuses}, {self.seconds:.1f} s"
        return f"{text}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def nodes_of(ranks: int) -> dict[str, str]:
    """Environment in which so many ranks that follow each other count as a node."""
    return {"FEDSPALLM_RANKS_PER_NODE": str(ranks)}


def run(
    *arguments: object, ranks: int = 1, env: Mapping[str, str] | None = None, mpi: bool = False
) -> Outcome:
    """Runs `fedspallm ARGUMENTS`, under mpiexec when there are more ranks than one (or with mpi = True)."""
    command = [PROGRAM, *map(str, arguments)]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as statuses:
        launched = ranks > 1 or mpi
        full = [MPIEXEC, "-np", str(ranks), "sh", "-c", RECORDER, "sh", *command] if launched else command
        done = subprocess.run(
            full,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment({"FEDSPALLM_STATUSES": statuses, **(env or {})}),
        )
        codes = [done.returncode]
        if launched:
            files = [Path(statuses, str(rank)) for rank in range(ranks)]
            codes = [int(file.read_text()) if file.exists() else -1 for file in files]
    return Outcome(full, codes, done.stdout, done.stderr, time.monotonic() - begin)


def toml_value(value: Any) -> str:
    """JSON's strings, numbers, booleans and arrays are TOML's, but for NaN."""
    return json.dumps(value).replace("NaN", "nan") if isinstance(value, float) else json.dumps(value)


def to_toml(config: Mapping[str, Any]) -> str:
    """Sections as tables, lists as arrays of tables."""
    lines = []
    for section, content in config.items():
        tables = content if isinstance(content, list) else [content]
        title = f"[[{section}]]" if isinstance(content, list) else f"[{section}]"
        for table in tables:
            lines.append(title)
            lines += [f"{key} = {toml_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the sections of `changes` laid over it; a list replaces a list, a key that is None goes."""
    result = dict(base)
    for section, content in changes.items():
        if isinstance(content, list) or section not in base:
            result[section] = content
        else:
            both = {**base[section], **content}
            result[section] = {key: value for key, value in both.items() if value is not None}
    return result


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class ProgramTest(unittest.TestCase):
    """A folder per class, and commands that must end as expected."""

    folder: Path
    _temporary: tempfile.TemporaryDirectory[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls._temporary = tempfile.TemporaryDirectory(prefix="fedspallm-e2e-")
        cls.folder = Path(cls._temporary.name)

    @classmethod
    def tearDownClass(cls) -> None:
        cls._temporary.cleanup()

    def write_config(self, config: Mapping[str, Any], name: str = "config.toml") -> Path:
        path = self.folder / name
        path.write_text(to_toml(config))
        return path

    def done(self, *arguments: object, **how: Any) -> Outcome:
        """Runs a command that must succeed on all ranks."""
        outcome = run(*arguments, **how)
        self.assertEqual(outcome.status, DONE, str(outcome))
        self.assertNotRegex(outcome.stderr, ABORTS, str(outcome))
        return outcome

    @classmethod
    def preloaded(cls, source: Path) -> str:
        """A library for LD_PRELOAD, made of one C file."""
        if "FEDSPALLM_SANITIZED" in os.environ:
            raise unittest.SkipTest("a sanitizer must be the first library")
        if shutil.which("cc") is None:
            raise unittest.SkipTest("no C compiler `cc` for what is preloaded")
        library = cls.folder / f"{source.stem}.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        return str(library)

    def refused(self, status: int, expected: Sequence[str], *arguments: object, **how: Any) -> Outcome:
        """Runs a command that must fail alike on all ranks, with one message that has all patterns."""
        outcome = run(*arguments, **how)
        self.assertEqual(outcome.status, status, str(outcome))
        self.assertEqual(outcome.messages, 1, f"one message on one rank\n{outcome}")
        self.assertNotRegex(outcome.stderr, ABORTS, str(outcome))
        message = outcome.stderr[outcome.stderr.index("fedspallm: error: ") :]
        for pattern in expected:
            self.assertRegex(message, pattern, str(outcome))
        return outcome

    def prune(
        self, config: Mapping[str, Any], *arguments: object, name: str = "config.toml", **how: Any
    ) -> Outcome:
        """Runs `prune` with this configuration, which must succeed."""
        return self.done("prune", self.write_config(config, name), *arguments, **how)


def main() -> None:
    """Runs the calling script's tests and names those that were skipped. Status 77: none was run."""
    if not Path(PROGRAM).exists():
        sys.exit(f"{PROGRAM} is missing; build it first, or set FEDSPALLM_PROGRAM")
    result = unittest.main(verbosity=2, exit=False).result
    for test, reason in result.skipped:
        print(f"[skipped] {test.id()}: {reason}")
    if not result.wasSuccessful():
        sys.exit(1)
    # What a class's setUpClass skips is listed as no TestCase, and was not counted as run.
    skipped = sum(isinstance(test, unittest.TestCase) for test, _ in result.skipped)
    if result.skipped and result.testsRun <= skipped:
        sys.exit(SKIPPED)
