# SPDX-License-Identifier: Apache-2.0
"""What the comparison ran on, and how much of the machine others used meanwhile."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def processor() -> str:
    """The CPU's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def facts(threads: int) -> dict[str, Any]:
    """The machine in words and numbers."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def checkout_facts(checkout: Path) -> dict[str, str]:
    """Which published code it was: its commit where git knows it, and the file's hash."""
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    digest = hashlib.sha256((checkout / "sparsegpt.py").read_bytes()).hexdigest()
    return {"commit": done.stdout.strip() if done.returncode == 0 else "", "sparsegpt_sha256": digest}


def busy_seconds(text: str, ticks: int) -> float:
    """Seconds of all CPUs that were not idle, stolen ones included, by the text of /proc/stat."""
    fields = [int(field) for field in text.splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _wait, interrupt, soft, steal = fields
    return (user + nice + system + interrupt + soft + steal) / ticks


def own_seconds() -> float:
    """CPU seconds of this process and of its finished children."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


@contextmanager
def watch() -> Iterator[dict[str, float]]:
    """Fills in `others`: how many cores other processes kept busy on average in the time inside."""
    ticks = os.sysconf("SC_CLK_TCK")
    found: dict[str, float] = {}

    def sample() -> tuple[float, float]:
        return busy_seconds(Path("/proc/stat").read_text(), ticks) - own_seconds(), time.monotonic()

    others, moment = sample()
    yield found
    after, end = sample()
    found["others"] = max(0.0, (after - others) / max(end - moment, 1e-9))
