# SPDX-License-Identifier: Apache-2.0
"""Pieces of HTML. Every text that is not Markup is escaped when it enters a tag, so names from a run directory cannot
become markup."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

# Okabe and Ito: told apart with any colour vision.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
LIGHT, DARK = (239, 245, 252), (8, 48, 107)  # the ends of the heat maps' scale: light to dark also in grey
CONTROL = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(9), 11, 12, *range(14, 32), *range(127, 160))
}
VOID = ("meta", "br")


class Markup(str):
    """Text that is HTML already."""


def escaped(value: object) -> str:
    """Any text as HTML text or as an attribute's value."""
    return value if isinstance(value, Markup) else html.escape(str(value).translate(CONTROL), quote=True)


def join(parts: Iterable[object]) -> Markup:
    return Markup("".join(escaped(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """<name ...>children</name>; `class_` and `aria_label` are written class and aria-label, None leaves out."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{words}>")
    return Markup(f"<{name}{words}>{join(children)}</{name}>")


def section(title: str, *children: object) -> Markup:
    return tag("section", tag("h2", title), *children)


def table(head: Sequence[object], rows: Iterable[Sequence[object]], words: bool = False) -> Markup:
    """The first column is text, the others are numbers, or `words`. Wide ones scroll inside their own box."""
    lines = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(cell if is_cell(cell) else tag("td", cell) for cell in row[1:]),
        )
        for row in rows
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
            tag("tbody", *lines),
            class_="words" if words else None,
        ),
        class_="scroll",
        tabindex="0",
    )


def is_cell(value: object) -> bool:
    return isinstance(value, Markup) and value.startswith("<td")


def details(summary: str, *children: object) -> Markup:
    return tag("details", tag("summary", summary), *children)


def note(*children: object) -> Markup:
    return tag("p", *children, class_="note")


def scale(share: float) -> tuple[str, str]:
    """Background and text colour of a heat map's cell, 0 to 1."""
    share = min(1.0, max(0.0, share))
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(LIGHT, DARK))
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if share > 0.5 else "#1a1a1a"


def bar(label: str, value: float, largest: float, text: str) -> Markup:
    """One line of a bar chart; the text stands beside the bar, so colour tells nothing alone."""
    width = 100 * value / largest if largest > 0 and math.isfinite(value) else 0
    filled = tag("span", class_="fill", style=f"width:{width:.2f}%")
    return tag(
        "div",
        tag("span", label, class_="label"),
        tag("span", filled, class_="track"),
        tag("span", text, class_="value"),
        class_="bar",
    )


def number(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if math.isfinite(value) else str(value)


def percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.2f} TiB"


def clock(seconds: float) -> str:
    """A short label of a time axis."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
