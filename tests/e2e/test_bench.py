#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every benchmark that `bench --help` names runs, and its rows agree with themselves. No timing is judged:
--quick measures tiny shapes once. Needs the standard library only."""

from __future__ import annotations

import os
from typing import Any

from harness import BAD_INPUT, ProgramTest, main

COMPUTE = ("forward", "hessian", "factorization", "sweep", "sparsegpt", "spmm")
ALONE = (*COMPUTE, "aggregate", "checkpoint")


class Bench(ProgramTest):
    def measure(self, name: str, *arguments: str, **how: Any) -> Any:
        """The JSON object of one benchmark, whose rows are checked."""
        found = self.done("bench", name, "--quick", "--json", *arguments, **how).json()
        self.assertEqual((found["format_version"], found["bench"], found["quick"]), (1, name, True))
        self.assertTrue(found["cpu"] and found["version"] and found["kernel_set"])
        self.assertTrue(found["rows"])
        for row in found["rows"]:
            with self.subTest(bench=name, row=row["name"]):
                self.assertIn(row["unit"], ("flop", "bytes"))
                self.assertTrue(row["limit"] and row["shape"])
                for key in ("work", "seconds", "rate", "limit_rate", "share"):
                    self.assertGreater(row[key], 0, key)
                self.assertAlmostEqual(row["rate"], row["work"] / row["seconds"], delta=1e-6 * row["rate"])
                self.assertAlmostEqual(
                    row["share"], row["rate"] / row["limit_rate"], delta=1e-6 * row["share"]
                )
        return found

    def test_help_names_every_benchmark(self) -> None:
        text = self.done("bench", "--help").stdout
        for word in (*ALONE, "transport", "--quick", "--dir", "--clients"):
            self.assertRegex(text, rf"(?<!\w){word}\b")

    def test_benchmarks_of_one_process(self) -> None:
        for name in ALONE:
            self.measure(name)

    def test_sparsegpt_holds_the_four_others_and_their_sum(self) -> None:
        names = [row["name"] for row in self.measure("sparsegpt")["rows"]]
        for name in COMPUTE[:-1]:
            for row in self.measure(name)["rows"]:
                self.assertIn(row["name"], names)
        self.assertEqual(names[-1], "decoder block")

    def test_checkpoint_compares_states_with_recomputing_and_cleans_up(self) -> None:
        folder = self.folder / "here"
        folder.mkdir()
        found = self.measure("checkpoint", "--dir", str(folder))
        self.assertEqual(found["folder"], str(folder))
        names = [row["name"] for row in found["rows"]]
        self.assertEqual(names[0], "block file, manifest")
        self.assertEqual(names[-2:], ["output model", "state recomputed, one block forward"])
        self.assertEqual(len([name for name in names if name.startswith("client state, ")]), 3)
        self.assertEqual(os.listdir(folder), [])

    def test_transport_alone_and_on_several_ranks(self) -> None:
        for ranks in (1, 2, 3):
            found = self.measure("transport", "--clients", "1,2,5", ranks=ranks)
            self.assertEqual(found["ranks"], ranks)
            self.assertEqual(found["link_bytes_per_second"] > 0, ranks > 1)
            ways = [row for row in found["rows"] if "same_bits" in row]
            self.assertEqual(len(ways), 6 if ranks > 1 else 5, "nodes where ranks share a host")
            for row in ways:
                self.assertTrue(row["same_bits"], row["name"])
                travels = ranks > 1 and row["name"] != "nodes (shared memory)"
                self.assertEqual(row["root_bytes"] > 0, travels, row["name"])
            scaling = [row for row in found["rows"] if "clients" in row]
            self.assertEqual([row["clients"] for row in scaling], [1, 2, 5, 1, 2, 5])
            for row in scaling:
                self.assertGreater(row["cpu_seconds"], 0, row["name"])
            self.assertEqual([fit["transport"] for fit in found["fits"]], ["gather", "reduce"])
            for fit in found["fits"]:
                self.assertEqual(set(fit), {"transport", "a", "b", "cpu_a", "cpu_b"})

    def test_tables_for_people(self) -> None:
        text = self.done("bench", "transport", "--quick", ranks=2).stdout
        for word in ("share", "reduce (our chain)", "MPI_Ireduce", "plain messages", "gather and merge of N"):
            self.assertIn(word, text)
        self.assertNotIn("OTHER BITS", text)
        text = self.done("bench", "checkpoint", "--quick").stdout
        for word in ("block file", "write + fsync", "output model", "resuming before block b"):
            self.assertIn(word, text)

    def test_wrong_names_and_options_are_refused(self) -> None:
        cases: dict[str, list[str]] = {
            "unknown name 'transprot'.*checkpoint or transport": ["transprot"],
            "--dir is for checkpoint only": ["forward", "--dir", "."],
            "--clients is for transport only": ["aggregate", "--clients", "1,2"],
            "--clients: expected ascending": ["transport", "--clients", "2,1"],
            "--dir .*nowhere: expected a folder": ["checkpoint", "--dir", str(self.folder / "nowhere")],
        }
        for message, arguments in cases.items():
            with self.subTest(message=message):
                self.refused(BAD_INPUT, [message], "bench", *arguments)


if __name__ == "__main__":
    main()
