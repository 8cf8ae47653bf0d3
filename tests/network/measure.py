#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seconds and bytes of each way of merging between 2 and 4 hosts (hosts.py) at several bandwidths, beside the cost
model's seconds for such links, as a Markdown table. The median of three runs counts. Root only; the standard library."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hosts import Hosts, NotPermitted

from harness import PROGRAM, SKIPPED, to_toml
from test_network import WAYS

CLIENTS, REPEATS = 16, 3
RATES = {"100 Mbit/s": ("100mbit", 12.5e6), "1 Gbit/s": ("1gbit", 125e6)}
DELAY = 0.001  # seconds a packet, in the last rows: with 100 Mbit/s only, for relay.py is no faster


def simulate(hosts: Hosts, ranks: int, config: dict[str, Any]) -> Any:
    """One run's JSON object."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(to_toml(config))
        file.flush()
        done = hosts.mpirun(ranks, [PROGRAM, "simulate", file.name, "--json"], timeout=300)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def measure(hosts: Hosts, rates: Sequence[str]) -> None:
    """Prints the table's rows line by line."""
    for ranks in (2, 4):
        for name in rates:
            rate, link = RATES[name]
            hosts.limit(rate)
            if hosts.delay:
                name += f", {1e3 * hosts.delay:g} ms"
            latency = 200e-6 + hosts.delay  # what threads take to poll, and the packet's way
            config: dict[str, Any] = {
                "prune": {"pattern": "2:4"},
                "simulate": {"shape": "smollm2-135m", "clients": CLIENTS, "link_bytes": link, "latency": latency},
            }
            auto = simulate(hosts, ranks, config)["way"]
            for way, federation in WAYS.items():
                found = [simulate(hosts, ranks, config | {"federation": federation}) for _ in range(REPEATS)]
                seconds = statistics.median(one["ranks"][0]["merge_and_wire_seconds"] for one in found)
                sent = [rank["bytes_sent"] for rank in found[0]["ranks"]]
                equal = all(rank["bytes_sent"] == rank["bytes_forecast"] for one in found for rank in one["ranks"])
                model = found[0]["cost_model_seconds_per_block"][way]
                print(
                    f"| {ranks} | {name} | {way} | {seconds:.2f} | {model:.2f} | {max(sent) * 1e-6:.2f} | {sent[0] * 1e-6:.2f}"
                    f" | {'yes' if equal else 'no'} | {'this' if way == auto else ''} |",
                    flush=True,
                )


if __name__ == "__main__":
    if not Path(PROGRAM).exists():
        sys.exit(f"{PROGRAM} is missing; build it first, or set FEDSPALLM_PROGRAM")
    try:
        print("| hosts | links | way | s | cost model s | busiest rank sent MB | root sent MB | as forecast | auto takes |")
        print("|---|---|---|---|---|---|---|---|---|")
        with Hosts(4) as near:
            measure(near, list(RATES))
        with Hosts(4, DELAY) as far:
            print(f"Round trip of a packet between distant hosts: {1e3 * far.round_trip():.2f} ms", file=sys.stderr)
            measure(far, ["100 Mbit/s"])
    except NotPermitted as refused:
        print(f"skipped: this machine refuses hosts of their own: {refused}")
        sys.exit(SKIPPED)
