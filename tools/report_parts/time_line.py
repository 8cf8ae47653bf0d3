# SPDX-License-Identifier: Apache-2.0
"""The section about time: what each rank did when, and what it spent its time on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .data import TIME_LINE_RANKS, Run
from .markup import PALETTE, Markup, clock, details, duration, note, number, percent, section, table, tag

WIDTH = 1000  # of a lane, in its own units
FINEST = WIDTH / 1500  # two bars closer than that are drawn as one
PHASES = (
    "forward", "hessian", "factorize", "prune", "pack", "saving_states", "merging", "waiting", "writing_blocks",
    "writing_model",
)  # fmt: skip
SHARES = ("compute", "wire", "waiting", "disk", "other")


@dataclass
class Bar:
    """A stretch of time on a lane, in seconds."""

    begin: float
    end: float
    colour: str
    title: str


def seconds(event: dict[str, Any], name: str) -> float:
    value = event.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0


def lane(label: str, bars: list[Bar], total: float) -> Markup:
    """One row of the chart; neighbours too close to be told apart become one bar."""
    drawn: list[Bar] = []
    finest = total * FINEST / WIDTH
    for one in sorted(bars, key=lambda item: item.begin):
        if (
            drawn
            and one.begin - drawn[-1].end < finest
            and min(one.end - one.begin, drawn[-1].end - drawn[-1].begin) < finest
        ):
            last = drawn[-1]
            title = last.title if last.title.endswith("…") else f"{last.title} …"
            drawn[-1] = Bar(last.begin, max(last.end, one.end), last.colour, title)
        else:
            drawn.append(one)
    shapes = [
        tag(
            "rect",
            tag("title", one.title),
            x=f"{WIDTH * one.begin / total:.2f}",
            y="1",
            width=f"{max(0.5, WIDTH * (one.end - one.begin) / total):.2f}",
            height="18",
            fill=one.colour,
        )
        for one in drawn
    ]
    picture = tag("svg", *shapes, viewBox=f"0 0 {WIDTH} 20", preserveAspectRatio="none", role="img",
                  aria_label=f"{label}: {len(bars)} stretches of work")  # fmt: skip
    return tag("div", tag("span", label), picture, class_="lane")


def client_bars(run: Run, colours: dict[str, str]) -> dict[int, list[Bar]]:
    """The clients' blocks, by rank."""
    ranks: dict[int, list[Bar]] = {}
    for event in run.events:
        if event.get("event") == "client_block" and "begin" in event and "end" in event:
            client = str(event.get("client", "?"))
            title = f"{client}, block {event.get('block')}, {duration(seconds(event, 'end') - seconds(event, 'begin'))}"
            one = Bar(seconds(event, "begin"), seconds(event, "end"), colours.get(client, "#777777"), title)
            ranks.setdefault(int(event.get("rank", 0)), []).append(one)
    return dict(sorted(ranks.items()))


def merge_bars(run: Run) -> dict[int, list[Bar]]:
    """What each rank that writes blocks did with them: merging and writing, which ends at the event."""
    ranks: dict[int, list[Bar]] = {}
    for event in run.events:
        if event.get("event") == "block" and "seconds" in event:
            end, work = seconds(event, "seconds"), seconds(event, "merge_seconds") + seconds(
                event, "write_seconds"
            )
            title = f"block {event.get('block')} merged and written"
            one = Bar(max(0.0, end - work), end, "#1a1a1a", title)
            ranks.setdefault(int(event.get("rank", 0)), []).append(one)
    return dict(sorted(ranks.items()))


def evaluation_marks(run: Run, total: float) -> list[Bar]:
    """When perplexities were known. The clock of `monotonic` is set against that of `seconds` by a block."""
    offsets = [
        event["monotonic"] - event["seconds"]
        for event in run.events
        if event.get("event") in ("block", "run_finished") and "seconds" in event and "monotonic" in event
    ]
    if not offsets:
        return []
    marks = {}
    for event in run.events:
        if event.get("event") == "evaluation" and "monotonic" in event:
            at = min(seconds(event, "monotonic") - offsets[0], total * 299 / 300)
            name = str(event.get("model"))
            marks[name] = Bar(max(0.0, at), at + total / 300, "#a33b00", f"{name} evaluated")
    return list(marks.values())


def time_line(run: Run) -> Markup:
    """A lane a rank, one for each that merges and writes; then seconds and shares by rank."""
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(run.clients)}
    ranks, merging = client_bars(run, colours), merge_bars(run)
    ends = [one.end for bars in (*ranks.values(), *merging.values()) for one in bars]
    parts: list[object] = []
    if ends:
        total = max(*ends, seconds(run.summary.get("seconds", {}), "total"), 1e-9)
        parts += [lane(f"rank {rank}", bars, total) for rank, bars in list(ranks.items())[:TIME_LINE_RANKS]]
        for rank, bars in list(merging.items())[:TIME_LINE_RANKS]:
            label = "merge, write" if len(merging) == 1 else f"merge, write {rank}"
            parts.append(lane(label, bars, total))
        if marks := evaluation_marks(run, total):
            parts.append(lane("evaluated", marks, total))
        ticks = [tag("span", clock(total * part / 4) if part else "0") for part in range(5)]
        parts.append(tag("div", tag("span"), tag("div", *ticks, class_="axis"), class_="lane"))
        parts.append(legend(colours))
        if len(ranks) > TIME_LINE_RANKS:
            parts.append(note(f"The first {TIME_LINE_RANKS} of {len(ranks)} ranks."))
        if run.processes > 1:
            parts.append(note("The run went on after a stop; this is its last process."))
    parts += spent(run)
    return section("Time", *parts) if parts else Markup("")


def legend(colours: dict[str, str]) -> Markup:
    """Which colour is which client's; beyond the palette the bars' titles tell."""
    shown = list(colours.items())[: len(PALETTE)]
    entries = [
        tag("span", tag("span", class_="swatch", style=f"background:{colour}"), name)
        for name, colour in shown
    ]
    if len(colours) > len(PALETTE):
        entries.append(tag("span", f"… colours repeat for the other {len(colours) - len(PALETTE)} clients"))
    return tag("div", *entries, class_="legend")


def spent(run: Run) -> list[object]:
    """Tables: seconds of the whole by phase, of each rank by kind of work, shares of each rank's time."""
    parts: list[object] = []
    whole = {
        name: value
        for name, value in run.summary.get("seconds", {}).items()
        if isinstance(value, (int, float))
    }
    if whole:
        rows = [[name, number(value, 1)] for name, value in sorted(whole.items(), key=lambda item: -item[1])]
        parts += [tag("h3", "Seconds of the run"), table(["phase", "seconds"], rows)]
    by_rank = run.summary.get("rank_seconds", [])[:TIME_LINE_RANKS]
    if by_rank:
        names = [name for name in PHASES if any(name in one for one in by_rank)]
        rows = [[f"rank {i}", *(number(one.get(name), 1) for name in names)] for i, one in enumerate(by_rank)]
        parts.append(
            details("Seconds of each rank", table(["", *(name.replace("_", " ") for name in names)], rows))
        )
    shares = [one for one in run.summary.get("time_shares", [])[:TIME_LINE_RANKS] if one]
    if shares:
        rows = [
            [f"rank {i}", *(percent(one.get(name), 1) for name in SHARES)] for i, one in enumerate(shares)
        ]
        parts.append(details("Shares of each rank's pruning time", table(["", *SHARES], rows)))
    return parts
