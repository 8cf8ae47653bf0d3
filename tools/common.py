# SPDX-License-Identifier: Apache-2.0
"""What the tools share: their environment, errors, safe file writing, safetensors files."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

if TYPE_CHECKING:
    import numpy

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("FEDSPALLM_VENV", ROOT / "build" / "venv"))
BAD_INPUT = 2


def fail(message: str, status: int = BAD_INPUT) -> NoReturn:
    """Ends the program with one message on standard error."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(status)


def mpi_environment() -> dict[str, str]:
    """This process' environment, in which Open MPI starts as root, too, as tools/mpi-environment.sh has it."""
    names = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM") if os.geteuid() == 0 else ()
    silent = {"PMIX_MCA_pcompress_base_silence_warning": "1"}
    return {**os.environ, **silent, **dict.fromkeys(names, "1")}


def enter_venv(venv: Path = VENV, hint: str = "tools/install-dependencies.sh --python") -> None:
    """Goes on inside the project's Python environment, or says how to make it."""
    python = venv / "bin" / "python"
    if Path(sys.prefix).resolve() == venv.resolve():
        return
    if not (venv / ".complete").exists():
        fail(f"the Python environment {venv} is missing or incomplete; make it with: {hint}")
    os.execv(python, [str(python), *sys.argv])


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens PATH.part for writing; on success it is synced and renamed to PATH."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any, sort: bool = False) -> None:
    """Writes JSON the way Hugging Face tools do: two spaces, a final line feed."""
    with atomic_file(path) as stream:
        text = json.dumps(value, indent=2, sort_keys=sort, ensure_ascii=False)
        stream.write((text + "\n").encode())


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class TensorSource:
    """One tensor to write: its place in the header, and a function that makes its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    length: int
    data: Callable[[], bytes]


def write_safetensors(path: Path, tensors: Sequence[TensorSource]) -> None:
    """Writes one safetensors file, holding one tensor at a time in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.length],
        }
        offset += tensor.length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for tensor in tensors:
            data = tensor.data()
            if len(data) != tensor.length:
                raise ValueError(f"{tensor.name}: {len(data)} bytes made, {tensor.length} announced")
            stream.write(data)


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file without its metadata; ValueError where the file is torn."""
    with open(path, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > 100_000_000:
            raise ValueError(f"{path}: header of {size} bytes")
        header: dict[str, Any] = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if path.stat().st_size != 8 + size + end:
        raise ValueError(f"{path}: {path.stat().st_size} bytes found, {8 + size + end} expected")
    return header


def shard_files(model: Path) -> list[Path]:
    """The weight files of a Hugging Face model directory, by its index where it has one."""
    index = model / "model.safetensors.index.json"
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
        return [model / name for name in sorted(names)]
    return [model / "model.safetensors"]


def to_bfloat16(values: numpy.ndarray) -> numpy.ndarray:
    """float32 to the bits of bfloat16 (uint16), rounding to the nearest even value."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
    nan = np.isnan(values)
    return np.where(nan, np.uint16(0x7FC0), rounded.astype("<u2")).astype("<u2")
