# SPDX-License-Identifier: Apache-2.0
"""A run directory as the report needs it. Whatever is missing is missing in the report, with a note why; nothing is
recomputed here but counts of mask bits."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import h5py
    import numpy as np
except ImportError:  # without the Python environment the report has no masks
    h5py = None

FORMAT_VERSION = 1
MATRIX_FILES_LIMIT = 64 << 20  # bytes of masks read for each client; more blocks than that are sampled
OVERLAP_CLIENTS = 12
TIME_LINE_RANKS = 64


class BadRun(Exception):
    """A folder that is no run directory."""


@dataclass
class MatrixCounts:
    """What happened to one matrix in the last round."""

    block: int
    kind: str  # the name without its block, e.g. "mlp.up_proj"
    weights: int
    dropped: int
    expanded: int  # of them by mask expansion
    votes: list[int]  # weights by the number of clients that dropped them; empty where nobody voted


@dataclass
class Overlap:
    """How alike the clients' masks are: |A and B| / |A or B| of the dropped weights."""

    clients: list[str]
    shares: list[list[float]]
    blocks: list[int]  # the blocks that were looked at
    of_blocks: int


@dataclass
class Run:
    """One run directory, read."""

    folder: Path
    summary: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)  # of the last process
    processes: int = 0  # 1, and one more for each time that the run went on
    matrices: list[MatrixCounts] = field(default_factory=list)
    overlap: Overlap | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    token_sha256: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the report lacks, and why

    @property
    def name(self) -> str:
        return self.folder.name or str(self.folder)

    @property
    def sets(self) -> list[str]:
        """Names of the evaluation sets, in the config's order where it is known."""
        known = list(self.summary.get("perplexity", {}))
        asked = [one.get("name") for one in self.config.get("evaluation", [])]
        return [name for name in asked if name in known] + [name for name in known if name not in asked]

    @property
    def clients(self) -> list[str]:
        names = self.summary.get("clients") or [one.get("name", "?") for one in self.config.get("client", [])]
        return [str(name) for name in names]

    def perplexities(self, model: str, client: str = "") -> list[float | None]:
        """Of "dense", "merged" or "standalone" with a client's name, one a set."""
        found = []
        for name in self.sets:
            cell = self.summary["perplexity"][name]
            value = cell.get("standalone", {}).get(client) if model == "standalone" else cell.get(model)
            found.append(value if isinstance(value, (int, float)) else None)
        return found


def geometric_mean(values: list[float | None]) -> float | None:
    """None where a value is missing, or has no logarithm."""
    if not values or any(value is None or not value > 0 or math.isinf(value) for value in values):
        return None
    return math.exp(sum(math.log(value) for value in values if value is not None) / len(values))


def read_run(folder: Path) -> Run:
    """Reads what there is. @throws BadRun where there is nothing of a run."""
    run = Run(folder)
    if not any(
        (folder / name).exists() for name in ("summary.json", "metrics.jsonl", "run.h5", "status.json")
    ):
        raise BadRun(
            f"{folder} is no run directory: it has no summary.json, metrics.jsonl, run.h5 or status.json"
        )
    run.summary = read_json(run, "summary.json", "the run has not finished: no perplexities, times or memory")
    run.status = read_json(run, "status.json", "")
    read_config(run)
    read_events(run)
    if h5py is None:
        run.notes.append("no masks: h5py is missing; tools/install-dependencies.sh --python brings it")
        return run
    for step in (read_run_file, read_blocks, read_overlap):
        try:
            step(run)
        except OSError as error:
            run.notes.append(str(error))
    return run


def read_json(run: Run, name: str, absent: str) -> dict[str, Any]:
    """A JSON object of the run directory; {} and a note where there is none."""
    try:
        content = json.loads((run.folder / name).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        if absent:
            run.notes.append(f"{name} is missing: {absent}")
        return {}
    except (OSError, ValueError) as error:
        run.notes.append(f"{name} cannot be read: {error}")
        return {}
    if not isinstance(content, dict):
        run.notes.append(f"{name} holds no JSON object")
        return {}
    if content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        run.notes.append(
            f"{name} has format_version {content['format_version']}; this report knows {FORMAT_VERSION}"
        )
    return content


def read_config(run: Run) -> None:
    try:
        run.config_text = (run.folder / "config.toml").read_text(encoding="utf-8", errors="replace")
        run.config = tomllib.loads(run.config_text)
    except (OSError, tomllib.TOMLDecodeError) as error:
        run.notes.append(f"config.toml: {error}")


def read_events(run: Run) -> None:
    """metrics.jsonl: a process that goes on where another one stopped begins its clock again, so the time line is the
    last process's."""
    try:
        text = (run.folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        run.notes.append(f"no time line: {error}")
        return
    damaged = 0
    for line in text.splitlines():
        try:
            event = json.loads(line)
            name = event["event"]
        except (ValueError, TypeError, KeyError):
            damaged += 1
            continue
        if name in ("run_started", "run_resumed"):
            run.processes = 1 if name == "run_started" else run.processes + 1
            run.events = []
        run.events.append(event)
    if damaged:
        run.notes.append(f"metrics.jsonl: {damaged} lines are no events (a run that was killed leaves one)")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file to read. @throws OSError naming the file, whatever is wrong with it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise OSError(f"{path.name} cannot be read: {error}") from error


def stored_json(file: Any, name: str) -> Any:
    """A dataset of run.h5 that holds JSON."""
    value = file[name][()]
    return json.loads(value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value)


def read_run_file(run: Run) -> None:
    path = run.folder / "run.h5"
    if not path.exists():
        run.notes.append("run.h5 is missing: no provenance")
        return
    with opened(path) as file:
        run.provenance = stored_json(file, "provenance")
        run.token_sha256 = stored_json(file, "token_sha256")
        for warning in stored_json(file, "warnings"):  # those of the clients left out among them
            if warning not in run.summary.setdefault("warnings", []):
                run.summary["warnings"].append(warning)


def last_round(folder: Path) -> dict[int, Path]:
    """The block files of each block's last round."""
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("r*-b*.h5")):  # by round, then block
        found[int(path.stem.split("-b")[1])] = path
    return dict(sorted(found.items()))


def kind_of(name: str, block: int) -> str:
    """model.layers.7.mlp.up_proj.weight of block 7 -> mlp.up_proj"""
    _, found, rest = name.partition(f".{block}.")
    return (rest if found else name).removesuffix(".weight")


def text_of(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def read_blocks(run: Run) -> None:
    """The counts of each matrix; the masks themselves stay on disk. A damaged block leaves a gap."""
    for block, path in last_round(run.folder / "blocks").items():
        try:
            with opened(path) as file:
                groups = sorted(file.values(), key=lambda group: int(group.attrs["index"]))
                run.matrices += [counts_of(group, block) for group in groups]
        except OSError as error:
            run.notes.append(str(error))


def counts_of(group: Any, block: int) -> MatrixCounts:
    """One matrix of a block file."""
    weights = int(group.attrs["rows"]) * int(group.attrs["cols"])
    votes = [int(count) for count in group["histogram"][()]] if "histogram" in group else []
    return MatrixCounts(
        block=block,
        kind=kind_of(text_of(group.attrs["name"]), block),
        weights=weights,
        dropped=weights - int(group.attrs["kept"]) if int(group.attrs["pruned"]) else 0,
        expanded=int(group.attrs["expanded"]),
        votes=votes if sum(votes) == weights else [],
    )


def read_overlap(run: Run) -> None:
    """Compares the clients' own masks, where run.keep_clients left them, two by two."""
    folders = {name: run.folder / "clients" / name for name in run.clients}
    files = {name: last_round(folder) for name, folder in folders.items() if folder.is_dir()}
    names = [name for name in run.clients if files.get(name)][:OVERLAP_CLIENTS]
    if len(names) < 2:
        return
    if len(files) > len(names):
        run.notes.append(f"overlap of masks: the first {len(names)} of {len(files)} clients")
    common = sorted(set.intersection(*(set(files[name]) for name in names)))
    if not common:
        run.notes.append("overlap of masks: no block was pruned by all clients")
        return
    first_size = sum(len(mask) for mask in masks(files[names[0]][common[0]]).values())
    step = max(1, -(-first_size * len(common) // MATRIX_FILES_LIMIT))
    blocks = common[::step]
    ones = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.int64)
    both = np.zeros((len(names), len(names)), dtype=np.int64)
    either = np.zeros_like(both)
    for block in blocks:
        packed = [masks(files[name][block]) for name in names]
        for matrix in set.intersection(*(set(one) for one in packed)):
            kept = [one[matrix] for one in packed]
            size = packed[0][matrix].size * 8  # padding bits are kept by nobody: taken out below
            for i, mine in enumerate(kept):
                for j in range(i + 1):
                    neither = size - int(ones[mine | kept[j]].sum())
                    any_of = size - int(ones[mine & kept[j]].sum())
                    both[i, j] += neither
                    either[i, j] += any_of
    padding = padding_of(files[names[0]], blocks)
    both, either = both - padding, either - padding
    shares = [
        [
            float(both[max(i, j), min(i, j)]) / max(1, int(either[max(i, j), min(i, j)]))
            for j in range(len(names))
        ]
        for i in range(len(names))
    ]
    run.overlap = Overlap(names, shares, blocks, len(common))


def masks(path: Path) -> dict[str, Any]:
    """Each matrix's mask, packed as it is stored: bit 1 = kept, bits beyond the last weight are 0."""
    with opened(path) as file:
        return {
            name: group["mask"][()].view(np.uint8).ravel() for name, group in file.items() if "mask" in group
        }


def padding_of(files: dict[int, Path], blocks: list[int]) -> int:
    """Bits beyond the last weight in the masks of these blocks."""
    total = 0
    for block in blocks:
        with opened(files[block]) as file:
            for group in file.values():
                if "mask" in group:
                    stored = group["mask"].size * group["mask"].dtype.itemsize * 8
                    total += stored - int(group.attrs["rows"]) * int(group.attrs["cols"])
    return total
