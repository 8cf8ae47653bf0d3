# SPDX-License-Identifier: Apache-2.0
"""The run file read with h5py, and the merge as rulings 4 to 7 state it, in numpy and float64. Nothing here was
taken from the program's code but the layout of the file (src/store/block_file.hpp)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

Blocks = dict[tuple[int, int], dict[str, "Matrix"]]  # (round, block) -> tensor name -> matrix


@dataclass
class Matrix:
    """One matrix of a block file."""

    name: str
    pruned: bool
    dtype: str
    keep: int
    group: int
    target: int
    expanded: int
    common_zeros: int
    kept_zeros: int
    mask: np.ndarray = field(repr=False)  # bool [rows, cols]; True = kept
    values: np.ndarray = field(repr=False)  # float64 [rows, cols], 0 where dropped
    votes: np.ndarray | None = field(repr=False)
    histogram: np.ndarray | None = field(repr=False)
    clients: list[int] = field(repr=False)

    @property
    def dropped(self) -> int:
        return int(self.mask.size - self.mask.sum())

    @property
    def zeros(self) -> int:
        return int((self.values == 0).sum())


def stored_values(dataset: h5py.Dataset, dtype: str) -> np.ndarray:
    """The kept values, widened exactly."""
    bits: np.ndarray = dataset[()]
    if dtype == "bfloat16":
        return (bits.astype("<u4") << 16).view("<f4").astype(np.float64)
    if dtype == "float16":
        return bits.view("<f2").astype(np.float64)
    return bits.astype(np.float64)


def read_matrix(group: h5py.Group) -> Matrix:
    attributes = group.attrs
    shape = (int(attributes["rows"]), int(attributes["cols"]))
    dtype = attributes["dtype"] if isinstance(attributes["dtype"], str) else attributes["dtype"].decode()
    name = attributes["name"] if isinstance(attributes["name"], str) else attributes["name"].decode()
    mask, values = np.ones(shape, bool), np.zeros(shape)
    if attributes["pruned"]:
        bits = np.unpackbits(group["mask"][()].view(np.uint8), bitorder="little")
        size = shape[0] * shape[1]
        assert not bits[size:].any(), f"{name}: bits behind the last weight"
        mask = bits[:size].astype(bool).reshape(shape)
        values[mask] = stored_values(group["values"], dtype)  # refuses another count than the mask's
        assert int(attributes["kept"]) == int(mask.sum()), name
    return Matrix(
        name,
        bool(attributes["pruned"]),
        dtype,
        int(attributes["N"]),
        int(attributes["M"]),
        int(attributes["target"]),
        int(attributes["expanded"]),
        int(attributes["common_zeros"]),
        int(attributes["kept_zeros"]),
        mask,
        values,
        group["votes"][()] if "votes" in group else None,
        group["histogram"][()] if "histogram" in group else None,
        [int(client) for client in group["clients/client"][()]],
    )


def read_blocks(link_file: Path) -> Blocks:
    """Every block that run.h5 or clients/NAME.h5 links to; a broken link is a KeyError."""
    blocks: Blocks = {}
    with h5py.File(link_file, "r") as file:
        assert file.attrs["complete"] == 1, f"{link_file} is not complete"
        for link in file["blocks"]:
            root = file["blocks"][link]
            matrices = sorted(root.values(), key=lambda group: int(group.attrs["index"]))
            key = (int(root.attrs["round"]), int(root.attrs["block"]))
            blocks[key] = {matrix.name: matrix for matrix in map(read_matrix, matrices)}
    return blocks


def digest_of_blocks(link_file: Path) -> dict[str, str]:
    """SHA-256 of masks, values and votes: the files hold timings, these may not differ."""
    digests = {}
    for (round_, block), matrices in read_blocks(link_file).items():
        for name, matrix in matrices.items():
            digest = hashlib.sha256(matrix.mask.tobytes())
            digest.update(matrix.values.tobytes())
            digest.update(b"" if matrix.votes is None else matrix.votes.astype("<u4").tobytes())
            digests[f"r{round_} b{block} {name}"] = digest.hexdigest()
    return digests


# ---------------------------------------------------------------- rulings 4 to 7


def exact_count(sparsity: float, size: int) -> int:
    """ceil(s d), where s d within 1e-6 of an integer is that integer."""
    product = sparsity * size
    nearest = round(product)
    return nearest if abs(product - nearest) <= 1e-6 else math.ceil(product)


def round_once(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 to the nearest element of `dtype`, ties to even, in one step."""
    if dtype == "float32":
        return values.astype("<f4").astype(np.float64)
    if dtype == "float16":
        return values.astype("<f2").astype(np.float64)
    bits = np.ascontiguousarray(values, "<f8").view("<u8")  # of 52 bits of fraction 7 stay
    dropped = np.uint64(45)
    half = (np.uint64(1) << (dropped - np.uint64(1))) - np.uint64(1) + ((bits >> dropped) & np.uint64(1))
    return (((bits + half) >> dropped) << dropped).view("<f8")


def average(parts: list[Matrix], aggregation: str) -> np.ndarray:
    """Eq. 5 (or the plain mean) in float64, rounded once to the model's type."""
    total = np.sum([part.values for part in parts], axis=0, dtype=np.float64)
    kept = np.sum([part.mask for part in parts], axis=0)
    divisor = np.maximum(kept, 1) if aggregation == "l0" else np.full_like(kept, len(parts))
    return round_once(total / divisor, parts[0].dtype)


def votes_of(parts: list[Matrix]) -> np.ndarray:
    """How many clients dropped each weight."""
    return np.sum([~part.mask for part in parts], axis=0)


def order_of(votes: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Row-major positions: most votes first, then smallest `rank`, then lowest index."""
    return np.lexsort((np.arange(votes.size), rank.ravel(), -votes.ravel().astype(np.int64)))


def expand(votes: np.ndarray, clients: int, averaged: np.ndarray, tie: str, sparsity: float) -> np.ndarray:
    """Eq. 6 and 7 for a whole matrix: the mask after expansion, for the ties `magnitude` and `index`."""
    mask = votes < clients
    more = exact_count(sparsity, votes.size) - int((~mask).sum())
    rank = np.abs(averaged) if tie == "magnitude" else np.zeros_like(averaged)
    order = order_of(votes, rank)
    alive = order[mask.ravel()[order]]
    flat = mask.ravel().copy()
    flat[alive[: max(more, 0)]] = False
    return flat.reshape(mask.shape)


def expand_groups(
    votes: np.ndarray, clients: int, averaged: np.ndarray, tie: str, keep: int, group: int
) -> np.ndarray:
    """The same per group of M consecutive weights of a row."""
    shape = votes.shape
    votes, averaged = votes.reshape(-1, group), averaged.reshape(-1, group)
    mask = np.empty(votes.shape, bool)
    for row in range(len(votes)):
        share = (group - keep) / group
        mask[row] = expand(votes[row], clients, averaged[row], tie, share)
    return mask.reshape(shape)
