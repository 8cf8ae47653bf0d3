#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns text into a token file for fedspallm, with the model's own tokenizer.

Takes .txt, .jsonl, .jsonl.gz and .jsonl.zst files (key "text" of each line) or folders of them, and
writes HDF5: the dataset `tokens` and the attributes vocab_size, tokenizer_sha256, source,
format_version. No special tokens are added, and text that looks like one stays text. Memory is bounded:
files are read in pieces that are cut where the tokens are the same as those of the uncut text.

Where OUT is a folder, or ends in '/', the file in it is named after the first input: OUT/NAME.h5.
With --test-fraction or --test-tokens the end of the text becomes OUT-test.h5. Files that are there are left as
they are if the same input (by content) and options made them (attribute made_from), and written again otherwise.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import common
from common import fail

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

FORMAT_VERSION = 1
PIECE = 1 << 20
BATCH = 1 << 22
SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True)
class TokenFileInfo:
    """What a token file says of itself."""

    vocab_size: int
    tokenizer_sha256: str
    source: str
    made_from: str


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number from 1")
    return int(text)


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", nargs="+", type=Path, help="text files or folders of them")
    parser.add_argument("--model", required=True, type=Path, help="model directory with tokenizer.json")
    parser.add_argument("--out", required=True, help="token file to write (NAME.h5), or a folder for it")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--test-fraction", type=float, help="share of the tokens for NAME-test.h5")
    split.add_argument("--test-tokens", type=int, help="number of tokens for NAME-test.h5")
    parser.add_argument("--max-tokens", type=positive, help="stop after this many tokens")
    parser.add_argument("--source", help="the attribute `source` (default: the names of the inputs)")
    parser.add_argument("--force", action="store_true", help="write again what is complete")
    return parser.parse_args()


def input_files(paths: Iterable[Path]) -> list[Path]:
    """The text files that PATHS mean, folders expanded and sorted by name."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
            if not inside:
                fail(f"{path}: no file ending in {', '.join(SUFFIXES)}")
            files += inside
        elif not path.is_file():
            fail(f"no such file: {path}")
        elif not path.name.endswith(SUFFIXES):
            fail(f"{path}: unknown kind of file (known: {', '.join(SUFFIXES)})")
        else:
            files.append(path)
    return files


def output_file(out: str, first: Path) -> Path:
    """The token file that --out means: itself, or in that folder one named after the first input."""
    if not (out.endswith("/") or Path(out).is_dir()):
        return Path(out)
    name = first.resolve().name
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix) and first.is_file()), "")
    return Path(out, name.removesuffix(suffix) + ".h5")


def cut_position(text: str) -> int:
    """Where TEXT may be cut: after the last line end that has no white space beside it.

    Byte-level BPE never joins characters across such a place, so the pieces' tokens are the whole's.
    """
    position = len(text) - 1
    while (position := text.rfind("\n", 1, position)) > 0:
        if not text[position - 1].isspace() and not text[position + 1].isspace():
            return position + 1
    return len(text)


def text_pieces(stream: TextIO) -> Iterator[str]:
    """A text file in pieces of about PIECE characters."""
    rest = ""
    while more := stream.read(PIECE):
        rest += more
        cut = cut_position(rest)
        if cut < len(rest):
            yield rest[:cut]
            rest = rest[cut:]
        elif len(rest) >= 8 * PIECE:
            yield rest
            rest = ""
    if rest:
        yield rest


def jsonl_texts(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """The key "text" of each line of a JSON Lines file."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            fail(f'{path}:{number}: expected an object with the key "text": {error!r}')
        if not isinstance(text, str):
            fail(f'{path}:{number}: "text" is a {type(text).__name__}, not a string')
        yield text


def open_text(path: Path) -> TextIO:
    """Opens a possibly compressed file as UTF-8; broken bytes are an error with a place."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    if path.suffix == ".zst":
        import zstandard

        reader: BinaryIO = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), closefd=True)
        return io.TextIOWrapper(reader, encoding="utf-8", newline="")
    return open(path, encoding="utf-8", newline="")


def documents(files: Iterable[Path]) -> Iterator[str]:
    """All texts of all files, in order."""
    for path in files:
        try:
            with open_text(path) as stream:
                yield from text_pieces(stream) if path.suffix == ".txt" else jsonl_texts(path, stream)
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            fail(f"{path}: not readable as UTF-8 text: {error}")


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Groups texts to about BATCH characters."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode_to(
    stream: BinaryIO, texts: Iterable[str], tokenizer: Tokenizer, dtype: np.dtype, limit: int | None
) -> int:
    """Writes the texts' token ids to STREAM; returns how many there are."""
    import numpy as np

    written = 0
    for batch in batches(texts):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            ids = np.asarray(encoding.ids, dtype=dtype)
            if limit is not None:
                ids = ids[: limit - written]
            stream.write(ids.tobytes())
            written += len(ids)
        if limit is not None and written >= limit:
            break
    return written


def write_token_file(path: Path, tokens: np.ndarray, info: TokenFileInfo) -> None:
    """Writes one token file; it appears under its name only when it is complete."""
    import h5py

    with common.atomic_file(path) as stream, h5py.File(stream, "w") as file:
        file.create_dataset("tokens", data=tokens)
        file.attrs["vocab_size"] = info.vocab_size
        file.attrs["tokenizer_sha256"] = info.tokenizer_sha256
        file.attrs["source"] = info.source
        file.attrs["made_from"] = info.made_from
        file.attrs["format_version"] = FORMAT_VERSION


def is_complete(path: Path, info: TokenFileInfo) -> bool:
    """Whether PATH is a token file of this tokenizer, input and options."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            known = (file.attrs["tokenizer_sha256"], file.attrs["made_from"])
            return "tokens" in file and known == (info.tokenizer_sha256, info.made_from)
    except (OSError, KeyError):
        return False


def recipe(options: argparse.Namespace, files: Iterable[Path], source: str) -> str:
    """One SHA-256 of all that decides the token files but the tokenizer."""
    kinds = [next(suffix for suffix in SUFFIXES if path.name.endswith(suffix)) for path in files]
    inputs = [[kind, common.sha256_file(path)] for kind, path in zip(kinds, files, strict=True)]
    chosen = [options.test_fraction, options.test_tokens, options.max_tokens, source]
    return hashlib.sha256(json.dumps([inputs, chosen]).encode()).hexdigest()


def test_count(total: int, fraction: float | None, tokens: int | None) -> int:
    """How many tokens at the end are for the test file."""
    if fraction is not None:
        tokens = round(total * fraction)
    if tokens is None:
        return 0
    if not 0 < tokens < total:
        fail(f"the test part would have {tokens} of {total} tokens: one of the files would be empty")
    return tokens


def load_tokenizer(model: Path) -> tuple[Tokenizer, int, str]:
    """The model's tokenizer, the model's vocabulary size, and the tokenizer file's SHA-256."""
    from tokenizers import Tokenizer

    path = model / "tokenizer.json"
    if not path.is_file():
        fail(f"{path} is missing: --model takes a Hugging Face model directory with a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more special
        fail(f"{path}: not a tokenizer that the package tokenizers reads: {error}")
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocab_size = tokenizer.get_vocab_size()
    if (model / "config.json").is_file():
        try:
            vocab_size = int(json.loads((model / "config.json").read_text()).get("vocab_size", vocab_size))
        except (ValueError, AttributeError, TypeError) as error:
            fail(f"{model / 'config.json'}: expected an object with a number as vocab_size: {error!r}")
    return tokenizer, vocab_size, common.sha256_file(path)


def write(options: argparse.Namespace, test: Path | None, files: list[Path], loaded: tuple[Tokenizer, TokenFileInfo]) -> None:
    """Writes --out and, where one is asked for, the test file."""
    import numpy as np

    (tokenizer, info), out = loaded, options.out
    dtype = np.dtype("<u2") if info.vocab_size <= 65536 else np.dtype("<i4")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent) as stream:
        total = encode_to(stream, documents(files), tokenizer, dtype, options.max_tokens)
        if total == 0:
            fail("the input holds no text")
        stream.flush()
        tokens = np.memmap(stream, dtype=dtype, mode="r", shape=(total,))
        kept = total - test_count(total, options.test_fraction, options.test_tokens)
        if test:
            write_token_file(test, tokens[kept:], info)
        write_token_file(out, tokens[:kept], info)
    print(f"{out}: {kept} tokens" + (f"; {test}: {total - kept} tokens" if test else ""))


def main() -> None:
    """Entry point."""
    options = arguments()
    common.enter_venv()
    files = input_files(options.text)
    tokenizer, vocab_size, digest = load_tokenizer(options.model)
    out = options.out = output_file(options.out, options.text[0])
    wants_test = options.test_fraction is not None or options.test_tokens is not None
    test = out.with_name(f"{out.stem}-test{out.suffix}") if wants_test else None
    source = options.source or ", ".join(path.name for path in options.text)
    try:
        info = TokenFileInfo(vocab_size, digest, source, recipe(options, files, source))
        outputs = [path for path in (out, test) if path]
        if not options.force and all(is_complete(path, info) for path in outputs):
            print(f"{out} is complete")
            return
        if not options.force and any(path.exists() for path in outputs):
            print(f"{out}: is not there as a whole, or of other input or options; writing it again")
        write(options, test, files, (tokenizer, info))
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror or error}")


if __name__ == "__main__":
    main()
