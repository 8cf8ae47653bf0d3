#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An exchange between separate hosts with limited cables (hosts.py): the same bits as on one rank by each way of
merging, and on each cable the bytes that were forecast. No timing is judged. Root only; the standard library."""

from __future__ import annotations

import json
import sys
import unittest
from pathlib import Path
from typing import Any, ClassVar

from hosts import Hosts, NotPermitted

from harness import PROGRAM, SKIPPED, ProgramTest, main, merged

WAYS: dict[str, dict[str, Any]] = {
    "gather": {"topology": "root", "transport": "gather"},
    "reduce": {"topology": "root", "transport": "reduce"},
    "owners": {"topology": "owners"},
    "nodes": {"topology": "nodes"},
}
#: SmolLM2-135M's shape, 16 MB of updates. With an N:M pattern bytes are known beforehand for owners, too.
CONFIG: dict[str, Any] = {
    "prune": {"pattern": "2:4"},
    "simulate": {"shape": "smollm2-135m", "clients": 4, "blocks": 1},
}


DELAY = 0.002  # seconds that a packet takes


class HostTest(ProgramTest):
    hosts: ClassVar[Hosts]

    def simulate(self, ranks: int, config: dict[str, Any], per_host: int = 1) -> Any:
        command = [PROGRAM, "simulate", str(self.write_config(config)), "--json"]
        done = self.hosts.mpirun(ranks, command, per_host=per_host)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def expect_same_bits_for_the_forecast_bytes(self, ranks: int, digest: str) -> None:
        """By each way; and as many bytes went over each host's cable."""
        for way, federation in WAYS.items():
            before = [self.hosts.sent(number) for number in range(ranks)]
            found = self.simulate(ranks, merged(CONFIG, {"federation": federation}))
            cables = [self.hosts.sent(number) - before[number] for number in range(ranks)]
            with self.subTest(ranks=ranks, way=way):
                self.assertEqual(found["way"], way)
                self.assertEqual(found["digest"], digest)
                for rank, cable in zip(found["ranks"], cables):
                    self.assertEqual(rank["bytes_sent"], rank["bytes_forecast"])
                    # All of it went over the cable: with heads of packets, and what starting a run takes.
                    self.assertGreater(cable, rank["bytes_sent"])
                    self.assertLess(cable, 1.1 * rank["bytes_sent"] + 1_000_000)


class OnHosts(HostTest):
    def test_ranks_are_on_hosts_of_their_own(self) -> None:
        done = self.hosts.mpirun(4, ["sh", "-c", "hostname; ls /sys/class/net"])
        self.assertEqual(done.returncode, 0, done.stderr)
        words = done.stdout.split()
        for number in range(4):
            self.assertIn(f"h{number}", words)
        self.assertEqual(set(words) - {f"h{number}" for number in range(4)}, {"eth0", "lo"})

    def test_each_way_gives_the_same_bits_for_the_forecast_bytes(self) -> None:
        self.hosts.limit("1gbit")
        digest = self.simulate(1, merged(CONFIG, {"federation": WAYS["gather"]}))["digest"]
        for ranks in (2, 4):
            self.expect_same_bits_for_the_forecast_bytes(ranks, digest)

    def test_only_leaders_of_hosts_send_sums_over_the_cables(self) -> None:
        self.hosts.limit("1gbit")
        config = merged(CONFIG, {"federation": WAYS["nodes"]})
        digest = self.simulate(1, merged(CONFIG, {"federation": WAYS["gather"]}))["digest"]
        for hosts, per_host in ((2, 2), (2, 3)):
            before = [self.hosts.sent(number) for number in range(hosts)]
            found = self.simulate(hosts * per_host, config, per_host)
            cables = [self.hosts.sent(number) - before[number] for number in range(hosts)]
            with self.subTest(hosts=hosts, per_host=per_host):
                self.assertEqual(found["way"], "nodes")
                self.assertEqual(found["digest"], digest)
                ranks = found["ranks"]
                for rank in ranks:
                    self.assertEqual(rank["bytes_sent"], rank["bytes_forecast"])
                sums = ranks[per_host]["bytes_sent"]  # the second host's leader: 96 bits a weight
                self.assertGreater(sums, 42_000_000)
                for number, rank in enumerate(ranks):
                    if number != per_host:
                        self.assertLess(rank["bytes_sent"], 10_000, "announcements and a word for each matrix")
                self.assertGreater(cables[1], sums)
                self.assertLess(cables[1], 1.1 * sums + 1_000_000)
                self.assertLess(cables[0], 0.05 * sums + 1_000_000, "acknowledgements")

    def test_owners_share_what_the_root_would_receive(self) -> None:
        # With a client on each of four hosts the root receives three updates, or owners three quarters of one each.
        self.hosts.limit("")
        gather = self.simulate(4, merged(CONFIG, {"federation": WAYS["gather"]}))["ranks"]
        owners = self.simulate(4, merged(CONFIG, {"federation": WAYS["owners"]}))["ranks"]
        update = max(rank["bytes_sent"] for rank in gather)
        for rank in owners[1:]:  # three quarters of an update, and their slice of the result: 9 bits and 8 of votes a weight
            self.assertAlmostEqual(rank["bytes_sent"] / update, 0.75 + 0.25 * 17 / 9, delta=0.02)
        self.assertLess(owners[0]["bytes_sent"], 0.8 * update)


class OnDistantHosts(HostTest):
    """Packets take 2 ms and lose some of their number where too many come at once."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        try:
            cls.hosts = Hosts(2, delay=DELAY).__enter__()
        except NotPermitted as refused:
            raise unittest.SkipTest(f"no hosts that are far from each other: {refused}") from refused
        cls.addClassCleanup(cls.hosts.__exit__)

    def test_a_distance_changes_no_bit_and_no_byte(self) -> None:
        self.hosts.limit("100mbit")
        self.assertGreaterEqual(self.hosts.round_trip(), 2 * DELAY)
        digest = self.simulate(1, merged(CONFIG, {"federation": WAYS["gather"]}))["digest"]
        self.expect_same_bits_for_the_forecast_bytes(2, digest)


if __name__ == "__main__":
    if not Path(PROGRAM).exists():
        sys.exit(f"{PROGRAM} is missing; build it first, or set FEDSPALLM_PROGRAM")
    try:
        with Hosts(4) as OnHosts.hosts:
            OnHosts.hosts.limit("1gbit")
            main()
    except NotPermitted as refused:
        print(f"skipped: this machine refuses hosts of their own: {refused}")
        sys.exit(SKIPPED)
