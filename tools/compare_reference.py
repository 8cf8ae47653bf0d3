#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the perplexities of a run beside those of the reference run, as a Markdown table.

mean4 is the geometric mean over the four clients' domains. Exit status 1 when a limit is exceeded:
dense 0.05 %; of each model mean4 1.5 %, its own domain 2 %, any other cell 5 %. Rounding alone makes the
masks of deep blocks diverge; --floor shows how far, from runs that differ in nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
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


def floor_lines(rows: list[Table], reference: Table) -> list[str]:
    """What rounding alone does: mean4 of equal runs that add in other orders, and the reference among them."""
    lines = [
        "| model, mean4 | runs | lowest | mean | highest | standard deviation | reference | deviations off |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for model in reference:
        values = [row[model]["mean4"] for row in rows if "mean4" in row.get(model, {})]
        if model == "dense" or len(values) < 2:
            continue
        mean, deviation, own = statistics.mean(values), statistics.stdev(values), reference[model]["mean4"]
        # The reference is one more draw; the mean is of len(values) draws.
        off = (own - mean) / (deviation * math.sqrt(1 + 1 / len(values))) if deviation > 0 else math.inf
        lines.append(
            f"| {model} | {len(values)} | {min(values):.2f} | {mean:.2f} | {max(values):.2f} | "
            f"{100 * deviation / mean:.2f} % | {own:.2f} ({100 * (own / mean - 1):+.2f} %) | {off:+.1f} |"
        )
    return lines


def read_row(text: str) -> Table:
    """A table from "SUMMARY" or "SUMMARY=NAME OF THE MERGED MODEL"."""
    path, _, name = text.partition("=")
    return run_table(json.loads(Path(path).read_text()), name or "fedspallm")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="results.json of the reference run")
    parser.add_argument(
        "summaries",
        nargs="+",
        metavar="SUMMARY[=NAME]",
        help="summary.json of a run; NAME is the reference's name of its merged model: fedspallm "
        "(default), fedspallm_noexpand, fedavg, central, magnitude",
    )
    parser.add_argument(
        "--floor",
        nargs="*",
        default=[],
        metavar="SUMMARY[=NAME]",
        help="the same runs with other orders of summation (FEDSPALLM_ISA): shows what rounding alone does",
    )
    options = parser.parse_args()
    reference = json.loads(options.results.read_text())["perplexity"]
    rows = [read_row(text) for text in options.summaries]
    ours: Table = {model: cells for row in rows for model, cells in row.items()}
    lines, misses = compare(ours, reference)
    print("Perplexity, this run / reference (relative difference)\n")
    print("\n".join(lines))
    if options.floor:
        print("\nRounding alone: equal runs that differ in the order of summation only\n")
        print("\n".join(floor_lines(rows + [read_row(text) for text in options.floor], reference)))
    for miss in misses:
        print(f"beyond the limit: {miss}", file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
