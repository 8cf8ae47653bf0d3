# SPDX-License-Identifier: Apache-2.0
"""Hosts of their own on one machine: a network namespace and a host name each, joined by a switch whose ports carry
only so many bits a second: the kernel's, or (relay.py) one that also takes its time. mpirun starts its daemons there through a script in place of ssh. The machine's own
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

RELAY = Path(__file__).resolve().with_name("relay.py")
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
    """`with Hosts(4) as hosts`: h0 to h3 at 10.77.0.1 to .4. With a delay each packet takes so many seconds longer; then
    limits of up to 100 Mbit/s are possible."""

    def __init__(self, count: int, delay: float = 0.0) -> None:
        self.count = count
        self.delay = delay
        self.prefix = f"fedspallm{os.getpid()}{'-late' if delay else ''}"
        self._relay: subprocess.Popen[str] | None = None
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
        if self._relay is not None:
            self._relay.kill()
            self._relay.communicate()
            self._relay = None
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
        hosts = [self._space(f"h{number}") for number in range(self.count)]
        if self.delay:
            self._join_by_relay(switch, hosts)
        else:
            self._join_by_bridge(switch, hosts)
        for number, host in enumerate(hosts):
            call("ip", "-n", host, "addr", "add", f"{NETWORK}.{number + 1}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                call("ip", "-n", host, "link", "set", device, "up")
        call("ip", "netns", "exec", f"{self.prefix}-h0", "unshare", "--uts", "hostname", "h0")
        self._agent = self._folder / "agent"
        self._agent.write_text(AGENT.format(prefix=self.prefix))
        self._agent.chmod(0o700)

    def _join_by_bridge(self, switch: str, hosts: Sequence[str]) -> None:
        call("ip", "-n", switch, "link", "add", "name", "switch", "type", "bridge")
        call("ip", "-n", switch, "link", "set", "switch", "up")
        for number, host in enumerate(hosts):
            port = f"port{number}"
            call("ip", "-n", switch, "link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", host)
            call("ip", "-n", switch, "link", "set", port, "master", "switch", "up")

    def _join_by_relay(self, switch: str, hosts: Sequence[str]) -> None:
        ports = [f"port{number}" for number in range(len(hosts))]
        command = ["ip", "netns", "exec", switch, sys.executable, str(RELAY), str(self.delay), *ports]
        self._relay = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._relay.stdout is not None and self._relay.stderr is not None
        if self._relay.stdout.readline() != "ready\n":
            words = self._relay.stderr.read().strip().splitlines()
            raise NotPermitted(f"tap devices: {words[-1] if words else 'the relay ended'}")
        for port, host in zip(ports, hosts):
            call("ip", "-n", switch, "link", "set", port, "netns", host, "name", "eth0", "mtu", "9000")

    def limit(self, rate: str) -> None:
        """Both ways of every host's cable: so many bits a second ("100mbit"; "" = no limit)."""
        ends = [(f"{self.prefix}-h{number}", "eth0") for number in range(self.count)]
        if self._relay is None:
            ends += [(f"{self.prefix}-switch", f"port{number}") for number in range(self.count)]
        else:
            bytes_a_second = int(rate.removesuffix("mbit")) * 125_000 if rate else 0
            assert self._relay.stdin is not None
            self._relay.stdin.write(f"{bytes_a_second}\n")
            self._relay.stdin.flush()
        for space, device in ends:
            subprocess.run(["tc", "-n", space, "qdisc", "del", "dev", device, "root"], capture_output=True, check=False)
            if rate:
                command = ["tc", "-n", space, "qdisc", "add", "dev", device, "root"]
                call(*command, "tbf", "rate", rate, "burst", BURST, "latency", "100ms")

    def round_trip(self) -> float:
        """Seconds until the second host has refused a connection of the first: the least of five."""
        program = (
            "import socket, time\n"
            "def once():\n"
            "    start = time.monotonic()\n"
            f"    code = socket.socket().connect_ex(('{NETWORK}.2', 9))\n"
            "    assert code == 111, code\n"
            "    return time.monotonic() - start\n"
            "print(min(once() for _ in range(5)))"
        )
        return float(call("ip", "netns", "exec", f"{self.prefix}-h0", sys.executable, "-c", program))

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
