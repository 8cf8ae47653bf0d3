# SPDX-License-Identifier: Apache-2.0
"""From trials to a report: medians, speed-up, shares of the limit, claims beside their limits; Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

NAMES = {
    "published": "published SparseGPT",
    "staged": "fedspallm staged, exact",
    "block": "fedspallm block, published count",
    "bf16": "fedspallm staged, exact, bf16 products",
}
ROWS = {"forward": "forward", "hessian": "Hessians", "solve": "factorizations and sweeps", "pack": "packing"}
WANTED_SPEED_UP, GOAL_SPEED_UP = 4.0, 5.0
WANTED_SHARE = 0.75
PERPLEXITY_LIMIT, CONTROL_LIMIT, DENSE_LIMIT = 0.005, 0.02, 0.0005
DISTURBED_CORES = 0.1


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    values = list(values)
    return {"median": median(values), "min": min(values), "max": max(values)}


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean of the logarithms."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def phases_of(trial: dict[str, Any]) -> dict[str, float]:
    """A trial's seconds by the phases that both sides have, and their sum."""
    seconds = trial["seconds"]
    result = {phase: seconds[phase] for phase in ("forward", "hessian")}
    result["solve"] = seconds["solve"] if "solve" in seconds else seconds["factorize"] + seconds["prune"]
    result["pack"] = seconds.get("pack", 0.0)
    result["total"] = sum(result.values())
    for part in ("factorize", "prune"):
        if part in seconds:
            result[part] = seconds[part]
    result["wall"] = trial["wall"]
    return result


def side_of(trials: list[dict[str, Any]], needed: float) -> dict[str, Any]:
    """What one side's trials say. The speed of its BLAS is the largest seen: what the machine can give."""
    phases = [phases_of(trial) for trial in trials]
    side: dict[str, Any] = {"seconds": {name: spread(p[name] for p in phases) for name in phases[0]}}
    rates = [trial["sgemm_gflops"] for trial in trials if trial.get("sgemm_gflops")]
    side["sgemm_gflops"] = max(rates, default=None)
    side["useful_gflops"] = needed / side["seconds"]["total"]["median"] / 1e9
    if rates:
        side["seconds_at_sgemm_rate"] = needed / max(rates) / 1e9
        side["share_of_sgemm"] = side["useful_gflops"] / max(rates)
    side["peak_rss_bytes"] = max(trial["peak_rss_bytes"] for trial in trials)
    side["sparsity"] = trials[0]["sparsity"]
    side["perplexity"] = next((trial["perplexity"] for trial in trials if trial.get("perplexity")), {})
    side["dense_perplexity"] = next((t["dense_perplexity"] for t in trials if t.get("dense_perplexity")), {})
    side["trials"] = trials
    return side


def claim(name: str, text: str, limit: str, met: bool | None) -> dict[str, Any]:
    """One claim; `met` is null for what is only stated."""
    return {"claim": name, "measured": text, "limit": limit, "met": met}


def speed_claims(sides: dict[str, Any]) -> list[dict[str, Any]]:
    """Speed-up and share of the sgemm rate."""
    published, ours = sides["published"]["seconds"]["total"], sides["staged"]["seconds"]["total"]
    speed_up = published["median"] / ours["median"]
    bounds = f"{published['min'] / ours['max']:.2f} to {published['max'] / ours['min']:.2f}"
    share = sides["staged"].get("share_of_sgemm")
    if share is None:
        limit, measured = "our sgemm rate is unknown", "not known"
    else:
        most = published["median"] / sides["staged"]["seconds_at_sgemm_rate"]
        limit = f"at the sgemm rate: {most:.2f}"
        measured = f"{100 * share:.1f} %"
    return [
        claim(
            "speed-up",
            f"{speed_up:.2f} ({bounds})",
            f">= {WANTED_SPEED_UP:g}; {limit}",
            speed_up >= WANTED_SPEED_UP,
        ),
        claim(
            "speed-up, goal",
            f"{speed_up:.2f}",
            f">= {GOAL_SPEED_UP:g} where the roofline allows",
            speed_up >= GOAL_SPEED_UP,
        ),
        claim(
            "share of our sgemm rate",
            measured,
            f">= {100 * WANTED_SHARE:g} %; at most 100 %",
            None if share is None else share >= WANTED_SHARE,
        ),
    ]


def difference(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Relative difference of the geometric means over the same files."""
    return geometric_mean(ours[name] for name in theirs) / geometric_mean(theirs.values()) - 1


def perplexity_claims(sides: dict[str, Any]) -> list[dict[str, Any]]:
    """Ours beside theirs, and the two controls: the same mathematics, and the dense model."""
    theirs, result = sides["published"]["perplexity"], []
    if theirs and sides.get("staged", {}).get("perplexity"):
        value = difference(sides["staged"]["perplexity"], theirs)
        text = f"{100 * value:+.3f} %"
        result.append(
            claim(
                "perplexity not worse", text, f"<= +{100 * PERPLEXITY_LIMIT:g} %", value <= PERPLEXITY_LIMIT
            )
        )
    if theirs and sides.get("block", {}).get("perplexity"):
        value = difference(sides["block"]["perplexity"], theirs)
        text, limit = f"{100 * value:+.3f} %", f"within {100 * CONTROL_LIMIT:g} %"
        result.append(
            claim("control: same mathematics, perplexity", text, limit, abs(value) <= CONTROL_LIMIT)
        )
    ours = [side for name, side in sides.items() if name != "published"]
    dense: dict[str, float] = next((s["dense_perplexity"] for s in ours if s["dense_perplexity"]), {})
    if dense and sides["published"]["dense_perplexity"]:
        value = difference(dense, sides["published"]["dense_perplexity"])
        text, limit = f"{100 * value:+.4f} %", f"within {100 * DENSE_LIMIT:g} %"
        result.append(claim("control: dense model, perplexity", text, limit, abs(value) <= DENSE_LIMIT))
    return result


def others_of(sides: dict[str, Any]) -> float:
    """The most cores that other processes kept busy during a trial."""
    return max((trial.get("others", 0.0) for side in sides.values() for trial in side["trials"]), default=0.0)


def claims_of(sides: dict[str, Any]) -> list[dict[str, Any]]:
    """All claims that the measured sides allow; none about speed is met on a disturbed machine."""
    if "published" not in sides:
        return []
    speed = speed_claims(sides) if "staged" in sides else []
    if others_of(sides) > DISTURBED_CORES:
        speed = [{**found, "met": None} for found in speed]
    return speed + perplexity_claims(sides)


def warnings_of(sides: dict[str, Any], cores: int) -> list[str]:
    """What makes the numbers less than a measurement."""
    found = []
    if (others := others_of(sides)) > DISTURBED_CORES:
        found.append(
            f"other processes kept up to {others:.1f} of {cores} cores busy: "
            "indicative numbers, not a measurement"
        )
    fewest = min(len(side["trials"]) for side in sides.values())
    if fewest < 3:
        found.append(f"{fewest} trial(s) of a side: no spread")
    for name, side in sides.items():
        if side["sgemm_gflops"] is None:
            found.append(f"{NAMES[name]}: the speed of its matrix products is unknown, so no share is given")
    return found


def cell(value: dict[str, float] | None, digits: int = 2) -> str:
    """A median with its smallest and largest value."""
    if value is None:
        return ""
    text = f"{value['median']:.{digits}f}"
    if value["min"] == value["max"]:
        return text
    return f"{text} ({value['min']:.{digits}f} to {value['max']:.{digits}f})"


def line(label: str, cells: Iterable[str]) -> str:
    """One row of a Markdown table."""
    return f"| {label} | " + " | ".join(cells) + " |"


def main_table(sides: dict[str, Any]) -> list[str]:
    """Seconds by phase, speed-up, shares, perplexities, memory."""
    columns = list(sides.values())

    def row(label: str, text: Callable[[dict[str, Any]], str]) -> str:
        return line(label, [text(side) for side in columns])

    def seconds(label: str, phase: str) -> str:
        return row(label, lambda side: cell(side["seconds"].get(phase)))

    def number(label: str, key: str, scale: float = 1, digits: int = 1) -> str:
        return row(label, lambda side: "" if side.get(key) is None else f"{scale * side[key]:.{digits}f}")

    lines = [line("", [NAMES[name] for name in sides]), "|---|" + "---:|" * len(sides)]
    lines += [seconds(f"{ROWS[phase]}, s", phase) for phase in ROWS]
    lines += [seconds("of these: factorizations, s", "factorize"), seconds("of these: sweeps, s", "prune")]
    lines += [
        seconds("**sum of the phases, s**", "total"),
        seconds("loop over the blocks, clock on the wall, s", "wall"),
    ]
    if "published" in sides:
        base = sides["published"]["seconds"]["total"]["median"]
        lines.append(row("**speed-up**", lambda side: f"{base / side['seconds']['total']['median']:.2f}"))
    lines += [
        number("sgemm rate of the same run, GFLOP/s", "sgemm_gflops"),
        number("limit: the needed work at that rate, s", "seconds_at_sgemm_rate", digits=2),
        number("needed work a second, GFLOP/s", "useful_gflops"),
        number("**share of the sgemm rate, %**", "share_of_sgemm", scale=100),
    ]
    for name in next((side["perplexity"] for side in columns if side["perplexity"]), {}):
        values = [side["perplexity"].get(name) for side in columns]
        lines.append(line(f"perplexity, {name}", ["" if v is None else f"{v:.4f}" for v in values]))
    lines.append(number("sparsity, %", "sparsity", scale=100, digits=3))
    lines.append(number("peak memory, MB", "peak_rss_bytes", scale=1e-6, digits=0))
    return lines


def work_table(report: dict[str, Any]) -> list[str]:
    """Work and speed by phase: where each side loses against the sgemm rate."""
    sides = report["sides"]
    work = {key: by_row(report["work"][key]) for key in ("needed", "performed_by_published")}
    header = ["needed, TFLOP", "performed by the published code, TFLOP"]
    header += [f"{NAMES[name]}: needed GFLOP/s (share of its sgemm rate)" for name in sides]
    lines = [line("phase", header), "|---|" + "---:|" * len(header)]
    for phase in ("forward", "hessian", "solve", "total"):
        cells = [f"{work[key][phase] / 1e12:.3f}" for key in work]
        for side in sides.values():
            rate = work["needed"][phase] / max(side["seconds"][phase]["median"], 1e-9) / 1e9
            share = f" ({100 * rate / side['sgemm_gflops']:.0f} %)" if side["sgemm_gflops"] else ""
            cells.append(f"{rate:.1f}{share}")
        lines.append(line(ROWS.get(phase, "sum of the phases"), cells))
    return lines


def by_row(work: dict[str, float]) -> dict[str, float]:
    """FLOP by the table's rows."""
    solve = work["factorize"] + work["sweep"]
    total = work["forward"] + work["hessian"] + solve
    return {"forward": work["forward"], "hessian": work["hessian"], "solve": solve, "total": total}


def markdown(report: dict[str, Any]) -> str:
    """The whole report as text."""
    machine, settings = report["machine"], report["settings"]
    lines = [
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB, {machine['system']}, {machine['date']}.",
        f"{settings['model']}, {settings['samples']} x {settings['length']} tokens of {settings['tokens']}, "
        f"sparsity {settings['sparsity']:g}; medians (smallest to largest) of {settings['repeats']} trials, "
        "sides in turn.",
    ]
    lines += [f"{name}: {text}." for name, text in report["versions"].items() if text]
    lines += ["", *main_table(report["sides"]), "", *work_table(report)]
    if report["claims"]:
        lines += ["", line("claim", ["measured", "limit", "met"]), "|---|---:|---:|---|"]
        met = {True: "yes", False: "NO", None: "unknown"}
        lines += [line(c["claim"], [c["measured"], c["limit"], met[c["met"]]]) for c in report["claims"]]
    if report["warnings"]:
        lines += ["", *(f"Warning: {text}." for text in report["warnings"])]
    return "\n".join(lines)
