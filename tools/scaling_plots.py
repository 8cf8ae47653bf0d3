# SPDX-License-Identifier: Apache-2.0
"""Plots of a scaling study, as SVG: colours that the colour-blind tell apart (Okabe and Ito), and markers besides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "fedspallm"  # the same numbers give the same file

from matplotlib import pyplot  # noqa: E402  pylint: disable=wrong-import-position

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PHASES = (("adding", "adding"), ("finishing", "finishing"), ("writing", "writing"), ("making", "making up updates"))

Rows = Sequence[dict[str, Any]]


def _series(rows: Rows, keys: Sequence[str]) -> dict[str, Rows]:
    """Rows by the text of some columns, in the order in which they come."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(", ".join(f"{row[key]}" + (" ranks" if key == "ranks" else "") for key in keys), []).append(row)
    return dict(found)


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _lines(
    path: Path, title: str, label: str, series: dict[str, Rows], x: str, value: Callable[[dict[str, Any]], float]
) -> Path:
    """One line per series over a logarithmic x."""
    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for number, (name, rows) in enumerate(series.items()):
        ordered = sorted(rows, key=lambda row: row[x])
        axes.plot(
            [row[x] for row in ordered],
            [value(row) for row in ordered],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("GPUs" if x == "gpus" else x)
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def _phases(path: Path, rows: Rows, title: str) -> Path:
    """Stacked time per client of the phases."""
    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    ordered = sorted(rows, key=lambda row: row["clients"])
    places = range(len(ordered))
    bottom = [0.0] * len(ordered)
    for number, (phase, name) in enumerate(PHASES):
        heights = [row[f"{phase}_seconds"] / row["clients"] / row["blocks_run"] * 1e3 for row in ordered]
        axes.bar(places, heights, bottom=bottom, color=COLOURS[number], label=name, hatch=("", "//", "..", "xx")[number])
        bottom = [below + height for below, height in zip(bottom, heights)]
    axes.set_xticks(list(places), [str(row["clients"]) for row in ordered])
    axes.set_xlabel("clients")
    axes.set_ylabel("ms a client and block, busiest rank")
    axes.set_title(title)
    axes.legend()
    return _save(figure, path)


def draw_all(tables: dict[str, Any], out: Path) -> list[Path]:
    """Every plot for which there are rows."""
    study = tables["study"]
    by_way = _series(study, ("transport", "ranks"))
    paths = [
        _lines(
            out / "time.svg",
            "Merge and wire",
            "ms a client and block",
            by_way,
            "clients",
            lambda row: row["merge_and_wire_seconds"] / row["clients"] / row["blocks_run"] * 1e3,
        ),
        _lines(
            out / "bytes.svg",
            "Bytes sent by all ranks",
            "MB a client and block",
            by_way,
            "clients",
            lambda row: row["bytes_sent"] / row["clients"] / row["blocks_run"] * 1e-6,
        ),
        _lines(
            out / "memory.svg",
            "Peak memory of rank 0",
            "MB resident",
            by_way,
            "clients",
            lambda row: row["root_peak_rss_bytes"] * 1e-6,
        ),
    ]
    paths += [
        _phases(out / f"phases-{name.replace(', ', '-').replace(' ', '-')}.svg", rows, f"Where the time goes: {name}")
        for name, rows in by_way.items()
    ]
    for kind in ("strong", "weak"):
        rows = [row for row in tables["forecast"] if row["kind"] == kind]
        if rows:
            first = [row for row in rows if row["point"] == rows[-1]["point"]]
            paths.append(
                _lines(
                    out / f"forecast-{kind}.svg",
                    f"FORECAST, not measured: {kind} scaling",
                    "efficiency",
                    _series(first, ("transport",)),
                    "gpus",
                    lambda row: row["efficiency"],
                )
            )
    return paths
