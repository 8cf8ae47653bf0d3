# SPDX-License-Identifier: Apache-2.0
"""The sections about masks: sparsity of each matrix, and how far the clients agreed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .data import MatrixCounts, Run
from .markup import Markup, bar, details, note, percent, scale, section, table, tag

Share = Callable[[list[MatrixCounts]], "float | None"]


def kinds_of(matrices: list[MatrixCounts]) -> list[str]:
    """Matrix types in the order of the model."""
    return list(dict.fromkeys(one.kind for one in matrices))


def by_cell(matrices: Iterable[MatrixCounts]) -> dict[tuple[str, int], MatrixCounts]:
    return {(one.kind, one.block): one for one in matrices}


def dropped_share(matrices: list[MatrixCounts]) -> float | None:
    weights = sum(one.weights for one in matrices)
    return sum(one.dropped for one in matrices) / weights if weights else None


def agreed_share(matrices: list[MatrixCounts]) -> float | None:
    """Weights that all clients kept, or all dropped."""
    voted = [one for one in matrices if len(one.votes) > 2]
    weights = sum(one.weights for one in voted)
    return sum(one.votes[0] + one.votes[-1] for one in voted) / weights if weights else None


def heat_map(matrices: list[MatrixCounts], share: Share, low: float, high: float, what: str) -> Markup:
    """A row a matrix type, a column a block."""
    cells, kinds, blocks = by_cell(matrices), kinds_of(matrices), sorted({one.block for one in matrices})
    parts = []
    for kind in kinds:
        parts.append(tag("span", kind, class_="name"))
        for block in blocks:
            one = cells.get((kind, block))
            value = share([one]) if one else None
            title = f"block {block} {kind}: {percent(value)}"
            if value is None:
                parts.append(tag("span", class_="cell empty", title=f"block {block} {kind}: not pruned"))
                continue
            colour, _ = scale((value - low) / (high - low) if high > low else 0.5)
            parts.append(tag("span", class_="cell", style=f"background:{colour}", title=title))
    parts.append(tag("span", "block", class_="name"))
    step = max(1, -(-len(blocks) // 8))
    parts += [tag("span", block if i % step == 0 else "", class_="tick") for i, block in enumerate(blocks)]
    columns = f"grid-template-columns:minmax(5rem,max-content) repeat({len(blocks)},minmax(0,1fr))"
    ramp = f"background:linear-gradient(90deg,{scale(0)[0]},{scale(1)[0]})"
    ends = [tag("span", percent(value, 1)) for value in (low, high)]
    bar_of_colours = tag("span", class_="ramp", style=ramp)
    legend = tag("div", ends[0], bar_of_colours, ends[1], tag("span", what), class_="legend")
    grid = tag(
        "div",
        *parts,
        class_="heat",
        style=columns,
        role="img",
        aria_label=f"{what}, by block and matrix type",
    )
    return Markup(grid + legend)


def cell_table(matrices: list[MatrixCounts], share: Share, digits: int) -> Markup:
    """The numbers of a heat map."""
    cells, kinds = by_cell(matrices), kinds_of(matrices)
    rows = []
    for block in sorted({one.block for one in matrices}):
        found = [cells.get((kind, block)) for kind in kinds]
        rows.append([f"block {block}", *(percent(share([one]), digits) if one else "–" for one in found)])
    rows.append(
        ["all", *(percent(share([one for one in matrices if one.kind == kind]), digits) for kind in kinds)]
    )
    return table(["", *kinds], rows)


def sparsity(run: Run) -> Markup:
    """Dropped weights by block and matrix type."""
    if not run.matrices:
        why = (
            "no merged blocks"
            if run.config.get("federation", {}).get("aggregation") != "none"
            else "clients stand alone"
        )
        return section("Sparsity", note(f"Nothing to show: {why}."))
    values = [one.dropped / one.weights for one in run.matrices if one.weights]
    expanded = sum(one.expanded for one in run.matrices) / max(1, sum(one.dropped for one in run.matrices))
    return section(
        "Sparsity",
        note(
            f"Dropped weights of the pruned matrices: {percent(dropped_share(run.matrices), 4)} in all, "
            f"{percent(min(values), 4)} to {percent(max(values), 4)} of a matrix. "
            f"{percent(expanded)} of them by mask expansion, because some client had kept them."
        ),
        heat_map(run.matrices, dropped_share, 0.0, 1.0, "dropped"),
        details("The numbers", cell_table(run.matrices, dropped_share, 3)),
    )


def pooled_votes(matrices: list[MatrixCounts]) -> dict[int, list[int]]:
    """Vote histograms, added up over the matrices with the same number of voting clients."""
    pooled: dict[int, list[int]] = {}
    for one in matrices:
        if len(one.votes) > 2:
            total = pooled.setdefault(len(one.votes) - 1, [0] * len(one.votes))
            for level, count in enumerate(one.votes):
                total[level] += count
    return dict(sorted(pooled.items()))


def agreement(run: Run) -> Markup:
    """Votes, by level and by matrix; overlap of the masks of each two clients."""
    parts: list[object] = []
    for clients, votes in pooled_votes(run.matrices).items():
        total = sum(votes)
        share = sum(level * count for level, count in enumerate(votes)) / (clients * total)
        chance = share**clients + (1 - share) ** clients
        parts.append(tag("h3", f"Votes to drop a weight, of {clients} clients"))
        parts += [
            bar(f"{level} of {clients}", count / total, max(votes) / total, percent(count / total))
            for level, count in enumerate(votes)
        ]
        agreed = (votes[0] + votes[-1]) / total
        parts.append(
            note(
                f"All clients agree on {percent(agreed)} of these weights; masks drawn at random with the same "
                f"sparsity would agree on {percent(chance)}."
            )
        )
    voted = [one for one in run.matrices if len(one.votes) > 2]
    if voted:
        shares = [value for one in voted if (value := agreed_share([one])) is not None]
        low, high = min(shares), max(shares)
        parts += [
            tag("h3", "Where all clients agree"),
            heat_map(voted, agreed_share, low, high, "of the weights kept by all or dropped by all"),
            details("The numbers", cell_table(voted, agreed_share, 2)),
        ]
    if run.overlap:
        parts += overlap(run)
    elif run.summary:
        parts.append(
            note(
                "Overlap of each two clients' masks: only with run.keep_clients = true and two clients or more."
            )
        )
    return section("Agreement of the clients' masks", *parts)


def overlap(run: Run) -> list[object]:
    """Of the weights that either client drops, the share that both drop."""
    assert run.overlap is not None
    names, shares = run.overlap.clients, run.overlap.shares
    others = [value for i, row in enumerate(shares) for j, value in enumerate(row) if i != j]
    low, high = min(others), max(others)
    rows = []
    for i, name in enumerate(names):
        cells: list[object] = []
        for j, value in enumerate(shares[i]):
            if i == j:
                cells.append("")
                continue
            back, text = scale((value - low) / (high - low) if high > low else 0.5)
            cells.append(tag("td", percent(value), style=f"background:{back};color:{text}"))
        rows.append([name, *cells])
    looked = len(run.overlap.blocks)
    of = "all" if looked == run.overlap.of_blocks else f"{looked} of"
    return [
        tag("h3", "Overlap of two clients' masks"),
        note(
            "Of the weights that either of two clients drops, the share that both drop; "
            f"{of} {run.overlap.of_blocks} blocks."
        ),
        table(["", *names], rows),
    ]
