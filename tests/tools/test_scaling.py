#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tools/scaling_study.py over a tiny grid: points that are there are not run again, tables agree with the points,
every plot is written, and the job array names the missing points."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from support import TOOLS, in_environment

if __name__ == "__main__":
    in_environment()

from scaling_tables import fit_rows, median_rows  # noqa: E402

TOOL = TOOLS / "scaling_study.py"

# Stands in for `mpirun -np N fedspallm simulate ...`: what the tool reads of its output, from the arguments alone.
FAKE = r"""
import json, sys
words = sys.argv[1:]
settings = dict(word.split("=", 1) for word in words if "=" in word)
clients, ranks = int(settings["simulate.clients"]), int(words[0])
topology = settings["federation.topology"]
way = settings["federation.transport"] if topology == "root" else topology
with open("calls.txt", "a", encoding="utf-8") as calls:
    calls.write(" ".join(words) + "\n")
rank = {"seconds": 0.1 * clients, "merge_and_wire_seconds": 0.25 + 0.05 * clients, "bytes_sent": 10 * clients,
        "bytes_forecast": 10 * clients, "peak_rss_bytes": 1000, "peak_merge_bytes": 500, "making_seconds": 0.01,
        "adding_seconds": 0.02, "finishing_seconds": 0.001, "writing_seconds": 0.0}
found = {"format_version": 3, "model": "m", "blocks_run": 1, "ranks": [rank] * ranks, "digest": "d",
         "virtual": {"seconds": 1.0, "dropped": []}, "sizes": []}
if "simulate.fit" not in settings:
    row = {"gpus": 2, "clients": 2, "efficiency": 0.5, "compute_seconds_per_block": 1.0,
           "merge_seconds_per_block": 0.1, "seconds": 30.0}
    rows = [{**row, "way": one} for one in ("gather", "reduce", "owners", "nodes")]
    found["forecast"] = {"strong": rows, "weak": rows}
    found["sizes"] = [{"clients": 2, "seconds_per_block": 0.5, "held_out": False},
                      {"clients": 4, "seconds_per_block": 0.5, "held_out": True, "error": -0.1,
                       "forecast_seconds_per_block": 0.45}]
print(json.dumps(found))
"""


class Study(unittest.TestCase):
    def setUp(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self._temporary.cleanup)
        self.folder = Path(self._temporary.name)
        (self.folder / "fake.py").write_text(FAKE)
        (self.folder / "study.toml").write_text("[simulate]\n")
        self.out = self.folder / "out"

    def run_tool(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        launcher = f"{sys.executable} {self.folder / 'fake.py'} {{ranks}}"
        command = [sys.executable, str(TOOL), str(self.folder / "study.toml"), "--out", str(self.out)]
        command += ["--program", str(self.folder / "program"), "--clients", "64,16,256", "--ranks", "1,2"]
        command += ["--launcher", launcher, *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)

    def tool(self, *arguments: str) -> str:
        done = self.run_tool(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def version(self, text: str) -> None:
        program = self.folder / "program"
        program.write_text(f"#!/bin/sh\necho {text}\n")
        program.chmod(0o755)

    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    def rows(self, name: str) -> list[dict[str, str]]:
        with open(self.out / name, encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def test_the_grid_is_run_once_and_gives_tables_and_plots(self) -> None:
        written = self.tool("--set", "run.seed=3").split()
        # Two numbers of ranks: each way with 16, 64 and 256 clients; a model for each.
        self.assertEqual(len(self.calls()), 2 * 4 * 3 + 2 * 4)
        self.assertTrue(all("run.seed=3" in call for call in self.calls()))
        rows = self.rows("study.csv")
        self.assertEqual([row["way"] for row in rows[:4]], ["gather", "reduce", "owners", "nodes"])
        self.assertEqual({row["clients"] for row in rows if row["way"] == "owners"}, {"16", "64", "256"})
        self.assertEqual(rows[-1]["bytes_sent"], str(2 * 10 * 256))
        self.assertEqual(len(self.rows("sizes.csv")), 2 * 8)
        forecast = self.rows("forecast.csv")
        self.assertEqual(len(forecast), 2 * 8)
        text = (self.out / "study.md").read_text()
        self.assertIn("-10.0 %", text, "the error on the size that was held out")
        self.assertLess(text.index("a + b N"), text.index("FORECAST, not measured"))
        plots = [Path(path) for path in written if path.endswith(".svg")]
        self.assertEqual(len(plots), 4 + 8 + 3 + 2 + 2)
        for path in plots:
            self.assertIn("<svg", path.read_text())
        self.assertIn("FORECAST", (self.out / "forecast-weak.svg").read_text())
        point = self.out / "points" / "gather-2-ranks-64-clients.json"
        point.write_text("torn")
        before = len(self.calls())
        self.tool("--set", "run.seed=3")
        self.assertEqual(len(self.calls()), before + 1, "one point was no longer whole")
        self.assertEqual(json.loads(point.read_text())["format_version"], 3)
        self.tool("--collect", "--set", "run.seed=3")
        self.assertEqual(len(self.calls()), before + 1)

    def test_points_of_another_making_are_run_again(self) -> None:
        few = ("--clients", "16", "--ranks", "1", "--ways", "gather")
        self.version("1.0")
        self.assertIn("0 of 2 points are reused\n", self.run_tool(*few).stderr)
        self.assertIn("2 of 2 points are reused\n", self.run_tool(*few).stderr)
        self.assertEqual(len(self.calls()), 2)
        again = "0 of 2 points are reused; 2 of another command, configuration or program are to be run again"
        self.assertIn(again, self.run_tool(*few, "--set", "run.seed=4").stderr)
        (self.folder / "study.toml").write_text("[simulate]\nblocks = 2\n")
        self.assertIn(again, self.run_tool(*few, "--set", "run.seed=4").stderr)
        self.version("2.0")
        self.assertIn(again, self.run_tool(*few, "--set", "run.seed=4").stderr)
        self.assertEqual(len(self.calls()), 2 + 3 * 2)
        self.version("3.0")
        self.assertIn("2 of another", self.run_tool(*few, "--collect").stderr)
        self.assertEqual(len(self.calls()), 2 + 3 * 2)

    def test_bad_options_are_named_without_a_traceback(self) -> None:
        (self.folder / "file").write_text("")
        for words, expected in (
            (("--out", str(self.folder / "file")), "is a file"),
            (("--launcher", "mpirun -np {rank}"), "--launcher"),
            (("--launcher", "mpirun 'np"), "--launcher"),
            (("--launcher", "no-such-launcher {ranks}"), "cannot be started"),
        ):
            done = self.run_tool(*words)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(expected, done.stderr)
            self.assertNotIn("Traceback", done.stderr)

    def test_the_line_through_the_times_and_how_straight_it_is(self) -> None:
        rows = [
            {"way": "gather", "ranks": 2, "clients": n, "blocks_run": 2, "merge_and_wire_seconds": 2 * (0.25 + 0.05 * n)}
            for n in (4096, 4, 16, 256)
        ]
        (row,) = fit_rows(rows)
        self.assertEqual((row["least_clients"], row["most_clients"]), (16, 4096))
        for name, expected in (("a", 0.25), ("b", 0.05), ("least_slope", 0.05), ("largest_slope", 0.05), ("spread_of_b", 0),
                               ("worst_error", 0)):
            self.assertAlmostEqual(row[name], expected, places=9)
        self.assertAlmostEqual(row["spread_per_client"], (0.25 / 16 + 0.05) / (0.25 / 4096 + 0.05) - 1, places=9)
        self.assertEqual(fit_rows(rows[:2]), [], "one size from 16 clients on is no line")

    def test_repeats_count_by_their_median(self) -> None:
        same = {"way": "owners", "ranks": 2, "clients": 16}
        rows = [{**same, "merge_and_wire_seconds": seconds} for seconds in (0.9, 0.7, 5.0)]
        (row,) = median_rows(rows)
        times = [row[name] for name in ("fastest_seconds", "merge_and_wire_seconds", "slowest_seconds")]
        self.assertEqual(times, [0.7, 0.9, 5.0])

    def test_slurm_gets_an_array_of_what_is_missing(self) -> None:
        self.tool("--slurm")
        self.assertEqual(self.calls(), [])
        self.assertEqual(len((self.out / "points.txt").read_text().splitlines()), 32)
        self.assertIn("--array=1-32%1", (self.out / "study.sbatch").read_text())
        subprocess.run(["bash", "-n", str(self.out / "study.sbatch")], check=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
