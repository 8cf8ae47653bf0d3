# SPDX-License-Identifier: Apache-2.0
"""Hosts of their own on one machine: a network namespace and a host name each, joined by a switch whose ports carry
only so many bits a second. mpirun starts its daemons there through a script in place of ssh. The machine's own
interfaces are not touched. Needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN) and iproute2."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "e2e")]

from harness import environment  # noqa: E402

NETWORK = "10.77.0"  # of these namespaces alone
BURST = "256kb"  # a token bucket has to hold the largest packet that a card would cut up: 64 KiB
AGENT = r"""#!/bin/sh
# In place of ssh: HOST COMMAND... . The command has gone through one shell less than ssh would give it.
number=$((${{1##*.}} - 1))
shift
exec ip netns exec {prefix}-h$number unshare --uts sh -c "hostname h$number; $*"
"""


class NotPermitted(Exception):
    """What this machine refused."""


def call(*command: str) -> str:
    """Runs a command of iproute2. Raises NotPermitted with its own words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError as error:
        raise NotPermitted(f"{command[0]} is missing: tools/install-dependencies.sh --network") from error
    if done.returncode != 0:
        raise NotPermitted(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Hosts:
    """`with Hosts(4) as hosts`: h0 to h3 at 10.77.0.1 to .4."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.prefix = f"fedspallm{os.getpid()}"
        self.delay_refused = ""  # why limit() could not delay packets
        self._spaces: list[str] = []
        self._folder = Path()

    def __enter__(self) -> Hosts:
        if shutil.which("unshare") is None:
            raise NotPermitted("unshare is missing")
        self._folder = Path(tempfile.mkdtemp(prefix="fedspallm-network-"))
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for space in self._spaces:
            listed = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
            for process in listed.stdout.split():  # only what was started in there
                try:
                    os.kill(int(process), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            subprocess.run(["ip", "netns", "del", space], check=False)
        self._spaces = []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _space(self, name: str) -> str:
        space = f"{self.prefix}-{name}"
        call("ip", "netns", "add", space)
        self._spaces.append(space)
        return space

    def _make(self) -> None:
        switch = self._space("switch")
        call("ip", "-n", switch, "link", "add", "name", "switch", "type", "bridge")
        call("ip", "-n", switch, "link", "set", "switch", "up")
        for number in range(self.count):
            host = self._space(f"h{number}")
            port = f"port{number}"
            call("ip", "-n", switch, "link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", host)
            call("ip", "-n", switch, "link", "set", port, "master", "switch", "up")
            call("ip", "-n", host, "addr", "add", f"{NETWORK}.{number + 1}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                call("ip", "-n", host, "link", "set", device, "up")
        call("ip", "netns", "exec", f"{self.prefix}-h0", "unshare", "--uts", "hostname", "h0")
        self._agent = self._folder / "agent"
        self._agent.write_text(AGENT.format(prefix=self.prefix))
        self._agent.chmod(0o700)

    def limit(self, rate: str, delay: str = "") -> None:
        """Both ways of every host's cable: so many bits a second ("100mbit"; "" = no limit), and each packet from a
        host so much later ("1ms") where the kernel can do that."""
        for number in range(self.count):
            ends = ((f"{self.prefix}-h{number}", "eth0"), (f"{self.prefix}-switch", f"port{number}"))
            for space, device in ends:
                subprocess.run(["tc", "-n", space, "qdisc", "del", "dev", device, "root"], capture_output=True, check=False)
                add = ["tc", "-n", space, "qdisc", "add", "dev", device]
                if rate:
                    call(*add, "root", "handle", "1:", "tbf", "rate", rate, "burst", BURST, "latency", "100ms")
                if delay and device == "eth0":
                    self._delay([*add, *(("parent", "1:") if rate else ("root",)), "netem", "delay", delay])

    def _delay(self, command: Sequence[str]) -> None:
        try:
            call(*command)
        except NotPermitted as refused:
            self.delay_refused = str(refused)

    def sent(self, number: int) -> int:
        """Bytes that a host has put on its cable since it was made."""
        path = "/sys/class/net/eth0/statistics/tx_bytes"
        # ip netns exec mounts the namespace's own /sys
        return int(call("ip", "netns", "exec", f"{self.prefix}-h{number}", "cat", path))

    def mpirun(
        self,
        ranks: int,
        command: Sequence[str],
        timeout: float = 120,
        extra: Mapping[str, str] | None = None,
        per_host: int = 1,
    ) -> subprocess.CompletedProcess[str]:
        """So many ranks on each of the first hosts, which reach each other by TCP over their cables alone (and within a
        host by TCP, too)."""
        hosts = ",".join(f"{NETWORK}.{number + 1}:{per_host}" for number in range(ranks // per_host))
        settings = {
            "plm_rsh_agent": str(self._agent),
            "plm_rsh_no_tree_spawn": "1",
            "oob_tcp_if_include": f"{NETWORK}.0/24",
            "btl": "tcp,self",
            "btl_tcp_if_include": f"{NETWORK}.0/24",
        }
        launch = ["mpirun", "--host", hosts, "-np", str(ranks), "--bind-to", "none"]
        env = environment({f"OMPI_MCA_{key}": value for key, value in settings.items()} | dict(extra or {}))
        for key, value in settings.items():
            launch += ["--mca", key, value]
        inside = ["ip", "netns", "exec", f"{self.prefix}-h0", "unshare", "--uts", "sh", "-c", 'hostname h0; exec "$@"', "sh"]
        return subprocess.run(
            [*inside, *launch, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env=env,
        )
