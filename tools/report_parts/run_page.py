# SPDX-License-Identifier: Apache-2.0
"""The sections about one run: at a glance, perplexity, wire and memory, warnings, provenance."""

from __future__ import annotations

from typing import Any

from .data import Run, geometric_mean
from .markup import Markup, bar, details, duration, join, note, number, percent, section, size, table, tag
from .masks import agreement, sparsity
from .time_line import time_line


def run_sections(run: Run) -> Markup:
    """Everything about one run."""
    return join(
        [
            glance(run),
            perplexity(run),
            sparsity(run),
            agreement(run),
            time_line(run),
            wire_and_memory(run),
            warnings(run),
            provenance(run),
        ]
    )


def state_of(run: Run) -> str:
    state = str(run.status.get("state", "finished" if "seconds" in run.summary else "not finished"))
    if state == "running":
        state += f", {run.status.get('phase', '')}".rstrip(", ")
    return state


def tile(label: str, value: object, small: object = None) -> Markup:
    return tag("div", tag("dt", label), tag("dd", value, tag("small", small) if small else None))


def glance(run: Run) -> Markup:
    """What one wants to know first, in tiles."""
    prune, federation = run.config.get("prune", {}), run.config.get("federation", {})
    summary, tiles = run.summary, [tile("state", state_of(run), run.status.get("message"))]
    if run.processes > 1:
        tiles[0] = tile("state", state_of(run), f"went on {run.processes - 1} times after a stop")
    if "sparsity" in summary:
        tiles.append(tile("sparsity", percent(summary["sparsity"]), summary.get("sparsity_scope")))
    dense, merged = (geometric_mean(run.perplexities(model)) for model in ("dense", "merged"))
    if merged is not None:
        before = f"dense {number(dense)}, geometric mean of {len(run.sets)} sets"
        tiles.append(tile("perplexity", number(merged), before))
    if run.clients:
        tiles.append(tile("clients", len(run.clients), f"on {summary.get('run_ranks', '?')} ranks"))
    if prune:
        how = f"{prune.get('pattern', '')}, order {prune.get('order', '?')}"
        tiles.append(tile("method", prune.get("method", "?"), how))
    if federation:
        expansion = "with" if federation.get("mask_expansion") else "without"
        how = f"{expansion} mask expansion, rounds: {federation.get('rounds', 1)}"
        tiles.append(tile("merge", federation.get("aggregation", "?"), how))
    seconds = summary.get("seconds", {})
    if "total" in seconds:
        tiles.append(
            tile("time", duration(seconds["total"]), f"pruning {duration(seconds.get('pruning', 0))}")
        )
    if "bytes_on_wire" in summary:
        tiles.append(
            tile("sent", size(summary["bytes_on_wire"]), f"transport {summary.get('transport', '?')}")
        )
    if peaks := summary.get("peak_rss_bytes"):
        tiles.append(tile("peak memory", size(max(peaks)), f"of one rank; all {size(sum(peaks))}"))
    return section("At a glance", tag("dl", *tiles, class_="tiles"))


def perplexity_rows(run: Run) -> list[tuple[str, list[float | None]]]:
    """Dense, each stand-alone client, merged; those that were evaluated."""
    rows = [("dense", run.perplexities("dense"))]
    rows += [(f"stand-alone {name}", run.perplexities("standalone", name)) for name in run.clients]
    rows.append(("merged", run.perplexities("merged")))
    return [(label, values) for label, values in rows if any(value is not None for value in values)]


def perplexity(run: Run) -> Markup:
    """A row a model, a column a set, the geometric mean and its ratio to the dense model's."""
    rows = perplexity_rows(run)
    if not rows:
        return section("Perplexity", note("None: the run has no [[evaluation]], or did not get so far."))
    dense = geometric_mean(run.perplexities("dense"))
    lines, bars = [], []
    means = {label: geometric_mean(values) for label, values in rows}
    largest = max((mean for mean in means.values() if mean is not None), default=0)
    for label, values in rows:
        mean = means[label]
        ratio = f"{mean / dense:.2f} ×" if mean is not None and dense else "–"
        name = tag("strong", label) if label == "merged" else label
        lines.append([name, *(number(value) for value in values), number(mean), ratio])
        if mean is not None:
            bars.append(bar(label, mean, largest, number(mean)))
    return section(
        "Perplexity",
        note("Lower is better. Stand-alone: what this client would have got alone. Merged: the run's model."),
        table(["model", *run.sets, "geo. mean", "to dense"], lines),
        tag("h3", "Geometric mean"),
        *bars,
    )


def wire_and_memory(run: Run) -> Markup:
    """Bytes sent and memory, by rank."""
    summary, parts = run.summary, []
    if "bytes_on_wire" in summary:
        sent = summary["bytes_on_wire"]
        text = f"{sent:,} bytes ({size(sent)}) by transport {summary.get('transport', '?')}"
        weights = sum(one.weights for one in run.matrices)
        rounds = run.config.get("federation", {}).get("rounds", 1)
        sampled = run.config.get("federation", {}).get("layer_sampling", "none") != "none"
        if weights and run.clients and not sampled:
            text += (
                f"; {8 * sent / (weights * len(run.clients) * rounds):.2f} bits for each weight and client "
            )
            text += "(the root's own clients send nothing)"
        parts.append(tag("p", text, "."))
    if "peak_merge_bytes" in summary:
        parts.append(
            tag(
                "p", f"Updates and sums that waited at the root: {size(summary['peak_merge_bytes'])} at most."
            )
        )
    peaks = summary.get("peak_rss_bytes", [])
    if peaks:
        parts.append(tag("h3", "Peak memory of each rank"))
        parts += [bar(f"rank {rank}", peak, max(peaks), size(peak)) for rank, peak in enumerate(peaks[:64])]
        if len(peaks) > 64:
            parts.append(
                note(f"The first 64 of {len(peaks)} ranks; the largest of all is {size(max(peaks))}.")
            )
    return section("Wire and memory", *parts) if parts else Markup("")


def warnings(run: Run) -> Markup:
    """What went other than asked: clients left out, warnings, and what this report lacks."""
    parts: list[object] = []
    dropped = run.summary.get("dropped", [])
    if dropped:
        rows = [[one.get("client"), one.get("round"), one.get("block"), one.get("reason")] for one in dropped]
        parts += [
            tag("h3", "Clients left out"),
            table(["client", "from round", "block", "reason"], rows, words=True),
        ]
    uncovered = [one.block for one in run.matrices if one.votes and len(one.votes) - 1 < len(run.clients)]
    if uncovered and run.config.get("federation", {}).get("layer_sampling", "none") == "none":
        parts.append(note(f"Blocks pruned by fewer clients than the run has: {len(set(uncovered))}."))
    listed = run.summary.get("warnings", [])
    parts.append(
        tag("ul", *(tag("li", text) for text in listed), class_="warnings")
        if listed
        else note("No warnings.")
    )
    if run.notes:
        parts += [tag("h3", "Not in this report"), tag("ul", *(tag("li", text) for text in run.notes))]
    return section("Warnings", *parts)


def provenance(run: Run) -> Markup:
    """Versions, machine, checksums of what was read, and the configuration."""
    facts: dict[str, Any] = {
        name.removeprefix("run_"): value for name, value in run.summary.items() if name.startswith("run_")
    }
    if "version" in run.summary:
        facts["version"] = run.summary["version"]
    facts |= {name: value for name, value in run.provenance.items() if isinstance(value, (str, int, float))}
    model = run.config.get("model", {}).get("path")
    rows = [["model", model]] if model else []
    rows += [[name.replace("_", " "), value] for name, value in sorted(facts.items())]
    for name, digests in zip(run.clients, run.token_sha256):
        shown = ", ".join(map(str, digests)) if isinstance(digests, list) else digests
        rows.append([f"tokens of {name}, SHA-256", shown])
    parts: list[object] = [table(["what", "value"], rows, words=True)]
    if run.config_text:
        parts.append(details("The configuration as resolved", tag("pre", run.config_text)))
    return section("Provenance", *parts)
