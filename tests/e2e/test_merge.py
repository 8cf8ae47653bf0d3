#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts, votes, averages and mask expansion of real runs, recomputed in numpy from the clients' files."""

from __future__ import annotations

import json
import unittest
from fractions import Fraction
from pathlib import Path
from typing import Any

from harness import ProgramTest, enter_venv, main, merged

if __name__ == "__main__":
    enter_venv()

import numpy as np  # noqa: E402

import models  # noqa: E402
import oracle  # noqa: E402


class Oracle(unittest.TestCase):
    """The judge itself, against what PyTorch computed (tests/data/README.md) and cases worked out by hand."""

    def test_average_and_votes_equal_the_fixture(self) -> None:
        expected = models.load(models.LLAMA / "expected.safetensors")
        names = [name[len("l0.") :] for name in expected if name.startswith("l0.")]
        self.assertGreater(len(names), 3)
        for name in names:
            parts = []
            for client in range(3):
                values = expected[f"sparsegpt50.{client}.{name}"].widened()
                parts.append(
                    oracle.Matrix(
                        name, True, "float32", 0, 0, 0, 0, 0, 0, values != 0, values, None, None, []
                    )
                )
            np.testing.assert_array_equal(oracle.votes_of(parts), expected[f"votes.{name}"].data)
            np.testing.assert_array_equal(oracle.average(parts, "l0"), expected[f"l0.{name}"].widened())

    def test_rounding_to_bfloat16_takes_the_nearest_and_even(self) -> None:
        cases = {
            1.0: 1.0,
            1 + 2**-8: 1.0,
            1 + 3 * 2**-8: 1 + 2**-6,
            1 + 2**-8 + 2**-30: 1 + 2**-7,
            -0.1: -0.10009765625,
        }
        np.testing.assert_array_equal(
            oracle.round_once(np.array(list(cases)), "bfloat16"), list(cases.values())
        )

    def test_counts_are_ceilings_but_for_what_binary_fractions_add(self) -> None:
        found = [
            oracle.exact_count(*case) for case in ((0.55, 100), (0.5, 9), (0.0, 7), (1.0, 7), (1 / 3, 9))
        ]
        self.assertEqual(found, [55, 5, 0, 7, 3])

    def test_expansion_drops_most_voted_then_smallest_then_first(self) -> None:
        votes = np.array([[3, 2, 2, 1], [0, 2, 1, 1]])
        averaged = np.array([[0, 0.5, -0.1, 9], [9, 0.5, 0.2, -0.2]])
        by_size = oracle.expand(votes, 3, averaged, "magnitude", 5 / 8)
        np.testing.assert_array_equal(by_size, [[False, False, False, True], [True, False, False, True]])
        by_index = oracle.expand(votes, 3, averaged, "index", 5 / 8)
        np.testing.assert_array_equal(by_index, [[False, False, False, False], [True, False, True, True]])


class Merge(ProgramTest):
    """Each test is one run with other rules; check_run() holds it against all of them."""

    def pruned(
        self, source: Path, clients: int, deep: int = 0, resources: tuple[float, ...] = (), **sections: Any
    ) -> Path:
        folder = self.folder / self._testMethodName
        model = (
            models.deepen(source, folder / "input", deep)
            if deep
            else models.copy_model(source, folder / "input")
        )
        config = models.run_config(
            model, folder / "run", models.clients_of(folder / "tokens", model, clients)
        )
        for client, share in zip(config["client"], resources, strict=False):
            client["resources"] = share
        config = merged(merged(config, {"run": {"keep_clients": True}}), sections)
        self.prune(config, ranks=2)
        self.check_run(config, model, folder / "run")
        return folder / "run"

    def check_run(self, config: dict[str, Any], model: Path, run_dir: Path) -> None:
        names = [client["name"] for client in config["client"]]
        kept_files = [oracle.read_blocks(run_dir / "clients" / f"{name}.h5") for name in names]
        run = oracle.read_blocks(run_dir / "run.h5")
        newest: dict[str, oracle.Matrix] = {}
        for key in sorted(run):
            for name, matrix in run[key].items():
                parts = [(client, file[key][name]) for client, file in enumerate(kept_files) if key in file]
                with self.subTest(round=key[0], block=key[1], matrix=name):
                    if matrix.pruned:
                        self.assertEqual(
                            matrix.clients, [client for client, _ in parts], "clients of the record"
                        )
                        self.check_matrix(config, key[0], matrix, [part for _, part in parts])
                        if name in newest and newest[name].pruned:
                            self.assertFalse(
                                (matrix.mask & ~newest[name].mask).any(), "dropped stays dropped"
                            )
                    else:
                        self.assertEqual(parts, [])
                if matrix.pruned or name not in newest:
                    newest[name] = matrix
        self.check_model(model, run_dir, newest)

    def check_matrix(
        self, config: dict[str, Any], round_: int, matrix: oracle.Matrix, parts: list[oracle.Matrix]
    ) -> None:
        federation, prune = config["federation"], config["prune"]
        keep, group = map(int, prune.get("pattern", "0:0").split(":"))
        rounds = federation.get("rounds", 1)
        final = (group - keep) / group if group else prune["sparsity"]
        sparsity = final * (1 - (1 - round_ / rounds) ** 3)
        if group:  # the schedule in whole weights of a group, at least one
            sparsity = min(max(round(sparsity * group), 1), group - keep) / group
            keep = group - round(sparsity * group)
        count = oracle.exact_count(sparsity, matrix.mask.size)
        for part in parts:
            self.assertEqual(part.dropped, count, "a client's exact count")
        votes = oracle.votes_of(parts)
        assert matrix.votes is not None and matrix.histogram is not None
        np.testing.assert_array_equal(matrix.votes, votes, "votes against the clients' masks")
        histogram = np.bincount(votes.ravel(), minlength=len(parts) + 1)
        np.testing.assert_array_equal(matrix.histogram, histogram, "histogram of votes")
        self.assertEqual(matrix.common_zeros, histogram[-1])
        self.check_mask(matrix, parts, votes, federation, sparsity, (keep, group))
        averaged = oracle.average(parts, federation["aggregation"])
        self.check_values(matrix, parts, averaged, federation["aggregation"])
        self.assertEqual(matrix.expanded, matrix.dropped - int(histogram[-1]))
        self.assertEqual(matrix.kept_zeros, int((matrix.values[matrix.mask] == 0).sum()))

    def check_mask(
        self,
        matrix: oracle.Matrix,
        parts: list[oracle.Matrix],
        votes: np.ndarray,
        federation: dict[str, Any],
        sparsity: float,
        pattern: tuple[int, int],
    ) -> None:
        keep, group = pattern
        if not federation.get("mask_expansion", True):
            np.testing.assert_array_equal(
                matrix.mask, votes < len(parts), "only what all clients dropped is dropped"
            )
            return
        self.assertEqual(matrix.dropped, oracle.exact_count(sparsity, matrix.mask.size), "exact sparsity")
        self.assertEqual(matrix.target, matrix.dropped, "recorded target")
        averaged = oracle.average(parts, federation["aggregation"])
        tie = federation.get("tie", "score")
        if group:
            per_group = matrix.mask.reshape(-1, group).sum(axis=1)
            np.testing.assert_array_equal(per_group, keep, "N of every M are kept")
        if tie != "score":
            if group:
                expected = oracle.expand_groups(votes, len(parts), averaged, tie, keep, group)
            else:
                expected = oracle.expand(votes, len(parts), averaged, tie, sparsity)
            np.testing.assert_array_equal(matrix.mask, expected, f"mask expansion, ties by {tie}")
            return
        # diag(H) is not in the files, so of ties by score only this is known: no kept weight has more votes
        # than a dropped one.
        rows = (
            (votes.reshape(-1, group), matrix.mask.reshape(-1, group))
            if group
            else (votes.reshape(1, -1), matrix.mask.reshape(1, -1))
        )
        most_kept = np.where(rows[1], rows[0], -1).max(axis=1)
        fewest_dropped = np.where(rows[1], len(parts) + 1, rows[0]).min(axis=1)
        self.assertTrue((most_kept <= fewest_dropped).all(), "the most voted weights go first")

    def check_values(
        self, matrix: oracle.Matrix, parts: list[oracle.Matrix], averaged: np.ndarray, aggregation: str
    ) -> None:
        self.assertEqual(float(np.abs(matrix.values[~matrix.mask]).max(initial=0)), 0)
        for row, column in np.argwhere(matrix.mask & (matrix.values != averaged)):
            # float64 rounds twice (sum, quotient): the few that differ are decided by exact fractions.
            kept = [Fraction(float(part.values[row, column])) for part in parts if part.mask[row, column]]
            exact = sum(kept, Fraction()) / (len(kept) if aggregation == "l0" else len(parts))
            found, other = float(matrix.values[row, column]), float(averaged[row, column])
            self.assertLessEqual(
                abs(Fraction(found) - exact),
                abs(Fraction(other) - exact),
                f"eq. 5 at {row}, {column}: found {found!r}, expected {other!r}",
            )

    def check_model(self, dense: Path, run_dir: Path, newest: dict[str, oracle.Matrix]) -> None:
        """model/ holds the newest records to the bit, and the dense bytes of everything else."""
        before, after = models.load_model(dense), models.load_model(run_dir / "model")
        self.assertEqual(list(before), list(after))
        dropped = weights = 0
        for name, tensor in after.items():
            record = newest.get(name)
            self.assertEqual(tensor.dtype, before[name].dtype)
            if record is None or not record.pruned:
                self.assertEqual(tensor.data.tobytes(), before[name].data.tobytes(), name)
            else:
                np.testing.assert_array_equal(tensor.widened(), record.values, name)
                self.assertFalse(
                    np.signbit(tensor.widened()[~record.mask]).any(), f"{name}: dropped weights are +0"
                )
            if record is not None:
                weights += record.mask.size
                dropped += record.dropped if record.pruned else 0
        prunable = [name for name in before if ".layers." in name and before[name].data.ndim == 2]
        self.assertEqual(sorted(newest), sorted(prunable))
        summary = json.loads((run_dir / "summary.json").read_text())
        self.assertAlmostEqual(
            summary["sparsity"], dropped / weights, places=9, msg="sparsity of the summary"
        )

    def test_l0_of_bfloat16_ties_by_magnitude(self) -> None:
        self.pruned(models.LLAMA, 4, federation={"tie": "magnitude"})

    def test_l0_of_float32_ties_by_index(self) -> None:
        self.pruned(models.OPT, 3, prune={"sparsity": 0.37}, federation={"tie": "index"})

    def test_l0_ties_by_score(self) -> None:
        run_dir = self.pruned(
            models.LLAMA, 3, prune={"sparsity": 0.55, "order": "block"}, federation={"tie": "score"}
        )
        run = oracle.read_blocks(run_dir / "run.h5")
        self.assertGreater(sum(matrix.expanded for block in run.values() for matrix in block.values()), 0)

    def test_plain_mean_of_float16(self) -> None:
        self.pruned(
            models.HALF,
            5,
            prune={"method": "wanda", "sparsity": 0.61},
            federation={"aggregation": "mean", "tie": "magnitude"},
        )

    def test_two_of_four_ties_by_score(self) -> None:
        self.pruned(models.LLAMA, 3, prune={"sparsity": None, "pattern": "2:4"})

    def test_two_of_four_ties_by_magnitude_in_float32(self) -> None:
        self.pruned(
            models.OPT, 4, prune={"sparsity": None, "pattern": "2:4"}, federation={"tie": "magnitude"}
        )

    def test_one_of_eight_ties_by_index(self) -> None:
        self.pruned(
            models.LLAMA,
            3,
            prune={"sparsity": None, "pattern": "1:8", "method": "wanda"},
            federation={"tie": "index"},
        )

    def test_rounds_of_one_of_eight_drop_more_of_each_group(self) -> None:
        pattern = {"sparsity": None, "pattern": "1:8"}
        self.pruned(models.LLAMA, 3, prune=pattern, federation={"rounds": 3, "tie": "magnitude"})

    def test_without_expansion_only_common_zeros_go(self) -> None:
        self.pruned(models.LLAMA, 3, federation={"mask_expansion": False})

    def test_one_client_keeps_its_result(self) -> None:
        self.pruned(models.LLAMA, 1, prune={"sparsity": 0.3}, federation={"tie": "magnitude"})

    def test_rounds_follow_the_schedule_and_keep_what_is_dropped(self) -> None:
        self.pruned(models.LLAMA, 3, prune={"sparsity": 0.6}, federation={"rounds": 3, "tie": "magnitude"})

    def test_layer_sampling_merges_those_who_drew_the_block(self) -> None:
        run_dir = self.pruned(
            models.LLAMA,
            4,
            deep=4,
            resources=(1.0, 0.5, 0.5, 0.25),
            federation={"layer_sampling": "resources", "tie": "magnitude"},
        )
        clients = [len(oracle.read_blocks(file)) for file in sorted((run_dir / "clients").glob("*.h5"))]
        self.assertEqual(clients, [4, 2, 2, 1], "max(1, round(resources * blocks))")

    def test_blocks_not_drawn_in_the_last_round_keep_what_they_were(self) -> None:
        self.pruned(
            models.LLAMA,
            3,
            deep=4,
            resources=(0.25, 0.25, 0.25),
            prune={"sparsity": 0.6},
            federation={"rounds": 2, "layer_sampling": "resources", "coverage": "warn", "tie": "magnitude"},
        )

    def test_sparsity_of_nothing_and_of_all(self) -> None:
        run_dir = self.pruned(models.LLAMA, 2, prune={"sparsity": 1.0}, federation={"tie": "index"})
        for block in oracle.read_blocks(run_dir / "run.h5").values():
            self.assertTrue(all(not matrix.mask.any() for matrix in block.values()))


if __name__ == "__main__":
    main()
