#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes one HTML file of one run, or of several beside each other.

The file needs no network, no script and nothing beside it. It is made from what a run leaves: summary.json,
metrics.jsonl, config.toml, status.json, run.h5 with blocks/, and clients/ where run.keep_clients is true. What is
missing is said under Warnings. A run that goes on can be looked at, too. A config file stands for its run directory.
"""

from __future__ import annotations

import argparse
import datetime
import tomllib
from pathlib import Path

from common import VENV, atomic_file, enter_venv, fail

if __name__ == "__main__" and (VENV / ".complete").exists():
    enter_venv()  # for h5py; without it the report has no masks

# pylint: disable=wrong-import-position
from report_parts.comparison import comparison, names_of  # noqa: E402
from report_parts.data import BadRun, Run, read_run  # noqa: E402
from report_parts.markup import Markup, details, note, tag  # noqa: E402
from report_parts.run_page import run_sections  # noqa: E402

STYLE = Path(__file__).resolve().parent / "report_parts" / "style.css"


def page(title: str, *content: object) -> str:
    """A whole document."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    body = tag("body", tag("main", *content), tag("footer", f"Made by tools/report.py on {now}."))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def report(runs: list[Run]) -> str:
    """The document about one run, or a comparison with each run's own part folded below it."""
    if len(runs) == 1:
        run = runs[0]
        lead = note(f"fedspallm {run.summary.get('version', '')}, {run.folder}")
        return page(f"fedspallm run {run.name}", tag("h1", f"Run {run.name}"), lead, run_sections(run))
    folded = [details(f"Run {name}", run_sections(run)) for name, run in zip(names_of(runs), runs)]
    return page(
        f"fedspallm: {len(runs)} runs compared",
        tag("h1", f"{len(runs)} runs compared"),
        comparison(runs),
        tag("section", tag("h2", "Each run"), *folded),
    )


def run_directory(path: Path) -> Path:
    """A run directory, or the one that a config file names."""
    if path.suffix != ".toml":
        return path.resolve()
    try:
        named = tomllib.loads(path.read_text(encoding="utf-8"))["run"]["dir"]
        return (path.parent / str(named)).resolve()
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{path} names no run directory: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples: tools/report.py runs/quickstart\n"
               "          tools/report.py runs/half runs/more --out sweep.html",
    )  # fmt: skip
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directory ([run] dir), or its config"
    )
    parser.add_argument(
        "--out", type=Path, help="file to write; one run: RUN/report.html, several: comparison.html"
    )
    options = parser.parse_args()
    folders = [run_directory(path) for path in options.runs]
    out = options.out or (folders[0] / "report.html" if len(folders) == 1 else Path("comparison.html"))
    try:
        runs = [read_run(folder) for folder in folders]
    except BadRun as error:
        fail(str(error))
    try:
        with atomic_file(out) as stream:
            stream.write(report(runs).encode("utf-8", errors="replace"))
    except OSError as error:
        fail(f"{out} cannot be written: {error}", status=4)
    print(out)


if __name__ == "__main__":
    main()
