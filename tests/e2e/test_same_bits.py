#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same bits for any ranks, threads and transport, any place and order of the clients (ruling 8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import BAD_INPUT, ProgramTest, enter_venv, file_digests, main, merged, nodes_of

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402
import oracle  # noqa: E402


OWNERS: dict[str, Any] = {"federation": {"topology": "owners"}}
NODES: dict[str, Any] = {"federation": {"topology": "nodes"}}


class SameBits(ProgramTest):
    def digests(self, run_dir: Path) -> dict[str, Any]:
        """Of everything a run leaves that may not depend on how it was run."""
        result: dict[str, Any] = {}
        if (run_dir / "model").exists():
            result["model"] = file_digests(run_dir / "model")
            result["run.h5"] = oracle.digest_of_blocks(run_dir / "run.h5")
        for file in sorted((run_dir / "clients").glob("*.h5")):
            result[file.name] = oracle.digest_of_blocks(file)
        self.assertTrue(result, f"{run_dir} holds neither model/ nor clients/")
        return result

    def expect_same(self, config: dict[str, Any], ways: dict[str, tuple[int, dict[str, Any]]]) -> None:
        """Runs the configuration on one rank with one thread, then in each given way: (ranks, changes). A way whose
        name ends in "nodes of N" has such nodes."""
        expected: dict[str, Any] = {}
        for way, (ranks, changes) in {"1 rank": (1, {"federation": {"transport": "reduce"}}), **ways}.items():
            run_dir = self.folder / self._testMethodName / way.replace(" ", "-")
            changed = merged(merged(config, {"run": {"dir": str(run_dir)}}), changes)
            size = way.partition("nodes of ")[2]
            self.prune(changed, ranks=ranks, env=nodes_of(int(size)) if size else {})
            found = self.digests(run_dir)
            expected = expected or found
            for part, digests in expected.items():
                with self.subTest(way=way, part=part):
                    self.assertEqual(found.get(part), digests)
            self.assertEqual(found.keys(), expected.keys(), way)

    def config(self, model: Path, clients: int, **sections: Any) -> dict[str, Any]:
        folder = self.folder / self._testMethodName
        copy = folder / "input"
        if not copy.exists():
            models.copy_model(model, copy)
        base = models.run_config(copy, folder / "run", models.clients_of(folder / "tokens", copy, clients))
        return merged(base, sections)

    def test_any_ranks_threads_and_transport_give_the_same_l0_model(self) -> None:
        reduce, gather = {"federation": {"transport": "reduce"}}, {"federation": {"transport": "gather"}}
        self.expect_same(
            self.config(models.LLAMA, 4, run={"keep_clients": True}),
            {
                "1 rank 2 threads": (1, {"run": {"threads": 2}}),
                "1 rank gather": (1, gather),
                "2 ranks reduce": (2, reduce),
                "2 ranks gather": (2, gather),
                "2 ranks 2 threads": (2, {"run": {"threads": 2}}),
                "3 ranks reduce": (3, reduce),
                "3 ranks gather": (3, gather),
                "4 ranks reduce": (4, reduce),
                "4 ranks gather": (4, gather),
                "1 rank owners": (1, OWNERS),
                "2 ranks owners": (2, OWNERS),
                "4 ranks owners": (4, OWNERS),
                "1 rank nodes": (1, NODES),
                "2 ranks nodes": (2, NODES),
                "3 ranks nodes of 2": (3, NODES),
                "4 ranks nodes of 2": (4, NODES),
                "4 ranks nodes of 1": (4, NODES),
            },
        )

    def test_clients_may_sit_on_any_rank(self) -> None:
        config = self.config(models.LLAMA, 5)

        def placed(*ranks: int) -> dict[str, Any]:
            return {
                "client": [
                    {**client, "rank": rank} for client, rank in zip(config["client"], ranks, strict=True)
                ]
            }

        self.expect_same(
            config,
            {
                "reversed": (3, merged(placed(2, 1, 0, 2, 1), {"federation": {"transport": "reduce"}})),
                "all remote": (2, merged(placed(1, 1, 1, 1, 1), {"federation": {"transport": "gather"}})),
                "idle ranks": (4, merged(placed(3, 3, 0, 0, 3), {"federation": {"transport": "reduce"}})),
                "idle nodes of 2": (4, merged(placed(3, 3, 2, 2, 3), NODES)),
            },
        )

    def test_order_of_clients_does_not_matter_where_no_random_number_is_theirs(self) -> None:
        config = self.config(models.LLAMA, 3, calibration={"sampling": "sequential"})
        base = {}
        for way, order in {"forward": (0, 1, 2), "backward": (2, 0, 1)}.items():
            run_dir = self.folder / self._testMethodName / way
            clients = [config["client"][index] for index in order]
            self.prune(merged(config, {"run": {"dir": str(run_dir)}, "client": clients}), ranks=2)
            base[way] = self.digests(run_dir)
        self.assertEqual(base["forward"], base["backward"])

    def test_sixteen_bit_products(self) -> None:
        """Other bits than with float32, but the same ones in any way; on CPUs that have them."""
        if "bf16 products    yes" not in self.done("doctor").stdout:
            self.skipTest("this CPU has no AVX512-BF16")
        bf16 = {"run": {"products": "bf16", "backend": "cpu"}}
        config = self.config(models.LLAMA, 4, run={"keep_clients": True})
        self.expect_same(
            merged(config, bf16),
            {
                "1 rank 2 threads": (1, {"run": {"threads": 2}}),
                "2 ranks gather": (2, {"federation": {"transport": "gather"}}),
                "4 ranks owners": (4, OWNERS),
            },
        )
        folder = self.folder / self._testMethodName
        self.prune(merged(config, {"run": {"dir": str(folder / "float32"), "backend": "cpu"}}))
        found, expected = self.digests(folder / "1-rank"), self.digests(folder / "float32")
        self.assertNotEqual(found["model"], expected["model"])
        again = merged(merged(config, bf16), {"run": {"dir": str(folder / "float32")}})
        self.refused(BAD_INPUT, ['run.products: "f32" in the run directory, "bf16" now'], "prune", self.write_config(again))

    def test_float32_groups_of_four(self) -> None:
        config = self.config(models.OPT, 3, prune={"sparsity": None, "pattern": "2:4", "order": "block"})
        self.expect_same(
            config,
            {
                "2 ranks gather": (2, {"federation": {"transport": "gather"}}),
                "4 ranks reduce": (4, {"federation": {"transport": "reduce"}}),
                "3 ranks owners": (3, OWNERS),
            },
        )

    def test_rounds_with_layer_sampling(self) -> None:
        deep = self.folder / self._testMethodName / "input"
        models.deepen(models.LLAMA, deep, 4)
        config = self.config(
            deep,
            5,
            federation={"rounds": 3, "layer_sampling": "resources", "coverage": "warn"},
            run={"keep_clients": True},
        )
        resources = (1.0, 0.75, 0.5, 0.5, 0.25)
        config["client"] = [
            {**client, "resources": part} for client, part in zip(config["client"], resources, strict=True)
        ]
        self.expect_same(
            config,
            {
                "2 ranks gather": (2, {"federation": {"transport": "gather"}}),
                "3 ranks reduce": (3, {"federation": {"transport": "reduce"}}),
                "4 ranks auto": (4, {"federation": {"transport": "auto"}}),
                "3 ranks owners": (3, OWNERS),
                "4 ranks nodes of 2": (4, NODES),
            },
        )

    def test_plain_mean_of_wanda_in_float16(self) -> None:
        config = self.config(
            models.HALF, 3, prune={"method": "wanda", "sparsity": 0.6}, federation={"aggregation": "mean"}
        )
        self.expect_same(
            config,
            {
                "2 ranks reduce": (2, {"federation": {"transport": "reduce"}}),
                "3 ranks gather": (3, {"federation": {"transport": "gather"}}),
                "4 ranks owners": (4, OWNERS),
            },
        )

    def test_shards_written_by_several_ranks(self) -> None:
        for method in ("random", "magnitude"):
            folder = self.folder / method
            model = models.copy_model(models.SHARDED, folder / "input")
            config = models.run_config(model, folder / "run", models.clients_of(folder, model, 3))
            ways: dict[str, tuple[int, dict[str, Any]]] = {"1": (1, {}), "3": (3, {}), "2-owners": (2, OWNERS)}
            found = {}
            for way, (ranks, changes) in ways.items():
                run_dir = folder / f"run-{way}"
                changed = merged({"prune": {"method": method}, "run": {"dir": str(run_dir)}}, changes)
                self.prune(merged(config, changed), ranks=ranks)
                found[way] = self.digests(run_dir)
                self.assertEqual(found[way], found["1"], f"{method}, {way}")

    def test_stand_alone_clients(self) -> None:
        config = self.config(models.LLAMA, 3, federation={"aggregation": "none"})
        self.expect_same(config, {"2 ranks": (2, {}), "4 ranks 2 threads": (4, {"run": {"threads": 2}})})


if __name__ == "__main__":
    main()
