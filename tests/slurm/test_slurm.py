#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The job files of jobs/ on a real Slurm (cluster.py): two nodes on the loopback, started and ended here.

Runs that are to be interrupted get a slow disk (slow_disk.c) until they are requeued. What waits for Slurm's own
clock (time limit, requeues) is submitted first and looked at last, while the other tests run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e")]

from cluster import ENDED, BatchJob, CannotStart, Cluster  # noqa: E402
from harness import (  # noqa: E402
    BAD_INPUT,
    PROGRAM,
    ROOT,
    SKIPPED,
    STARTED_WRONGLY,
    ProgramTest,
    enter_venv,
    environment,
    file_digests,
    main,
    merged,
    to_toml,
)

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402
import oracle  # noqa: E402

BLOCKS = 24
JOBS = ROOT / "jobs"
# Small enough for the two "nodes", which share this machine. The job files' own numbers are for real ones.
SIZE = ("--cpus-per-task=1", "--mem-per-cpu=900", "--time=60")
# Ranks talk by TCP: Open MPI names its shared memory after host and place on the node, and both "nodes" have the
# same host.
ON_N0 = ("--nodes=1", "--ntasks-per-node=2", "--nodelist=n0")
ON_N1 = ("--nodes=1", "--ntasks-per-node=2", "--nodelist=n1")
NETWORK = {"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_btl_tcp_if_include": "lo"}


class OnSlurm(ProgramTest):
    """Three tests' jobs are in the queue while the others run: see `submit_early`."""

    cluster: ClassVar[Cluster]
    config: ClassVar[dict[str, Any]]
    expected: ClassVar[dict[str, Any]]
    project: ClassVar[Path]
    slow_disk: ClassVar[Path]
    early: ClassVar[dict[str, BatchJob]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.project = cls.make_project("project", PROGRAM)
        cls.slow_disk = cls.folder / "slow_disk.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", cls.slow_disk, HERE / "slow_disk.c"], check=True)
        model = models.deepen(models.LLAMA, cls.folder / "input", BLOCKS)
        clients = models.clients_of(cls.folder / "tokens", model, 3, samples=12)
        cls.config = merged(
            models.run_config(model, cls.folder / "undisturbed", clients),
            {"run": {"checkpoint_every": 1, "keep_clients": True}},
        )
        cls.early = cls.submit_early()
        reference = cls("run")
        reference.prune(cls.config, "--quiet", name="undisturbed.toml", ranks=2)
        cls.expected = digests(cls.folder / "undisturbed")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.cluster.stop()  # jobs that still run (a test failed, or was not asked for) would write in the folder
        super().tearDownClass()

    @classmethod
    def submit_early(cls) -> dict[str, BatchJob]:
        """Jobs that wait for Slurm's clock, all on node n0."""
        failing = cls.folder / "failing.sh"
        failing.write_text("#!/bin/sh\nexit 6\n")
        failing.chmod(0o755)
        project = cls.make_project("failing", str(failing))
        limit = ("--time=1", "--signal=B:TERM@60", *ON_N0)
        return {
            # The signal is due at once, and Slurm looks every 30 seconds.
            "time limit": cls.submit("slurm-cpu.sbatch", cls.written("time-limit"), sizes=limit, slow=250),
            "failures": cls.submit("slurm-cpu.sbatch", "any.toml", sizes=ON_N0, project=project),
        }

    # ------------------------------------------------------------------ helpers

    @classmethod
    def make_project(cls, name: str, program: str) -> Path:
        """A project folder as the job files expect it, with `program` as the built one."""
        project = cls.folder / name
        (project / "build" / "release").mkdir(parents=True)
        (project / "jobs").symlink_to(JOBS)
        (project / "tools").symlink_to(ROOT / "tools")
        (project / "build" / "release" / "fedspallm").symlink_to(program)
        return project

    @classmethod
    def written(cls, name: str, **sections: Any) -> Path:
        """A config of its own for the run directory `name`."""
        config = merged(merged(cls.config, {"run": {"dir": str(cls.folder / name)}}), sections)
        file = cls.folder / f"{name}.toml"
        file.write_text(to_toml(config))
        return file

    @classmethod
    def submit(
        cls,
        script: str,
        *arguments: object,
        sizes: Sequence[str] = ("--nodes=2", "--ntasks-per-node=2"),
        slow: int = 0,
        project: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> BatchJob:
        """sbatch of one of the job files; `slow` = milliseconds that each fsync takes until the first requeue."""
        extra = {**NETWORK, "FEDSPALLM_ROOT": str(project or cls.project), **(env or {})}
        if slow:
            extra |= {"LD_PRELOAD": str(cls.slow_disk), "SLOW_DISK_MS": str(slow)}
        words = (*SIZE, *sizes, JOBS / script, *arguments)
        return BatchJob(cls.cluster, words, environment(extra), cls.folder)

    def assert_ended(self, job: BatchJob, code: str, restarts: int, task: int | None = None) -> None:
        """The job's last words, by `scontrol show job`."""
        shown = job.end(task=task)
        self.assertEqual(shown["ExitCode"], code, job.report())
        self.assertEqual(shown["Restarts"], str(restarts), job.report())
        self.assertEqual(shown["JobState"], "COMPLETED" if code == "0:0" else "FAILED", job.report())

    def assert_same_bits(self, job: BatchJob, run: str) -> None:
        """Model and masks are those of a run under mpirun that nothing disturbed."""
        self.assertEqual(digests(self.folder / run), self.expected, job.report())

    def under_way(self, job: BatchJob, run: str) -> None:
        """Waits until some blocks are merged, and not all."""
        blocks = self.folder / run / "blocks"
        job.wait_until(lambda: len(list(blocks.glob("*.h5"))) >= 2 or job.state() in ENDED)
        self.assertLess(len(list(blocks.glob("*.h5"))), BLOCKS, "the slow disk is slow enough")
        self.assertEqual(job.state(), "RUNNING", job.report())

    def rank_pid(self, job: BatchJob, rank: int) -> int:
        """The process of one task of the job's step."""
        wanted = {f"SLURM_JOB_ID={job.id}".encode(), f"SLURM_PROCID={rank}".encode()}
        for entry in Path("/proc").iterdir():
            try:
                program = os.readlink(entry / "exe") == os.path.realpath(PROGRAM)
                if program and wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                    return int(entry.name)
            except OSError:  # no process, or it has ended meanwhile
                continue
        raise AssertionError(f"no process of rank {rank}\n{job.report()}")

    # ------------------------------------------------------------------ tests

    def test_a_cpu_job_on_two_nodes(self) -> None:
        job = self.submit("slurm-cpu.sbatch", self.written("cpu"))
        self.assert_ended(job, "0:0", 0)
        self.assert_same_bits(job, "cpu")
        self.assertIn("3 clients on 4 ranks", (self.folder / "cpu" / "logs" / "rank_0000.log").read_text())
        self.assertIn("Run cpu", (self.folder / "cpu" / "report.html").read_text(), job.report())

    def test_mpirun_takes_ranks_and_nodes_from_the_allocation(self) -> None:
        job = self.submit("slurm-cpu.sbatch", self.written("mpirun"), env={"FEDSPALLM_LAUNCHER": "mpirun"})
        self.assert_ended(job, "0:0", 0)
        self.assert_same_bits(job, "mpirun")
        self.assertIn("3 clients on 4 ranks", (self.folder / "mpirun" / "logs" / "rank_0000.log").read_text())

    def test_mpirun_is_asked_for_a_checkpoint(self) -> None:
        job = self.submit("slurm-cpu.sbatch", self.written("asked"), sizes=ON_N1, slow=60,
                          env={"FEDSPALLM_LAUNCHER": "mpirun"})  # fmt: skip
        self.under_way(job, "asked")
        self.cluster.command("scancel", "--signal=TERM", "--batch", job.id)
        self.assert_ended(job, "0:0", 1)
        self.assertIn("status 75, checkpoint written", job.output())
        self.assert_same_bits(job, "asked")

    def test_an_array_runs_a_line_each(self) -> None:
        sweep = self.folder / "sweep.txt"
        lines = [f"{self.written(f'array-{i}')} --set prune.sparsity={0.3 + i / 10}" for i in (1, 2)]
        sweep.write_text("\n".join([*lines, f"{self.folder}/nowhere.toml"]) + "\n")
        job = self.submit("slurm-array.sbatch", sweep, sizes=(*ON_N1, "--array=1-3"))
        for task, sparsity in ((1, 0.4), (2, 0.5)):
            self.assert_ended(job, "0:0", 0, task)
            summary = json.loads((self.folder / f"array-{task}" / "summary.json").read_text())
            self.assertAlmostEqual(summary["sparsity"], sparsity, 3)
        self.assert_same_bits(job, "array-2")
        self.assert_ended(job, f"{BAD_INPUT}:0", 0, 3)
        self.assertIn("nowhere.toml", job.output())

    def test_preemption_is_survived(self) -> None:
        """A job of a higher priority takes the nodes, Slurm sends TERM; the run goes on when they are free."""
        sizes = ("--partition=work", *ON_N1)
        job = self.submit("slurm-preemptable.sbatch", self.written("preempted"), sizes=sizes, slow=60)
        self.under_way(job, "preempted")
        taker = ("--partition=urgent", "--nodelist=n1", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        other = BatchJob(self.cluster, taker, environment({}), self.folder)
        self.assertEqual(other.end()["ExitCode"], "0:0")
        self.assert_ended(job, "0:0", 1)
        self.assertEqual(self.outcomes("preempted"), ["run_started", "run_resumed"], job.report())
        self.assert_same_bits(job, "preempted")

    def test_a_cancelled_job_stays_cancelled(self) -> None:
        """Its ranks write a checkpoint all the same, from which a new job goes on."""
        job = self.submit("slurm-cpu.sbatch", self.written("cancelled"), sizes=ON_N1, slow=60)
        self.under_way(job, "cancelled")
        self.cluster.command("scancel", job.id)
        job.wait_until(lambda: "the job was cancelled and stays so" in job.output())
        shown = job.end()
        self.assertEqual((shown["JobState"], shown["Restarts"]), ("CANCELLED", "0"), job.report())
        again = self.submit("slurm-cpu.sbatch", self.folder / "cancelled.toml", sizes=ON_N1)
        self.assert_ended(again, "0:0", 0)
        self.assertEqual(self.outcomes("cancelled"), ["run_started", "run_resumed"], job.report())
        self.assert_same_bits(again, "cancelled")

    def test_a_job_that_cannot_be_requeued_keeps_its_status(self) -> None:
        for status, reason in ((75, "cannot be requeued"), (6, "cannot be requeued"), (6, "to count failures")):
            name = f"norequeue-{status}-{len(reason)}"
            failing = self.folder / f"{name}.sh"
            # A folder in the failures file's place: the submit folder takes no file, whoever runs the tests.
            block = "" if reason != "to count failures" else 'mkdir "fedspallm-$SLURM_JOB_ID.failures"\n'
            failing.write_text(f"#!/bin/sh\n{block}exit {status}\n")
            failing.chmod(0o755)
            project = self.make_project(name, str(failing))
            sizes = ("--nodes=1", "--ntasks-per-node=1", "--nodelist=n1", "--no-requeue")
            job = self.submit("slurm-cpu.sbatch", "any.toml", sizes=sizes, project=project)
            self.assert_ended(job, f"{status}:0", 0)
            self.assertIn(reason, job.output())

    def outcomes(self, run: str) -> list[str]:
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        return [event for event in events if event in ("run_started", "run_resumed")]

    def test_a_killed_rank_costs_one_requeue(self) -> None:
        job = self.submit("slurm-cpu.sbatch", self.written("killed"), sizes=ON_N1, slow=60)
        self.under_way(job, "killed")
        os.kill(self.rank_pid(job, 1), signal.SIGKILL)
        self.assert_ended(job, "0:0", 1)
        self.assertIn("failure 1 of at most 3", job.output())
        self.assert_same_bits(job, "killed")
        self.assertFalse((self.folder / f"fedspallm-{job.id}.failures").exists())

    def test_bad_input_is_not_requeued(self) -> None:
        bad = self.written("bad", prune={"sparsity": 1.5})
        job = self.submit("slurm-cpu.sbatch", bad, sizes=ON_N1)
        self.assert_ended(job, f"{BAD_INPUT}:0", 0)
        self.assertIn("prune.sparsity", job.output())
        self.assertIn("status 2: not requeued", job.output())

    def test_srun_without_pmix_is_a_wrong_start(self) -> None:
        for kind in ("none", "pmi2"):
            config = self.written(f"wrong-{kind}")
            done = self.cluster.command("srun", f"--mpi={kind}", "--ntasks=2", PROGRAM, "prune", config,
                                        env=environment(NETWORK))  # fmt: skip
            self.assertEqual(done.returncode, STARTED_WRONGLY, done.stderr)
            self.assertEqual(done.stderr.count("fedspallm: error: "), 1, done.stderr)
            self.assertIn("srun --mpi=pmix -n 2 fedspallm", done.stderr)
            self.assertFalse((self.folder / f"wrong-{kind}").exists(), "nothing is written")

    def test_z_a_run_that_always_fails_is_given_up(self) -> None:
        job = self.early["failures"]
        self.assert_ended(job, "6:0", 3)
        self.assertIn("status 6 after 3 requeues: giving up", job.output())
        self.assertFalse((self.folder / f"fedspallm-{job.id}.failures").exists())

    def test_z_the_time_limit_is_survived(self) -> None:
        job = self.early["time limit"]
        self.assert_ended(job, "0:0", 1)
        self.assertIn("time is running out, asking for a checkpoint", job.output())
        self.assertIn("status 75, checkpoint written", job.output())
        self.assertEqual(self.outcomes("time-limit"), ["run_started", "run_resumed"], job.report())
        self.assert_same_bits(job, "time-limit")


def digests(run_dir: Path) -> dict[str, Any]:
    """SHA-256 of the model's files, and of the masks, values and votes of the merge and of each client."""
    found = {"model": file_digests(run_dir / "model"), "run.h5": oracle.digest_of_blocks(run_dir / "run.h5")}
    for file in sorted((run_dir / "clients").glob("*.h5")):
        found[file.name] = oracle.digest_of_blocks(file)
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that Slurm is ended first
    try:
        with Cluster() as OnSlurm.cluster:
            main()
    except CannotStart as why:
        print(f"skipped: Slurm cannot be started here: {why}")
        sys.exit(SKIPPED)
