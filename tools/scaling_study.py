#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs `fedspallm simulate` over a grid of clients, ranks and ways of merging, and makes tables and plots of it.

Each point of the grid is a process of its own and leaves points/NAME.json, and in points/NAME.made-by the command,
the configuration's SHA-256 and the program's version; points that are there and made by the same are not run again, so
that a study goes on where it stopped. One more point for each way and number of ranks fits the performance
model (simulate.fit and simulate.held_out of the configuration) and forecasts. With --slurm the points become one job
array instead, and a later call with --collect reads what it left. Written: study.csv (the grid, medians of --repeats),
fit.csv (a + b N), sizes.csv and forecast.csv (the performance model's), the same for people in study.md, plots as SVG.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT, atomic_file, enter_venv, fail, mpi_environment, sha256_file

if __name__ == "__main__":
    enter_venv()

from scaling_plots import draw_all  # noqa: E402  pylint: disable=wrong-import-position
from scaling_tables import fit_rows, median_rows, study_text  # noqa: E402  pylint: disable=wrong-import-position

PHASES = ("making", "adding", "finishing", "writing")
#: What a way of merging is in a configuration.
WAYS = {
    "gather": ("federation.topology=root", "federation.transport=gather"),
    "reduce": ("federation.topology=root", "federation.transport=reduce"),
    "owners": ("federation.topology=owners",),
    "nodes": ("federation.topology=nodes",),
}
COLUMNS = (
    "clients",
    "ranks",
    "way",
    "model",
    "blocks_run",
    "seconds",
    "merge_and_wire_seconds",
    "fastest_seconds",
    "slowest_seconds",
    *(f"{phase}_seconds" for phase in PHASES),
    "bytes_sent",
    "bytes_forecast",
    "most_bytes_sent",
    "root_bytes_sent",
    "root_peak_rss_bytes",
    "root_peak_merge_bytes",
    "largest_peak_rss_bytes",
    "virtual_seconds",
    "dropped",
    "digest",
)


@dataclass(frozen=True)
class Point:
    """One process of the grid, or (fits) of the performance model."""

    clients: int
    ranks: int
    way: str
    repeat: int = 1
    fits: bool = False

    @property
    def name(self) -> str:
        if self.fits:
            return f"model-{self.way}-{self.ranks}-ranks"
        again = f"-{self.repeat}" if self.repeat > 1 else ""
        return f"{self.way}-{self.ranks}-ranks-{self.clients}-clients{again}"

    def command(self, options: argparse.Namespace) -> list[str]:
        settings = [f"simulate.clients={self.clients}", *WAYS[self.way], *options.set]
        if not self.fits:
            settings += ["simulate.fit=[]", "simulate.held_out=[]"]
        program = [options.program, "simulate", str(options.config), "--json"]
        for setting in settings:
            program += ["--set", setting]
        return program


def ways(text: str) -> list[str]:
    """ "gather,owners" as known names."""
    found = text.split(",")
    for name in found:
        if name not in WAYS:
            raise argparse.ArgumentTypeError(f"{name}: expected some of {','.join(WAYS)}")
    return found


def numbers(text: str) -> list[int]:
    """ "4,16" as numbers >= 1, ascending."""
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers with commas between them") from error
    if found[0] < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 1")
    return found


def grid(options: argparse.Namespace) -> list[Point]:
    """All points, small ones first; each again only after all others, so that what slows the machine for a while slows
    one repeat of each and not all of a few."""
    points = [Point(min(options.clients), ranks, way, fits=True) for ranks in options.ranks for way in options.ways]
    repeats = range(1, options.repeats + 1)
    for repeat, clients, ranks, way in itertools.product(repeats, options.clients, options.ranks, options.ways):
        points.append(Point(clients, ranks, way, repeat))
    return points


def read_point(path: Path) -> dict[str, Any] | None:
    """What a finished point left; nothing when it is missing, unfinished or of another program."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format_version") == 3 else None


def version_of(program: str) -> str:
    """What the program says of itself; nothing where it does not run here."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, env=mpi_environment())
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def made_by(point: Point, options: argparse.Namespace) -> str:
    """All that decides a point, as the text of NAME.made-by."""
    facts = {
        "launcher": options.launcher,
        "command": point.command(options),
        "config_sha256": sha256_file(options.config),
        "version": options.version,
    }
    return json.dumps(facts, indent=1) + "\n"


def is_current(point: Point, options: argparse.Namespace) -> bool:
    """Whether the point is there, whole, and made by the same command, configuration and program."""
    path = options.out / "points" / f"{point.name}.json"
    try:
        known = path.with_suffix(".made-by").read_text(encoding="utf-8")
    except OSError:
        return False
    return known == made_by(point, options) and read_point(path) is not None


def write_made_by(point: Point, options: argparse.Namespace) -> Path:
    """Removes a point of other making and says what makes it now; returns the point's place."""
    path: Path = options.out / "points" / f"{point.name}.json"
    path.unlink(missing_ok=True)
    with atomic_file(path.with_suffix(".made-by")) as stream:
        stream.write(made_by(point, options).encode())
    return path


def run_point(point: Point, options: argparse.Namespace) -> None:
    """Runs it and keeps its object."""
    launcher = shlex.split(options.launcher.format(ranks=point.ranks))
    command = [*launcher, *point.command(options)]
    path = write_made_by(point, options)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=mpi_environment())
    except OSError as error:
        fail(f"{shlex.join(command)}: cannot be started: {error.strerror} (see --launcher and --program)")
    if done.returncode != 0:
        fail(f"{shlex.join(command)}: status {done.returncode}\n{done.stderr.strip()}", 1)
    with atomic_file(path) as stream:
        stream.write(done.stdout.encode())
    if read_point(path) is None:
        path.unlink()
        fail(f"{shlex.join(command)}: printed no JSON object of version 3", 1)


def job_array(points: Sequence[Point], options: argparse.Namespace) -> str:
    """A Slurm job array: task N runs line N of points.txt."""
    most = max(point.ranks for point in points)
    return f"""#!/usr/bin/env bash
# A scaling study: one point of the grid per task. Change the lines marked with <--, then: sbatch study.sbatch
#SBATCH --job-name=fedspallm-study
#SBATCH --array=1-{len(points)}%1      # <-- points at once after the %
#SBATCH --ntasks={most}
#SBATCH --time=01:00:00                # <--
##SBATCH --partition=NAME              # <-- take one # away
set -euo pipefail
cd "$(dirname "$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')")"
read -r name ranks command < <(sed -n "${{SLURM_ARRAY_TASK_ID}}p" points.txt)
mkdir -p points
[[ -e "points/$name.json" ]] && exit 0
srun --mpi=pmix --ntasks="$ranks" bash -c "exec $command" >"points/$name.json.part"
mv "points/$name.json.part" "points/$name.json"
"""


def write_jobs(points: Sequence[Point], options: argparse.Namespace) -> None:
    """points.txt and study.sbatch for what is not there yet."""
    for point in points:
        write_made_by(point, options)
    lines = [f"{point.name} {point.ranks} {shlex.join(point.command(options))}\n" for point in points]
    for name, text in (("points.txt", "".join(lines)), ("study.sbatch", job_array(points, options))):
        with atomic_file(options.out / name) as stream:
            stream.write(text.encode())


def row_of(point: Point, found: dict[str, Any]) -> dict[str, Any]:
    """One line of study.csv."""
    ranks = found["ranks"]
    row = {
        "clients": point.clients,
        "ranks": point.ranks,
        "way": point.way,
        "model": found["model"],
        "blocks_run": found["blocks_run"],
        "seconds": max(rank["seconds"] for rank in ranks),
        "merge_and_wire_seconds": ranks[0]["merge_and_wire_seconds"],
        "bytes_sent": sum(rank["bytes_sent"] for rank in ranks),
        "bytes_forecast": sum(rank["bytes_forecast"] for rank in ranks),
        "most_bytes_sent": max(rank["bytes_sent"] for rank in ranks),
        "root_bytes_sent": ranks[0]["bytes_sent"],
        "root_peak_rss_bytes": ranks[0]["peak_rss_bytes"],
        "root_peak_merge_bytes": ranks[0]["peak_merge_bytes"],
        "largest_peak_rss_bytes": max(rank["peak_rss_bytes"] for rank in ranks),
        "virtual_seconds": found["virtual"]["seconds"],
        "dropped": len(found["virtual"]["dropped"]),
        "digest": found["digest"],
    }
    for phase in PHASES:
        row[f"{phase}_seconds"] = max(rank[f"{phase}_seconds"] for rank in ranks)
    return row


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """A table with one line of names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as stream:
        stream.write(text.getvalue().encode())


def collect(points: Sequence[Point], out: Path) -> dict[str, list[dict[str, Any]]]:
    """All tables of the points that are there, also as files."""
    tables: dict[str, list[dict[str, Any]]] = {"study": [], "fit": [], "sizes": [], "forecast": []}
    for point in points:
        found = read_point(out / "points" / f"{point.name}.json")
        if found is None:
            continue
        if not point.fits:
            tables["study"].append(row_of(point, found))
            continue
        place = {"way": point.way, "ranks": point.ranks}
        tables["sizes"] += [{**place, **row} for row in found["sizes"]]
        for kind, rows in found.get("forecast", {}).items():
            # One model's forecast names every way; the others' rates were not measured in its run.
            tables["forecast"] += [
                {"kind": kind, "measured_on_ranks": point.ranks, **row} for row in rows if row["way"] == point.way
            ]
    tables["study"] = median_rows(tables["study"])
    tables["fit"] = fit_rows(tables["study"])
    for name, rows in tables.items():
        columns: Sequence[str] = COLUMNS if name == "study" else list(dict.fromkeys(k for row in rows for k in row))
        if rows:
            write_csv(out / f"{name}.csv", columns, rows)
    with atomic_file(out / "study.md") as stream:
        stream.write(study_text(tables).encode())
    return tables


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="configuration with [simulate]")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--clients", type=numbers, default=[4, 16, 64, 256, 1024, 4096])
    parser.add_argument("--ranks", type=numbers, default=[1, 2])
    parser.add_argument("--ways", type=ways, default=list(WAYS), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="of each point of the grid; the median counts")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every point")
    parser.add_argument("--program", default=str(ROOT / "build" / "release" / "fedspallm"))
    parser.add_argument("--launcher", default="mpirun -np {ranks}", help="before the program (default: %(default)s)")
    parser.add_argument("--slurm", action="store_true", help="write study.sbatch and points.txt, run nothing")
    parser.add_argument("--collect", action="store_true", help="run nothing: tables and plots of what is there")
    return parser.parse_args()


def check_options(options: argparse.Namespace) -> None:
    """Refuses what would fail at the first point only, or in the middle of the study."""
    if not options.config.is_file():
        fail(f"{options.config}: no such configuration")
    if options.out.exists() and not options.out.is_dir():
        fail(f"--out {options.out}: is a file, expected a folder for the study")
    try:
        shlex.split(options.launcher.format(ranks=1))
    except (KeyError, IndexError, ValueError) as error:
        fail(f"--launcher {options.launcher!r}: expected words with {{ranks}} in place of the number of ranks: {error!r}")


def main() -> None:
    """Runs, or writes jobs for, what is missing; then tables and plots."""
    options = parse()
    options.config = options.config.resolve()
    check_options(options)
    options.version = version_of(options.program)
    points = grid(options)
    there = [p for p in points if read_point(options.out / "points" / f"{p.name}.json") is not None]
    missing = [p for p in points if not is_current(p, options)]
    other = sum(point in missing for point in there)
    verb = "kept" if options.collect else "to be run again"
    print(
        f"{len(points) - len(missing)} of {len(points)} points are reused"
        + (f"; {other} of another command, configuration or program are {verb}" if other else ""),
        file=sys.stderr,
    )
    if options.slurm:
        write_jobs(missing, options) if missing else print("nothing is missing")
        return
    for number, point in enumerate([] if options.collect else missing, 1):
        print(f"{number} of {len(missing)}: {point.name}", file=sys.stderr)
        run_point(point, options)
    tables = collect(points, options.out)
    if not any(tables.values()):
        fail(f"{options.out}: no point is there", 1)
    for path in [options.out / "study.md", *draw_all(tables, options.out)]:
        print(path)


if __name__ == "__main__":
    main()
