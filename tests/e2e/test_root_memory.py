#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The root's merge memory does not grow with the number of clients: 64 within 5 % of 4 (ruling 21)."""

from __future__ import annotations

import json

from harness import ProgramTest, enter_venv, main, merged

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402


class RootMemory(ProgramTest):
    def peak(self, transport: str, clients: int) -> int:
        folder = self.folder / f"{transport}-{clients}"
        model = models.copy_model(models.LLAMA, folder / "input")
        config = models.run_config(
            model, folder / "run", models.clients_of(folder / "tokens", model, clients)
        )
        # Two ranks: half of the clients are remote, and all are far quicker than the merge can take them.
        self.prune(
            merged(
                config,
                {
                    "prune": {"method": "wanda"},
                    "calibration": {"samples": 2, "sequence_length": 32},
                    "federation": {"transport": transport},
                },
            ),
            ranks=2,
        )
        return int(json.loads((folder / "run" / "summary.json").read_text())["peak_merge_bytes"])

    def test_64_clients_need_what_4_do(self) -> None:
        for transport in ("reduce", "gather"):
            with self.subTest(transport=transport):
                few, many = self.peak(transport, 4), self.peak(transport, 64)
                self.assertGreater(few, 0)
                self.assertLessEqual(many, 1.05 * few, f"4 clients {few} bytes, 64 clients {many} bytes")


if __name__ == "__main__":
    main()
