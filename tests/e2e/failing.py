# SPDX-License-Identifier: Apache-2.0
"""A model that one client's text spoils, and what tests of failing runs ask of it. Imported after enter_venv()."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import models
import numpy as np
import oracle
from background import Job, held
from harness import Outcome, ProgramTest, merged

BLOCKS = 8
CHANNEL = 5
DROP = {"on_client_failure": "drop"}


def spoil(tensors: dict[str, models.Tensor], block: int) -> None:
    """One channel of the residual stream, which only the last token of the vocabulary feeds and which overflows in
    this block: a text without that token never meets it."""
    embedding = tensors["model.embed_tokens.weight"].data
    embedding[:, CHANNEL] = 0
    embedding[-1, CHANNEL] = 0x3F80  # 1 in bfloat16
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.data[CHANNEL] = 0
    if block >= 0:
        tensors[f"model.layers.{block}.input_layernorm.weight"].data[CHANNEL] = 0x7F61  # 3e38


class FailureTest(ProgramTest):
    """Three clients, of which the last one's text has the token that spoiled models cannot take."""

    clients: list[dict[str, Any]]
    vocab: int
    models_made: dict[int, Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.models_made = {}
        cls.vocab = models.vocabulary(models.LLAMA)
        cls.clients = [cls.client(index, index == 2) for index in range(3)]

    @classmethod
    def client(cls, index: int, meets_it: bool) -> dict[str, Any]:
        ids = np.random.default_rng(index).integers(0, cls.vocab - 1, 1024)
        if meets_it:
            ids[20::40] = cls.vocab - 1
        name = f"client-{index}"
        path = cls.folder / "tokens" / f"{name}-{meets_it}.h5"
        return {"name": name, "tokens": str(models.write_tokens(path, ids, cls.vocab))}

    @classmethod
    def model(cls, block: int) -> Path:
        """A model whose spoiled channel overflows in `block`; -1 = nowhere."""
        if block not in cls.models_made:
            folder = models.deepen(models.LLAMA, cls.folder / f"model{block}", BLOCKS)
            cls.models_made[block] = models.change(folder, lambda tensors: spoil(tensors, block))
        return cls.models_made[block]

    def run_dir(self, place: str = "run") -> Path:
        return self.folder / self._testMethodName / place

    def config(self, block: int = -1, place: str = "run", **changes: Any) -> Path:
        """A configuration, written down. Windows are taken in order: random ones depend on a client's number."""
        base = models.run_config(self.model(block), self.run_dir(place), self.clients)
        base["calibration"]["sampling"] = "sequential"
        base["run"]["checkpoint_every"] = 1
        self.run_dir(place).parent.mkdir(exist_ok=True)
        return self.write_config(merged(base, changes), f"{self._testMethodName}/{place}.toml")

    def blocks(self, place: str = "run") -> dict[str, str]:
        return oracle.digest_of_blocks(self.run_dir(place) / "run.h5")

    def without_client(self, block: int, **changes: Any) -> None:
        """The run that the others would have made, in the folder `others`."""
        self.done("prune", self.config(block, "others", **{"client": self.clients[:2], **changes}), "--quiet")

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.run_dir() / "summary.json").read_text())
        return summary

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.run_dir() / "metrics.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def merged_blocks(self) -> int:
        return len(list((self.run_dir() / "blocks").glob("*.h5")))

    def held_at(self, config: Path, blocks: int, ranks: int, before: int = BLOCKS) -> Job:
        """A job that stands still with so many merged blocks or more, but fewer than `before`."""
        return held(
            lambda: Job("prune", config, ranks=ranks),
            lambda: self.merged_blocks() >= blocks,
            lambda: self.merged_blocks() < before,
            lambda: shutil.rmtree(self.run_dir(), ignore_errors=True),
        )

    def check_named(self, outcome: Outcome, client: str, block: int, reason: str) -> None:
        """Everybody who may ask is told who was left out, from where on, and why."""
        (dropped,) = self.summary()["dropped"]
        self.assertEqual((dropped["client"], dropped["round"], dropped["block"]), (client, 1, block))
        self.assertRegex(dropped["reason"], reason)
        text = rf"client '{client}' is left out from block {block} of round 1 on: .*"
        self.assertRegex(outcome.stdout, "left out +" + text)
        self.assertEqual(len(self.events("client_dropped")), 1)
        self.assertRegex((self.run_dir() / "logs" / "rank_0000.log").read_text(), text)
        found = self.done("inspect", self.run_dir(), "--json").json()
        self.assertRegex("\n".join(found["warnings"]), text)
        self.assertEqual((found["ok"], found["complete"]), (True, True))
