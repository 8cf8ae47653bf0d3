#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the perplexities of a run beside those of the reference run, as a Markdown table.

mean4 is the geometric mean over the four clients' domains. Exit status 1 when a limit is exceeded:
dense 0.05 %; of each model mean4 1.5 %, its own domain 2 %, any other cell 5 %.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

DOMAINS = ("austen", "pydoc", "gcide", "jargon")
DENSE_LIMIT, MEAN_LIMIT, OWN_LIMIT, CELL_LIMIT = 0.0005, 0.015, 0.02, 0.05
Table = dict[str, dict[str, float]]


def geometric_mean(values: list[float]) -> float:
    """exp of the mean of the logarithms."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def run_table(summary: dict[str, Any], merged: str) -> Table:
    """summary.json's perplexities by the reference's names of models; MERGED names the merged one."""
    table: Table = {}
    for domain, cell in summary["perplexity"].items():
        if cell.get("dense") is not None:
            table.setdefault("dense", {})[domain] = cell["dense"]
        for client, value in cell.get("standalone", {}).items():
            table.setdefault(f"standalone_{client}", {})[domain] = value
        if cell.get("merged") is not None:
            table.setdefault(merged, {})[domain] = cell["merged"]
    for row in table.values():
        if all(domain in row for domain in DOMAINS):
            row["mean4"] = geometric_mean([row[domain] for domain in DOMAINS])
    return table


def limit(model: str, column: str) -> float:
    """The largest relative difference allowed."""
    if model == "dense":
        return DENSE_LIMIT
    if column == "mean4":
        return MEAN_LIMIT
    return OWN_LIMIT if model == f"standalone_{column}" else CELL_LIMIT


def compare(ours: Table, reference: Table) -> tuple[list[str], list[str]]:
    """The table's lines, and a line for each limit that is exceeded."""
    columns = [c for c in next(iter(reference.values())) if c != "sparsity"]
    lines = ["| model | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    misses = []
    for model, row in ours.items():
        if model not in reference:
            continue
        cells = []
        for column in columns:
            if column not in row or column not in reference[model]:
                cells.append("")
                continue
            difference = row[column] / reference[model][column] - 1
            cells.append(f"{row[column]:.4f} / {reference[model][column]:.4f} ({100 * difference:+.2f} %)")
            if abs(difference) > limit(model, column):
                allowed = 100 * limit(model, column)
                misses.append(f"{model}, {column}: {100 * difference:+.2f} % (allowed {allowed:g} %)")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return lines, misses


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("summary", type=Path, help="summary.json of a run")
    parser.add_argument("results", type=Path, help="results.json of the reference run")
    parser.add_argument(
        "--merged",
        default="fedspallm",
        help="the reference's name of the run's merged model: fedspallm (default), fedspallm_noexpand, "
        "fedavg, central, magnitude",
    )
    options = parser.parse_args()
    ours = run_table(json.loads(options.summary.read_text()), options.merged)
    reference = json.loads(options.results.read_text())["perplexity"]
    lines, misses = compare(ours, reference)
    print("Perplexity, this run / reference (relative difference)\n")
    print("\n".join(lines))
    for miss in misses:
        print(f"beyond the limit: {miss}", file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
