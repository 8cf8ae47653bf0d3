# SPDX-License-Identifier: Apache-2.0
"""A Slurm of the tests' own: munged, slurmctld and two slurmd on the loopback, started as this user in a
temporary folder and gone afterwards. No service of the machine is touched and no setting of it is read.

Both "nodes" are this machine (Debian builds Slurm with --enable-multiple-slurmd), so they share its cores, its
memory and its files. No accounting database, no cgroups.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NODES = 2
CPUS = 4  # of each node, whatever the machine has
NEEDED = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
)
PR_SET_PDEATHSIG = 1

# cred_expire is also how long a requeued job waits before it starts again (slurm.conf's manual, AuthInfo).
# TmpFS is where the PMIx plug-in keeps its sockets, so each node needs its own.
# A job of the partition `urgent` preempts those of `work`, which get SIGTERM and 30 seconds.
CONFIGURATION = """
ClusterName=fedspallm-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
ReturnToService=2
MinJobAge=3600
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
{nodes}
PartitionName=work Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


class CannotStart(Exception):
    """Slurm is not installed, or does not come up here."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def die_with_parent() -> None:
    """In a new process: SIGTERM when the tests die, however they die."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Cluster:
    """Start it with `with Cluster() as cluster`."""

    def __init__(self) -> None:
        missing = [name for name in NEEDED if shutil.which(name, path=self._path()) is None]
        if missing:
            raise CannotStart(f"{', '.join(missing)} missing: tools/install-dependencies.sh --slurm")
        self.folder = Path(tempfile.mkdtemp(prefix="fedspallm-slurm-"))
        self._daemons: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def _path() -> str:
        return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except (OSError, subprocess.SubprocessError) as error:
            self.stop()
            raise CannotStart(str(error)) from error
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": self._path()}

    def _start(self) -> None:
        host, ports = socket.gethostname().split(".")[0], free_ports(1 + NODES)
        nodes = "\n".join(
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory=4000"
            for i, port in enumerate(ports[1:])
        )
        text = CONFIGURATION.format(
            host=host, ports=ports, user=getpass.getuser(), folder=self.folder, nodes=nodes
        )
        (self.folder / "slurm.conf").write_text(text)
        for name in ("state", *(f"tmp-n{i}" for i in range(NODES))):
            (self.folder / name).mkdir()
        key, munge = self.folder / "munge.key", self.folder / "munge.socket"
        subprocess.run(["mungekey", "-c", "-k", key], check=True, env=self._environment())
        self._daemon("munged", "munged", "--force", "--foreground", f"--key-file={key}", f"--socket={munge}",
                     *(f"--{what}-file={self.folder}/munged.{what}" for what in ("pid", "log", "seed")))  # fmt: skip
        self.wait("munged's socket", munge.exists)
        self._daemon("slurmctld", "slurmctld", "-D")
        for i in range(NODES):
            self._daemon(f"slurmd-n{i}", "slurmd", "-D", "-N", f"n{i}")
        self.wait("idle nodes", lambda: self._states().count("idle") == NODES)

    def _environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, **self.environment, **(extra or {})}

    def _states(self) -> list[str]:
        shown = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--partition=work", "--format=%t"],
            capture_output=True, text=True, check=False, timeout=60, env=self._environment(),
        )  # fmt: skip
        return shown.stdout.split()

    def _daemon(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.out", "wb") as output:
            self._daemons.append(
                subprocess.Popen(  # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env=self._environment(), start_new_session=True, preexec_fn=die_with_parent,
                )  # fmt: skip
            )

    def wait(self, what: str, done: Callable[[], bool], seconds: float = 30) -> None:
        """Until a part of Slurm has come up."""
        end = time.monotonic() + seconds
        while not done():
            dead = [one for one in self._daemons if one.poll() is not None]
            if dead or time.monotonic() > end:
                why = f"{dead[0].args!r} ended" if dead else f"no {what} within {seconds} s"
                raise CannotStart(f"{why}\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        """What the daemons said last."""
        files = sorted(self.folder.glob("*.out")) + sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)

    def stop(self) -> None:
        """Ends the daemons, the jobs' processes, and removes the folder. A second call does nothing."""
        for daemon in self._daemons:
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self._processes():
            kill(pid)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> list[int]:
        """All processes that have this cluster's configuration in their environment, but for this one."""
        mark, found = f"SLURM_CONF={self.folder}/slurm.conf".encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    variables = (entry / "environ").read_bytes().split(b"\0")
                except OSError:  # ended, or another user's
                    continue
                if mark in variables:
                    found.append(int(entry.name))
        return found

    def command(
        self, *words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of Slurm's commands, e.g. `srun`, and returns what it did."""
        return subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, check=False, timeout=120,
            stdin=subprocess.DEVNULL, env=self._environment(env), cwd=cwd,
        )  # fmt: skip


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


class BatchJob:
    """A job handed to sbatch."""

    def __init__(self, cluster: Cluster, words: Sequence[object], env: Mapping[str, str], cwd: Path) -> None:
        self._cluster = cluster
        done = cluster.command("sbatch", "--parsable", *words, env=env, cwd=cwd)
        if done.returncode != 0:
            raise AssertionError(f"sbatch {words} was refused:\n{done.stderr}")
        self.id = done.stdout.strip()
        self._cwd = cwd

    def shown(self, task: int | None = None) -> dict[str, str]:
        """What `scontrol show job` says, by key."""
        name = self.id if task is None else f"{self.id}_{task}"
        text = self._cluster.command("scontrol", "--oneliner", "show", "job", name).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", text.split("\n")[0]))

    def state(self, task: int | None = None) -> str:
        return self.shown(task).get("JobState", "gone")

    def wait_until(self, what: Callable[[], bool], seconds: float = 60) -> None:
        """Fails with the job's output and the daemons' logs when `what` does not come true in time."""
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                raise AssertionError(f"job {self.id}: waited {seconds} s in vain\n{self.report()}")
            time.sleep(0.1)

    def end(self, seconds: float = 90, task: int | None = None) -> dict[str, str]:
        """Waits for the end of the job, or of one task of an array, through all its requeues."""
        self.wait_until(lambda: self.state(task) in ENDED, seconds)
        return self.shown(task)

    def output(self) -> str:
        files = sorted(self._cwd.glob(f"fedspallm-{self.id}*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def report(self) -> str:
        return f"{self.shown()}\n--- output\n{self.output()}\n{self._cluster.logs()}"
