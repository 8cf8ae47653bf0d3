#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A switch whose frames take time, for kernels without netem: tap devices of the current namespace, which hosts.py then
moves into its hosts, are joined by this process. Each frame is sent on over the cable of the host that it is for, at so many
bytes a second, one after the other, and arrives so much later; what would wait longer than BACKLOG is lost, as in a real switch.

Usage: relay.py DELAY_SECONDS TAP... . Prints "ready"; then takes lines "BYTES_PER_SECOND" (0, as in the beginning: no limit)
and ends with its standard input. Some 20,000 frames a second: enough for 100 Mbit/s."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
BACKLOG = 0.1  # seconds
FRAME, AT_ONCE = 65536, 64


class Port:
    """A host's end of its cable: frames on their way there."""

    def __init__(self, name: str) -> None:
        self.file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        self.free_at = 0.0  # the cable has carried all that was given to it
        self.frames: deque[tuple[float, bytes]] = deque()

    def carry(self, frame: bytes, now: float, rate: float, delay: float) -> None:
        """Queues a frame behind the others."""
        start = max(now, self.free_at)
        if start - now > BACKLOG:
            return
        self.free_at = start + (len(frame) / rate if rate > 0 else 0.0)
        self.frames.append((self.free_at + delay, frame))

    def deliver(self, now: float) -> None:
        """Hands over what has arrived; a host that takes nothing loses it."""
        while self.frames and self.frames[0][0] <= now:
            try:
                os.write(self.file, self.frames.popleft()[1])
            except OSError:  # the device is down, or its queue is full
                pass


class Switch:
    """Learns which address is at which port."""

    def __init__(self, delay: float, names: list[str]) -> None:
        self.ports = {port.file: port for port in map(Port, names)}
        self.known: dict[bytes, Port] = {}
        self.rate, self.delay = 0.0, delay

    def take(self, source: Port, frame: bytes) -> None:
        """Sends a frame on to the port of its address, or to all others where nobody has shown that address yet."""
        self.known[frame[6:12]] = source
        now = time.monotonic()
        target = self.known.get(frame[:6])
        for port in [target] if target is not None else self.ports.values():
            if port is not source:
                port.carry(frame, now, self.rate, self.delay)

    def read(self, source: Port) -> None:
        """What a host has put on its cable, some frames at a time."""
        for _ in range(AT_ONCE):
            try:
                self.take(source, os.read(source.file, FRAME))
            except OSError:
                return

    def run(self) -> None:
        """Until standard input ends."""
        while True:
            dues = [port.frames[0][0] for port in self.ports.values() if port.frames]
            wait = max(0.0, min(dues) - time.monotonic()) if dues else None
            for file in select.select([0, *self.ports], [], [], wait)[0]:
                if file != 0:
                    self.read(self.ports[file])
                    continue
                line = os.read(0, 256).decode()  # a line comes in one piece
                if not line:
                    return
                self.rate = float(line.splitlines()[-1])
            now = time.monotonic()
            for port in self.ports.values():
                port.deliver(now)


if __name__ == "__main__":
    switch = Switch(float(sys.argv[1]), sys.argv[2:])
    print("ready", flush=True)
    switch.run()
