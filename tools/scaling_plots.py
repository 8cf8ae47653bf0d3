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

from scaling_tables import block_seconds, by_place, last_forecast  # noqa: E402  pylint: disable=wrong-import-position

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PHASES = (("adding", "adding"), ("finishing", "finishing"), ("writing", "writing"), ("making", "making up updates"))

Row = dict[str, Any]
Rows = Sequence[Row]


def _name(way: str, ranks: int) -> str:
    return f"{way}, {ranks} rank{'s' if ranks > 1 else ''}"


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour for each way; a marker for each number of ranks, or for the way where that is all."""
    first = list(dict.fromkeys(name.split(", ")[0] for name in names))
    last = list(dict.fromkeys(name.split(", ")[-1] for name in names))
    return {
        name: {
            "color": COLOURS[first.index(name.split(", ")[0]) % len(COLOURS)],
            "marker": MARKERS[last.index(name.split(", ")[-1]) % len(MARKERS)],
        }
        for name in names
    }


def _places(rows: Rows) -> dict[str, Rows]:
    """Rows by way and ranks."""
    return {_name(way, ranks): same for (way, ranks), same in by_place(rows).items()}


def _save(figure: Any, path: Path) -> Path:
    """A legend beside the axes covers nothing."""
    axes = figure.axes[0]
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)
    return path


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    return figure, axes


def _ticks(axes: Any, values: Sequence[int]) -> None:
    """The numbers themselves on a logarithmic scale, every second one where there are many."""
    shown = sorted(set(values))
    shown = shown[:: 1 + len(shown) // 9]
    axes.set_xscale("log", base=2)
    axes.set_xticks(shown, [f"{value:,}" for value in shown], rotation=30 if shown[-1] > 9999 else 0)
    axes.minorticks_off()


def _lines(
    path: Path, texts: tuple[str, str, str], series: dict[str, Rows], x: str, value: Callable[[Row], float]
) -> Path:
    """One line per series over a logarithmic x. `texts`: title, x, y."""
    figure, axes = _axes(*texts)
    styles = _styles(list(series))
    for name, rows in series.items():
        ordered = sorted(rows, key=lambda row: row[x])
        axes.plot(
            [row[x] for row in ordered], [value(row) for row in ordered], alpha=0.85, label=name, **styles[name]
        )
    _ticks(axes, [row[x] for rows in series.values() for row in rows])
    axes.set_ylim(0, 1.08 * max([value(row) for rows in series.values() for row in rows] + [1e-9]))
    return _save(figure, path)


def _phases(path: Path, rows: Rows, title: str) -> Path:
    """Stacked time per client of the phases."""
    figure, axes = _axes(title, "clients", "ms a client and block, busiest rank")
    ordered = sorted(rows, key=lambda row: row["clients"])
    places = range(len(ordered))
    bottom = [0.0] * len(ordered)
    for number, (phase, name) in enumerate(PHASES):
        heights = [row[f"{phase}_seconds"] / row["clients"] / row["blocks_run"] * 1e3 for row in ordered]
        axes.bar(places, heights, bottom=bottom, color=COLOURS[number], label=name, hatch=("", "//", "..", "xx")[number])
        bottom = [below + height for below, height in zip(bottom, heights)]
    axes.set_xticks(list(places), [f"{row['clients']:,}" for row in ordered])
    return _save(figure, path)


def _measured_and_fitted(path: Path, study: Rows, fits: Rows) -> Path:
    """Seconds of a block over clients, and the line through them."""
    figure, axes = _axes("Measured, and the line a + b N", "clients", "s a block")
    lines = {(row["way"], row["ranks"]): row for row in fits}
    series = [(place, rows) for place, rows in by_place(study).items() if place in lines]
    styles = _styles([_name(*place) for place, _ in series])
    for place, rows in series:
        line, name = lines[place], _name(*place)
        ends = [line["least_clients"], line["most_clients"]]
        label = f"{name}: {line['a'] * 1e3:.2f} ms + N x {line['b'] * 1e3:.3f} ms"
        clients, seconds = [row["clients"] for row in rows], [block_seconds(row) for row in rows]
        axes.plot(clients, seconds, linestyle="none", label=label, **styles[name])
        steps = [ends[0] * (ends[1] / ends[0]) ** (step / 40) for step in range(41)]
        fitted = [line["a"] + line["b"] * step for step in steps]
        axes.plot(steps, fitted, color=styles[name]["color"], alpha=0.6)
    _ticks(axes, [row["clients"] for _, rows in series for row in rows])
    axes.set_yscale("log")
    return _save(figure, path)


def _held_out(path: Path, sizes: Rows) -> Path:
    """What the performance model says of sizes, held out or not, beside what they took."""
    figure, axes = _axes("Error of the performance model", "clients", "forecast / measured - 1, %")
    series = _places([row for row in sizes if "error" in row])
    styles = _styles(list(series))
    for name, rows in series.items():
        for held_out in (False, True):
            chosen = [row for row in rows if row["held_out"] == held_out]
            axes.plot(
                [row["clients"] for row in chosen],
                [100 * row["error"] for row in chosen],
                linestyle="none",
                **styles[name],
                fillstyle="full" if held_out else "none",
                label=f"{name}: {'held out' if held_out else 'fitted'}",
            )
    for limit in (-15, 15):
        axes.axhline(limit, color="grey", linestyle="--", linewidth=1)
    axes.axhline(0, color="grey", linewidth=1)
    _ticks(axes, [row["clients"] for row in sizes])
    return _save(figure, path)


def _each(row: Row) -> float:
    return block_seconds(row) / float(row["clients"])


def _over_clients(study: Rows, out: Path) -> list[Path]:
    series = _places(study)
    smallest = {name: _each(min(rows, key=lambda row: row["clients"])) for name, rows in series.items()}
    relative = {name: [{**row, "beside": smallest[name] / _each(row)} for row in rows] for name, rows in series.items()}

    def sent(row: Row) -> float:
        return float(row["bytes_sent"]) / row["clients"] / row["blocks_run"] * 1e-6

    per_client = "ms a client and block"
    return [
        _lines(out / "time.svg", ("Merge and wire", "clients", per_client), series, "clients", lambda r: _each(r) * 1e3),
        _lines(
            out / "efficiency.svg",
            ("Weak scaling, measured", "clients", "time a client: smallest size / this size"),
            relative,
            "clients",
            lambda row: float(row["beside"]),
        ),
        _lines(
            out / "bytes.svg", ("Bytes sent by all ranks", "clients", "MB a client and block"), series, "clients", sent
        ),
        _lines(
            out / "memory.svg",
            ("Peak memory of rank 0", "clients", "MB resident"),
            series,
            "clients",
            lambda row: float(row["root_peak_rss_bytes"]) * 1e-6,
        ),
    ] + [
        _phases(out / f"phases-{name.replace(', ', '-').replace(' ', '-')}.svg", rows, f"Where the time goes: {name}")
        for name, rows in series.items()
    ]


def _over_ranks(study: Rows, out: Path) -> list[Path]:
    """Of the largest number of clients that every way has, where there are several numbers of ranks."""
    common = set.intersection(*({row["clients"] for row in rows} for rows in by_place(study).values()))
    rows = [row for row in study if row["clients"] == max(common, default=0)]
    if len({row["ranks"] for row in rows}) < 2:
        return []
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(row["way"], []).append(row)
    of = f"{max(common):,} clients"
    plots: tuple[tuple[str, str, str, Callable[[Row], float]], ...] = (
        ("time", f"Merge and wire of {of}", "s a block", block_seconds),
        (
            "bytes",
            f"Bytes sent by the busiest rank, {of}",
            "MB a block",
            lambda row: float(row["most_bytes_sent"]) / row["blocks_run"] * 1e-6,
        ),
        ("memory", f"Peak memory of rank 0, {of}", "MB resident", lambda row: float(row["root_peak_rss_bytes"]) * 1e-6),
    )
    return [_lines(out / f"ranks-{n}.svg", (title, "ranks", y), dict(series), "ranks", v) for n, title, y, v in plots]


def draw_all(tables: dict[str, Any], out: Path) -> list[Path]:
    """Every plot for which there are rows."""
    study = tables["study"]
    paths = _over_clients(study, out) + _over_ranks(study, out) if study else []
    if tables["fit"]:
        paths.append(_measured_and_fitted(out / "fit.svg", study, tables["fit"]))
    if any("error" in row for row in tables["sizes"]):
        paths.append(_held_out(out / "held-out.svg", tables["sizes"]))
    forecast = last_forecast(tables["forecast"])
    for kind in ("strong", "weak"):
        series: dict[str, list[Row]] = {}
        for row in forecast:
            if row["kind"] == kind:
                series.setdefault(row["way"], []).append(row)
        if series:
            path, title = out / f"forecast-{kind}.svg", f"FORECAST, not measured: {kind} scaling"
            paths.append(_lines(path, (title, "GPUs", "efficiency"), dict(series), "gpus", lambda r: r["efficiency"]))
    return paths
