#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tools/scaling_study.py over a tiny grid: points that are there are not run again, tables agree with the points,
every plot is written, and the job array names the missing points."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "scaling_study.py"
VENV = Path(os.environ.get("FEDSPALLM_VENV", ROOT / "build" / "venv"))

# Stands in for `mpirun -np N fedspallm simulate ...`: what the tool reads of its output, from the arguments alone.
FAKE = r"""
import json, sys
words = sys.argv[1:]
settings = dict(word.split("=", 1) for word in words if "=" in word)
clients, ranks = int(settings["simulate.clients"]), int(words[0])
with open("calls.txt", "a", encoding="utf-8") as calls:
    calls.write(" ".join(words) + "\n")
rank = {"seconds": 0.1 * clients, "merge_and_wire_seconds": 0.05 * clients, "bytes_sent": 10 * clients,
        "bytes_forecast": 10 * clients, "peak_rss_bytes": 1000, "peak_merge_bytes": 500, "making_seconds": 0.01,
        "adding_seconds": 0.02, "finishing_seconds": 0.001, "writing_seconds": 0.0}
row = {"gpus": 2, "clients": 2, "transport": "gather", "efficiency": 0.5}
print(json.dumps({"format_version": 1, "model": "m", "blocks_run": 1, "ranks": [rank] * ranks, "digest": "d",
                  "virtual": {"seconds": 1.0, "dropped": []}, "forecast": {"strong": [row], "weak": [row]},
                  "sizes": [{"clients": 2, "seconds_per_block": 0.5, "held_out": False}]}))
"""


class Study(unittest.TestCase):
    def setUp(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self._temporary.cleanup)
        self.folder = Path(self._temporary.name)
        (self.folder / "fake.py").write_text(FAKE)
        (self.folder / "study.toml").write_text("[simulate]\n")
        self.out = self.folder / "out"

    def tool(self, *arguments: str) -> str:
        launcher = f"{sys.executable} {self.folder / 'fake.py'} {{ranks}}"
        command = [sys.executable, str(TOOL), str(self.folder / "study.toml"), "--out", str(self.out)]
        command += ["--clients", "4,2", "--ranks", "1,2", "--launcher", launcher, *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    def test_the_grid_is_run_once_and_gives_tables_and_plots(self) -> None:
        plots = self.tool("--set", "run.seed=3").split()
        self.assertEqual(len(self.calls()), 8)
        self.assertTrue(all("run.seed=3" in call for call in self.calls()))
        with open(self.out / "study.csv", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        self.assertEqual([(row["clients"], row["ranks"]) for row in rows[::2]], [("2", "1"), ("2", "2"), ("4", "1"), ("4", "2")])
        self.assertEqual([row["transport"] for row in rows[:2]], ["gather", "reduce"])
        self.assertEqual(rows[-1]["bytes_sent"], "80")
        self.assertEqual(len((self.out / "sizes.csv").read_text().splitlines()), 9)
        self.assertEqual(len((self.out / "forecast.csv").read_text().splitlines()), 17)
        self.assertEqual(len(plots), 3 + 4 + 2)
        for path in plots:
            self.assertIn("<svg", Path(path).read_text())
        self.assertIn("FORECAST", (self.out / "forecast-weak.svg").read_text())
        point = self.out / "points" / "gather-2-ranks-4-clients.json"
        point.write_text("torn")
        self.tool()
        self.assertEqual(len(self.calls()), 9, "one point was no longer whole")
        self.assertEqual(json.loads(point.read_text())["format_version"], 1)
        self.tool("--collect")
        self.assertEqual(len(self.calls()), 9)

    def test_slurm_gets_an_array_of_what_is_missing(self) -> None:
        self.tool("--slurm")
        self.assertEqual(self.calls(), [])
        self.assertEqual(len((self.out / "points.txt").read_text().splitlines()), 8)
        self.assertIn("--array=1-8%1", (self.out / "study.sbatch").read_text())
        subprocess.run(["bash", "-n", str(self.out / "study.sbatch")], check=True)


if __name__ == "__main__":
    if not (VENV / ".complete").exists():
        print(f"skipped: {VENV} is missing; make it with tools/install-dependencies.sh --python")
        sys.exit(77)
    unittest.main(verbosity=2)
