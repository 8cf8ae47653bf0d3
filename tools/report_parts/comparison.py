# SPDX-License-Identifier: Apache-2.0
"""The sections that set several runs side by side."""

from __future__ import annotations

from typing import Any

from .data import Run, geometric_mean
from .markup import Markup, bar, duration, join, note, number, percent, section, size, table, tag


def names_of(runs: list[Run]) -> list[str]:
    """The folders' names; with their parents where two are the same."""
    short = [run.name for run in runs]
    return [
        name if short.count(name) == 1 else f"{run.folder.parent.name}/{name}"
        for name, run in zip(short, runs)
    ]


def common_sets(runs: list[Run]) -> list[str]:
    """Evaluation sets that all runs with a result have."""
    with_result = [run for run in runs if run.sets]
    return [
        name
        for name in (with_result[0].sets if with_result else [])
        if all(name in run.sets for run in with_result)
    ]


def of_sets(run: Run, model: str, sets: list[str]) -> list[float | None]:
    found = dict(zip(run.sets, run.perplexities(model)))
    return [found.get(name) for name in sets]


def comparison(runs: list[Run]) -> Markup:
    """Perplexities, costs and the settings that differ."""
    return join([quality(runs), costs(runs), settings(runs)])


def quality(runs: list[Run]) -> Markup:
    names, sets = names_of(runs), common_sets(runs)
    if not sets:
        return section("Perplexity", note("The runs have no evaluation set in common."))
    rows, means = [], {}
    for name, run in zip(names, runs):
        values = of_sets(run, "merged", sets)
        means[name] = geometric_mean(values)
        dense = geometric_mean(of_sets(run, "dense", sets))
        mean = means[name]
        ratio = f"{mean / dense:.2f} ×" if mean is not None and dense else "–"
        sparsity = percent(run.summary.get("sparsity"))
        rows.append(
            [name, sparsity, *(number(value) for value in values), number(mean), number(dense), ratio]
        )
    known = {name: mean for name, mean in means.items() if mean is not None}
    dense_values = {tuple(of_sets(run, "dense", sets)) for run in runs if run.sets}
    parts: list[object] = [
        note("Of the merged models, on the sets that all runs have. Lower is better."),
        table(["run", "sparsity", *sets, "geo. mean", "dense", "to dense"], rows),
        *(bar(name, mean, max(known.values()), number(mean)) for name, mean in known.items()),
    ]
    if len(dense_values) > 1:
        parts.append(tag("p", tag("strong", "The dense models' perplexities differ: "),
                         "these runs are not of the same model and texts, compare the last column."))  # fmt: skip
    return section("Perplexity", *parts)


def costs(runs: list[Run]) -> Markup:
    rows = []
    for name, run in zip(names_of(runs), runs):
        summary, seconds = run.summary, run.summary.get("seconds", {})
        peaks = summary.get("peak_rss_bytes") or [0]
        sent = summary.get("bytes_on_wire")
        rows.append(
            [
                name,
                len(run.clients),
                summary.get("run_ranks", "–"),
                duration(seconds["pruning"]) if "pruning" in seconds else "–",
                duration(seconds["total"]) if "total" in seconds else "–",
                size(sent) if sent is not None else "–",
                summary.get("transport", "–"),
                size(max(peaks)) if max(peaks) else "–",
                len(summary.get("warnings", [])) + len(summary.get("dropped", [])),
            ]
        )
    head = ["run", "clients", "ranks", "pruning", "total", "sent", "transport", "peak of a rank", "warnings"]
    return section("Cost", table(head, rows))


def flat(config: dict[str, Any]) -> dict[str, str]:
    """Settings by their dotted names; the tables of clients and sets by number."""
    found = {}
    for part, content in config.items():
        if isinstance(content, list):
            found[f"{part}s"] = str(len(content))
        elif isinstance(content, dict):
            found |= {
                f"{part}.{key}": str(value).lower() if isinstance(value, bool) else str(value)
                for key, value in content.items()
            }
    found.pop("run.dir", None)
    return found


def settings(runs: list[Run]) -> Markup:
    """The keys of the resolved configurations whose values are not the same everywhere."""
    configs = [flat(run.config) for run in runs]
    keys = sorted({key for config in configs for key in config})
    rows = []
    for key in keys:
        values = [config.get(key, "–") for config in configs]
        if len(set(values)) > 1:
            rows.append([key, *values])
    if not rows:
        return section("Settings that differ", note("None but the run directory."))
    return section("Settings that differ", table(["key", *names_of(runs)], rows, words=True))
