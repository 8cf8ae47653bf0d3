#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Extracts the quickstart's four plain texts from Debian packages unpacked under build/texts.

  novels   Jane Austen's six novels                     (r-cran-janeaustenr, read without R)
  pydoc    Python's documentation, as reStructuredText  (python3.11-doc)
  gcide    a dictionary of English                      (dict-gcide)
  jargon   the Jargon File                              (dict-jargon)

Nothing of them is part of this project: the texts come from the packages each time.
"""

from __future__ import annotations

import argparse
import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import common
from common import fail

STRING_VECTOR = 16
STRING = 9
DEFAULT_SIZE = 3_000_000


class RdbError(ValueError):
    """An .rdb file that is not what this reader knows."""


def rdb_records(data: bytes) -> Iterator[bytes]:
    """Inflates the records of an R lazy-load file: a u32 (big-endian inflated size), a zlib stream."""
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise RdbError(f"{len(data) - position} stray bytes at the end")
        (size,) = struct.unpack_from(">I", data, position)
        stream = zlib.decompressobj()
        try:
            record = stream.decompress(data[position + 4 :])
        except zlib.error as error:
            raise RdbError(f"no zlib stream at byte {position + 4}: {error}") from error
        if not stream.eof or len(record) != size:
            raise RdbError(f"record at byte {position}: {len(record)} bytes, {size} announced")
        yield record
        position = len(data) - len(stream.unused_data)


def string_vector(record: bytes) -> list[str]:
    """A character vector from R's XDR serialisation, version 2 or 3; NA becomes an empty line."""
    if record[:2] != b"X\n":
        raise RdbError("not an XDR serialisation")
    (version,) = struct.unpack_from(">i", record, 2)
    position = 14
    if version == 3:
        (length,) = struct.unpack_from(">i", record, position)
        position += 4 + length
    flags, count = struct.unpack_from(">ii", record, position)
    position += 8
    if flags & 0xFF != STRING_VECTOR:
        raise RdbError(f"object of type {flags & 0xFF}, not a character vector")
    lines = []
    for _ in range(count):
        flags, length = struct.unpack_from(">ii", record, position)
        position += 8
        if flags & 0xFF != STRING:
            raise RdbError(f"element of type {flags & 0xFF}, not a string")
        if length < 0:
            lines.append("")
            continue
        lines.append(record[position : position + length].decode("utf-8", errors="replace"))
        position += length
    return lines


def novels(folder: Path) -> Iterator[str]:
    """The novels, one text each."""
    path = folder / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    try:
        for record in rdb_records(path.read_bytes()):
            yield "\n".join(string_vector(record)) + "\n"
    except RdbError as error:
        fail(f"{path}: {error}")


def pydoc(folder: Path) -> Iterator[str]:
    """The documentation's sources: the library first, then all else, by name."""
    found = sorted(folder.glob("usr/share/doc/python3*/html/_sources"))
    if not found:
        fail(f"no Python documentation under {folder}")
    files = sorted(found[0].rglob("*.rst.txt"), key=lambda path: ("library" not in path.parts, str(path)))
    for path in files:
        yield path.read_text(encoding="utf-8", errors="replace")


def dictionary(name: str) -> Callable[[Path], Iterator[str]]:
    """A reader of one dictd dictionary; .dict.dz files are gzip files."""

    def read(folder: Path) -> Iterator[str]:
        path = folder / f"usr/share/dictd/{name}.dict.dz"
        with gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="\n") as stream:
            while text := stream.read(1 << 20):
                yield text

    return read


DOMAINS: dict[str, Callable[[Path], Iterator[str]]] = {
    "novels": novels,
    "pydoc": pydoc,
    "gcide": dictionary("gcide"),
    "jargon": dictionary("jargon"),
}


def bounded(texts: Iterator[str], size: int) -> str:
    """The first SIZE characters of TEXTS, cut at the end of a line."""
    parts = []
    left = size
    for text in texts:
        parts.append(text[:left])
        left -= len(parts[-1])
        if left <= 0:
            return "".join(parts).rpartition("\n")[0] + "\n"
    return "".join(parts)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for NAME.txt")
    parser.add_argument(
        "--packages", type=Path, default=common.ROOT / "build" / "texts", help="the unpacked packages"
    )
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE, help="characters of each text at most")
    options = parser.parse_args()
    for name, read in DOMAINS.items():
        path = options.out / f"{name}.txt"
        if path.exists():
            print(f"{path} is complete")
            continue
        try:
            text = bounded(read(options.packages), options.size)
        except FileNotFoundError as error:
            fail(f"{error.filename} is missing; run tools/install-dependencies.sh --texts")
        with common.atomic_file(path) as stream:
            stream.write(text.encode())
        print(f"{path}: {len(text.split())} words")


if __name__ == "__main__":
    main()
