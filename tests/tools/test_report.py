#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tools/report.py on run directories written by hand: the numbers of the input appear, names do not become markup,
and whatever is missing leaves a note instead of an error."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import unittest
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from support import ROOT, in_environment

if __name__ == "__main__":
    in_environment()

import h5py  # noqa: E402
import numpy as np  # noqa: E402

REPORT = ROOT / "tools" / "report.py"

VOID = {"meta", "br"}
HOSTILE = "\"><img src=x onerror=alert(1)><script>alert('&amp;')</script>\x01"
CONFIG = """
[model]
path = "m"
[prune]
method = "{method}"
sparsity = 0.5
pattern = "unstructured"
order = "staged"
[federation]
aggregation = "l0"
mask_expansion = true
rounds = 1
"""


class Page(HTMLParser):
    """What a document says. Fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: list[list[str]] = []  # of every table row
        self.feed(text)
        self.close()
        if self.open:
            raise AssertionError(f"never closed: {self.open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            raise AssertionError(f"</{tag}> closes {self.open[-1:]} at {self.getpos()}")
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.cells[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.words).replace("\N{NO-BREAK SPACE}", " ")

    def row(self, first: str) -> list[str]:
        """The first table row that begins so, without its name."""
        found = next((cells for cells in self.cells if cells and cells[0] == first), None)
        if found is None:
            raise AssertionError(f"no row {first!r} in {self.cells}")
        return [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in found[1:]]


def write_matrix(file: h5py.File, name: str, index: int, dropped: np.ndarray, **more: Any) -> None:
    """A matrix group as block files have it. `dropped` [rows, cols] of bool."""
    group = file.create_group(name)
    kept = int((~dropped).sum())
    group.attrs.update({"rows": dropped.shape[0], "cols": dropped.shape[1], "index": index, "kept": kept,
                        "expanded": more.get("expanded", 0), "pruned": 1, "name": name})  # fmt: skip
    group["mask"] = np.packbits(~dropped.ravel(), bitorder="little")
    if "votes" in more:
        group["histogram"] = np.asarray(more["votes"], dtype=np.int64)


def write_run(folder: Path, clients: list[str], method: str = "sparsegpt", factor: float = 1.0) -> Path:
    """A finished run of two clients and one block of two matrices of 3 x 3 (so that masks have padding)."""
    (folder / "blocks").mkdir(parents=True)
    (folder / "config.toml").write_text(CONFIG.format(method=method))
    perplexity = {
        "news": {"dense": 10.0, "merged": 20.0 * factor, "standalone": {clients[0]: 31.25, clients[1]: 32.5}},
        HOSTILE: {
            "dense": 40.0,
            "merged": 45.0 * factor,
            "standalone": {clients[0]: 51.25, clients[1]: 52.5},
        },
    }
    summary = {
        "format_version": 1, "version": "0.1.0", "run_ranks": "2", "run_host": "hostname-of-the-run",
        "clients": clients, "perplexity": perplexity, "sparsity": 0.5, "bytes_on_wire": 239750073,
        "transport": "gather",
        "peak_rss_bytes": [3 << 20, 5 << 30], "seconds": {"total": 83.0, "pruning": 61.5},
        "warnings": [f"beware {HOSTILE}"],
        "dropped": [{"client": clients[1], "round": 1, "block": 3, "reason": "NaN <here>"}],
        "rank_seconds": [{"forward": 1.25}, {"forward": 2.5}],
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    begin = {"event": "run_started", "monotonic": 100.0}
    work = [
        {
            "event": "client_block",
            "client": name,
            "rank": rank,
            "block": 0,
            "begin": 1.0 + rank,
            "end": 3.0 + rank,
        }
        for rank, name in enumerate(clients)
    ]
    merge = {
        "event": "block",
        "block": 0,
        "rank": 0,
        "monotonic": 105.0,
        "seconds": 5.0,
        "merge_seconds": 0.5,
        "write_seconds": 0.5,
    }
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(event) + "\n" for event in (begin, *work, merge))
    )
    first = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=bool)
    second = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)  # 2 of 6 dropped by both
    with h5py.File(folder / "blocks" / "r01-b0000.h5", "w") as file:
        write_matrix(file, "model.layers.0.mlp.up_proj.weight", 1, first, votes=[3, 4, 2], expanded=2)
        write_matrix(file, "model.layers.0.self_attn.q_proj.weight", 0, first, votes=[5, 0, 4])
    for name, mask in zip(("a", "b"), (first, second)):
        own = folder / "clients" / name
        own.mkdir(parents=True)
        with h5py.File(own / "r01-b0000.h5", "w") as file:
            write_matrix(file, "model.layers.0.mlp.up_proj.weight", 0, mask)
    with h5py.File(folder / "run.h5", "w") as file:
        for name, content in (("provenance", {"model_sha256": "0123abcd"}), ("token_sha256", ["77", "88"]),
                              ("warnings", [f"beware {HOSTILE}", "only in run.h5"])):  # fmt: skip
            file[name] = json.dumps(content)
    return folder


class Report(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="fedspallm-report-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def report(self, *arguments: object, status: int = 0) -> str:
        """The HTML file of these runs; else standard error."""
        out = self.folder / "out.html"
        done = subprocess.run([sys.executable, REPORT, *map(str, arguments), "--out", out],
                              capture_output=True, text=True, check=False)  # fmt: skip
        self.assertEqual(done.returncode, status, done.stderr)
        return out.read_text() if status == 0 else done.stderr

    def page(self, *arguments: object) -> Page:
        return Page(self.report(*arguments))

    def test_the_numbers_of_the_run_appear(self) -> None:
        page = self.page(write_run(self.folder / "run", ["a", "b"]))
        self.assertEqual(page.row("dense"), ["10.00", "40.00", "20.00", "1.00 ×"])
        self.assertEqual(page.row("merged"), ["20.00", "45.00", "30.00", "1.50 ×"])
        mean = f"{math.sqrt(31.25 * 51.25):.2f}"
        self.assertEqual(page.row("stand-alone a"), ["31.25", "51.25", mean, f"{float(mean) / 20:.2f} ×"])
        for expected in ("239,750,073 bytes (229 MiB)", "5 GiB", "hostname-of-the-run", "0123abcd", "1 min 23 s",
                         "only in run.h5", "NaN <here>"):  # fmt: skip
            self.assertIn(expected, page.text)
        self.assertEqual(page.row("rank 1"), ["2.5"])
        self.assertEqual(page.row("tokens of b, SHA-256"), ["88"])

    def test_sparsity_votes_and_overlap(self) -> None:
        page = self.page(write_run(self.folder / "run", ["a", "b"]))
        self.assertEqual(page.row(""), ["self_attn.q_proj", "mlp.up_proj"])  # in the model's order
        self.assertEqual(page.row("block 0"), ["44.444 %", "44.444 %"])  # 4 of 9
        titles = " ".join(str(attributes.get("title")) for _, attributes in page.elements).replace(
            "\N{NO-BREAK SPACE}", " "
        )
        self.assertIn("block 0 mlp.up_proj: 55.56 %", titles)  # all kept 3, all dropped 2, of 9
        self.assertIn("25.00 % of them by mask expansion", page.text)  # 2 of 8
        self.assertIn("22.22 %", page.text)  # one vote of two: 4 of 18 weights
        self.assertIn("All clients agree on 77.78 %", page.text)  # 14 of 18
        self.assertEqual(
            page.row("a"), ["", "33.33 %"]
        )  # 2 of 6; the padding of the packed masks counts nowhere

    def test_names_do_not_become_markup(self) -> None:
        names = [HOSTILE, "</title><b onclick=x>"]
        text = self.report(write_run(self.folder / "run", names))
        page = Page(text)
        allowed = {"html", "head", "meta", "title", "style", "body", "main", "footer", "section", "h1", "h2", "h3", "p",
                   "div", "dl", "dt", "dd", "small", "span", "table", "thead", "tbody", "tr", "th", "td", "strong",
                   "ul",
                   "li", "details", "summary", "pre", "svg", "rect", "title"}  # fmt: skip
        self.assertEqual({tag for tag, _ in page.elements} - allowed, set())
        attributes = {name for _, found in page.elements for name in found}
        self.assertFalse({name for name in attributes if name.startswith("on") or name in ("src", "href")})
        self.assertIn(f"beware {HOSTILE[:-1]}", page.text)
        self.assertNotIn("\x01", text)

    def test_one_file_without_network_or_script(self) -> None:
        text = self.report(write_run(self.folder / "run", ["a", "b"]))
        for word in ("http:", "https:", "url(", "@import", "<script", "<link"):
            self.assertNotIn(word, text.lower())

    def test_what_is_missing_is_said(self) -> None:
        folder = write_run(self.folder / "run", ["a", "b"])
        for name in ("summary.json", "config.toml", "run.h5"):
            (folder / name).unlink()
        (folder / "status.json").write_text(
            json.dumps({"format_version": 1, "state": "running", "phase": "pruning"})
        )
        page = self.page(folder)
        self.assertIn("summary.json is missing", page.text)
        self.assertIn("run.h5 is missing", page.text)
        self.assertIn("running, pruning", page.text)
        self.assertIn("44.4444 % in all", page.text)  # blocks are there
        for name in ("metrics.jsonl", "blocks/r01-b0000.h5"):
            (folder / name).unlink()
        self.assertIn("Nothing to show: no merged blocks", self.page(folder).text)

    def test_damaged_files_are_named(self) -> None:
        folder = write_run(self.folder / "run", ["a", "b"])
        (folder / "blocks" / "r01-b0000.h5").write_bytes(b"no HDF5")
        (folder / "summary.json").write_text("{")
        with open(folder / "metrics.jsonl", "a", encoding="utf-8") as stream:
            stream.write('{"event":"blo')
        page = self.page(folder)
        self.assertIn("r01-b0000.h5", page.text)
        self.assertIn("summary.json cannot be read", page.text)
        self.assertIn("metrics.jsonl: 1 lines are no events", page.text)

    def test_no_run_directory(self) -> None:
        self.assertIn("is no run directory", self.report(self.folder, status=2))

    def test_a_run_that_went_on(self) -> None:
        folder = write_run(self.folder / "run", ["a", "b"])
        late = {"event": "client_block", "client": "b", "rank": 0, "block": 7, "begin": 0.0, "end": 1.0}
        with open(folder / "metrics.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": "run_resumed"}) + "\n" + json.dumps(late) + "\n")
        page = self.page(folder)
        self.assertIn("went on 1 times after a stop", page.text)
        self.assertIn("b, block 7, 1.0 s", page.text)
        self.assertNotIn("a, block 0", page.text)  # an earlier process's clock

    def test_the_last_round_counts(self) -> None:
        folder = write_run(self.folder / "run", ["a", "b"])
        with h5py.File(folder / "blocks" / "r02-b0000.h5", "w") as file:
            write_matrix(
                file, "model.layers.0.mlp.up_proj.weight", 0, np.ones((3, 3), dtype=bool), votes=[0, 0, 9]
            )
        self.assertIn("100.0000 % in all", self.page(folder).text)

    def test_comparison(self) -> None:
        one = write_run(self.folder / "one", ["a", "b"])
        two = write_run(self.folder / "two", ["a", "b"], method="wanda", factor=2)
        page = self.page(one, two)
        self.assertIn("2 runs compared", page.text)
        self.assertEqual(page.row("one")[:5], ["50.00 %", "20.00", "45.00", "30.00", "20.00"])
        self.assertEqual(page.row("two")[:5], ["50.00 %", "40.00", "90.00", "60.00", "20.00"])
        self.assertEqual(page.row("prune.method"), ["sparsegpt", "wanda"])
        self.assertNotIn("prune.sparsity", [cells[0] for cells in page.cells])
        self.assertNotIn("dense models' perplexities differ", page.text)
        summary = json.loads((two / "summary.json").read_text())
        summary["perplexity"]["news"]["dense"] = 11.0
        (two / "summary.json").write_text(json.dumps(summary))
        self.assertIn("dense models' perplexities differ", self.page(one, two).text)

    def test_default_places(self) -> None:
        run = write_run(self.folder / "run", ["a", "b"])
        done = subprocess.run([sys.executable, REPORT, run], capture_output=True, text=True, check=True)
        self.assertEqual(Path(done.stdout.strip()), run / "report.html")
        config = self.folder / "my.toml"
        config.write_text('[run]\ndir = "run"\n')
        done = subprocess.run([sys.executable, REPORT, config], capture_output=True, text=True, check=True)
        self.assertEqual(Path(done.stdout.strip()), run / "report.html")
        self.assertTrue((run / "report.html").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
