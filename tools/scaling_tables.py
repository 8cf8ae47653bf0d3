# SPDX-License-Identifier: Apache-2.0
"""Tables of a scaling study: the line a + b N through the times of a way of merging, and everything for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
Rows = Sequence[Row]
#: Below this many clients what a block takes anyway weighs more than they do.
LEAST_OF_FIT = 16


def by_place(rows: Rows) -> dict[tuple[str, int], list[Row]]:
    """Rows by (way, ranks), each by clients."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["way"], row["ranks"]), []).append(row)
    return {place: sorted(same, key=lambda row: row["clients"]) for place, same in found.items()}


def block_seconds(row: Row) -> float:
    """Merge and wire of one block."""
    return float(row["merge_and_wire_seconds"]) / int(row["blocks_run"])


def median_rows(rows: Rows) -> list[Row]:
    """One row of all repeats of a point: the one of median time, with the least and largest time."""
    repeats: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        repeats.setdefault((row["clients"], row["ranks"], row["way"]), []).append(row)
    result = []
    for same in repeats.values():
        same.sort(key=lambda row: row["merge_and_wire_seconds"])
        times = [row["merge_and_wire_seconds"] for row in same]
        result.append({**same[(len(same) - 1) // 2], "fastest_seconds": times[0], "slowest_seconds": times[-1]})
    return result


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """a and b of a + b x with the least squares of relative errors, as the program fits. At least two different x."""
    weights = [1 / (y * y) for _, y in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points)) / total
    rise = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points))
    b = rise / sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points))
    return mean_y - b * mean_x, b


def fit_rows(study: Rows) -> list[Row]:
    """Of each way and number of ranks: seconds of a block = a + b N over N >= 16, and how constant b is: the least and
    largest slope between sizes that follow each other, and the least and largest time per client."""
    result = []
    for (way, ranks), rows in by_place(study).items():
        sizes = [(float(row["clients"]), block_seconds(row)) for row in rows if row["clients"] >= LEAST_OF_FIT]
        if len(sizes) < 2:
            continue
        a, b = fit_line(sizes)
        slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in zip(sizes, sizes[1:])]
        each = [y / x for x, y in sizes]
        result.append(
            {
                "way": way,
                "ranks": ranks,
                "least_clients": int(sizes[0][0]),
                "most_clients": int(sizes[-1][0]),
                "a": a,
                "b": b,
                "least_slope": min(slopes),
                "largest_slope": max(slopes),
                "spread_of_b": max(max(slopes) / b - 1, 1 - min(slopes) / b),
                "least_per_client": min(each),
                "largest_per_client": max(each),
                "spread_per_client": max(each) / min(each) - 1,
                "worst_error": max(abs((a + b * x) / y - 1) for x, y in sizes),
            }
        )
    return result


def markdown(title: str, columns: Sequence[tuple[str, Callable[[Row], str]]], rows: Rows) -> str:
    """A table with a heading; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [" | ".join(name for name, _ in columns), "|".join("---" for _ in columns)]
    lines += [" | ".join(text(row) for _, text in columns) for row in rows]
    return f"## {title}\n\n" + "".join(f"| {line} |\n" for line in lines) + "\n"


def _ms(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key] * 1e3:.3f}"


def _plain(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _percent(key: str) -> Callable[[Row], str]:
    return lambda row: f"{100 * row[key]:+.1f} %" if key in row else ""


def _mega(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key] * 1e-6:.2f}"


_PLACE = (("way", _plain("way")), ("ranks", _plain("ranks")))


def _grid(study: Rows) -> str:
    """Measured points; efficiency and memory beside the smallest size of the same way and ranks."""
    rows = []
    for same in by_place(study).values():
        first = same[0]
        for row in same:
            each, of_first = block_seconds(row) / row["clients"], block_seconds(first) / first["clients"]
            memory = row["root_peak_rss_bytes"] / first["root_peak_rss_bytes"] - 1
            rows.append({**row, "each": each, "efficiency": of_first / each, "memory": memory})
    columns = (
        *_PLACE,
        ("clients", _plain("clients")),
        ("ms a client and block", _ms("each")),
        ("efficiency", lambda row: f"{100 * row['efficiency']:.1f} %"),
        ("making s", lambda row: f"{row['making_seconds']:.3f}"),
        ("adding s", lambda row: f"{row['adding_seconds']:.3f}"),
        ("finishing s", lambda row: f"{row['finishing_seconds']:.3f}"),
        ("sent MB", _mega("bytes_sent")),
        ("forecast", lambda row: "equal" if row["bytes_sent"] == row["bytes_forecast"] else f"{row['bytes_forecast']}"),
        ("busiest rank MB", _mega("most_bytes_sent")),
        ("root peak MB", _mega("root_peak_rss_bytes")),
        ("beside the smallest", _percent("memory")),
    )
    return markdown("Measured: merge and wire", columns, rows)


def _fit(rows: Rows) -> str:
    columns = (
        *_PLACE,
        ("clients", lambda row: f"{row['least_clients']} to {row['most_clients']}"),
        ("a ms", _ms("a")),
        ("b ms", _ms("b")),
        ("slopes ms", lambda row: f"{row['least_slope'] * 1e3:.3f} to {row['largest_slope'] * 1e3:.3f}"),
        ("farthest from b", lambda row: f"{100 * row['spread_of_b']:.1f} %"),
        ("b within 10 %", lambda row: "yes" if row["spread_of_b"] <= 0.1 else "no"),
        ("a client ms", lambda row: f"{row['least_per_client'] * 1e3:.3f} to {row['largest_per_client'] * 1e3:.3f}"),
        ("worst error of the line", _percent("worst_error")),
    )
    return markdown("Measured: seconds of a block = a + b N", columns, rows)


def _held_out(rows: Rows) -> str:
    columns = (
        *_PLACE,
        ("clients", _plain("clients")),
        ("", lambda row: "held out" if row["held_out"] else "fitted"),
        ("measured ms a block", _ms("seconds_per_block")),
        ("forecast ms", lambda row: f"{row['forecast_seconds_per_block'] * 1e3:.3f}" if "error" in row else ""),
        ("error", _percent("error")),
    )
    return markdown("The performance model beside sizes that it was not fitted to", columns, rows)


def _forecast(rows: Rows) -> str:
    columns = (
        ("scaling", _plain("kind")),
        ("way", _plain("way")),
        ("GPUs", _plain("gpus")),
        ("clients", _plain("clients")),
        ("compute s a block", lambda row: f"{row['compute_seconds_per_block']:.3g}"),
        ("merge s a block", lambda row: f"{row['merge_seconds_per_block']:.3g}"),
        ("round s", lambda row: f"{row['seconds']:.4g}"),
        ("efficiency", lambda row: f"{100 * row['efficiency']:.1f} %"),
    )
    return markdown("FORECAST, not measured: a round on more GPUs than this machine has", columns, rows)


def last_forecast(forecast: Rows) -> list[Row]:
    """Of each way the forecast whose rates were measured on the most ranks."""
    most: dict[str, int] = {}
    for row in forecast:
        most[row["way"]] = max(most.get(row["way"], 0), row["measured_on_ranks"])
    return [row for row in forecast if row["measured_on_ranks"] == most[row["way"]]]


def study_text(tables: dict[str, list[Row]]) -> str:
    """Everything as Markdown, forecasts at the end and named so."""
    text = "# Scaling study\n\n"
    for row in tables["study"][:1]:
        text += f"Model {row['model']}, {row['blocks_run']} blocks run. Times are of the machine that ran the points.\n\n"
    text += _grid(tables["study"]) + _fit(tables["fit"]) + _held_out(tables["sizes"])
    return text + _forecast(last_forecast(tables["forecast"]))
