#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The sources keep to the layout that docs/design.md describes. `--headers`: each public header compiles alone."""

from __future__ import annotations

import re
import subprocess
import sys
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = {".cpp", ".hpp", ".cu", ".cuh", ".h"}
TEXT = CODE | {".py", ".sh", ".sbatch", ".md", ".cmake", ".toml", ".txt", ".in"}
# A folder uses those before it only.
ORDER = ["base", "config", "backend", "model", "data", "wire", "prune", "aggregate", "comm", "store", "report", "app"]
WITHOUT_MPI = {"base", "config", "backend", "model", "data", "wire", "prune", "aggregate", "report"}
LONGEST_FILE = 500
MADE_BY_TOOLS = {"study.md"}


def files(suffixes: set[str], *folders: str) -> Iterator[Path]:
    """Files below these folders of the checkout."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and path.is_file():
                yield path


def module_of(path: Path) -> str:
    """The folder of src/ or include/fedspallm/ that a file is in."""
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "src" else parts[2]


def lines_with(pattern: str, path: Path) -> Iterator[tuple[int, re.Match[str]]]:
    """Matches of a pattern and their lines' numbers."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for match in re.finditer(pattern, line):
            yield number, match


class Sources(unittest.TestCase):
    """What a reader may rely on."""

    def test_folders_use_those_before_them(self) -> None:
        wrong = []
        for path in files(CODE, "src", "include/fedspallm"):
            mine = ORDER.index(module_of(path))
            for number, match in lines_with(r'#include "(?:\.\./)*(?:fedspallm/)?([a-z]+)/[^"]*"', path):
                if match[1] in ORDER and ORDER.index(match[1]) > mine:
                    wrong.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
        self.assertEqual(wrong, [])

    def test_only_comm_and_what_comes_after_it_know_mpi(self) -> None:
        wrong = [
            f"{path.relative_to(ROOT)}:{number}"
            for path in files(CODE, "src", "include/fedspallm")
            if module_of(path) in WITHOUT_MPI
            for number, _ in lines_with(r"#include <mpi\.h>|\bMPI_\w+\(", path)
        ]
        self.assertEqual(wrong, [])

    def test_documents_that_are_named_exist(self) -> None:
        missing = []
        folders = ("docs", "jobs", "tests", "tools")
        known = {path.name for path in [*files({".md"}, *folders), *ROOT.glob("*.md")]} | MADE_BY_TOOLS
        for path in files(TEXT, "src", "include", "tests", "tools", "jobs", "configs", "cmake", "docs"):
            if path.name == "test_tools.py":  # makes files of such names
                continue
            for number, match in lines_with(r"(?<![\w/*{}<>$-])((?:[\w-]+/)*[\w-]+\.md)\b", path):
                named = match[1]
                if Path(named).name not in known or ("/" in named and not (ROOT / named).is_file()
                                                     and not (path.parent / named).is_file()):
                    missing.append(f"{path.relative_to(ROOT)}:{number}: {named}")
        self.assertEqual(missing, [])

    def test_files_are_of_readable_length(self) -> None:
        longer = {
            str(path.relative_to(ROOT)): length
            for path in files(CODE | {".py"}, "src", "include", "tests", "tools")
            if (length := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
        }
        self.assertEqual(longer, {})

    def test_files_name_their_licence(self) -> None:
        without = [
            str(path.relative_to(ROOT))
            for path in files(CODE | {".py", ".sh", ".sbatch", ".cmake", ".toml"},
                              "src", "include", "tests", "tools", "jobs", "configs", "cmake")
            if "SPDX-License-Identifier: Apache-2.0" not in path.read_text(encoding="utf-8")[:400]
        ]
        self.assertEqual(without, [])


class Headers(unittest.TestCase):
    """Slow: some 80 runs of the compiler."""

    def test_each_public_header_compiles_alone(self) -> None:
        def compile_alone(header: Path) -> str:
            command = ["c++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-x", "c++",
                       "-I", str(ROOT / "include"), str(header)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return "" if done.returncode == 0 else f"{header.relative_to(ROOT)}: {done.stderr}"

        with ThreadPoolExecutor(2) as pool:
            faults = [fault for fault in pool.map(compile_alone, files({".hpp"}, "include")) if fault]
        self.assertEqual(faults, [])


if __name__ == "__main__":
    only = "Headers" if "--headers" in sys.argv else "Sources"
    unittest.main(argv=[sys.argv[0], only])
