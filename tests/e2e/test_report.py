#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tools/report.py on what the program really writes; tests/tools/test_report.py has the rest."""

from __future__ import annotations

import json
import subprocess
import sys

from harness import ROOT, ProgramTest, enter_venv, main, merged

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402


class Report(ProgramTest):
    def test_the_report_of_a_real_run_lacks_nothing(self) -> None:
        clients = models.clients_of(self.folder / "tokens", models.LLAMA, 3)
        config = models.run_config(models.LLAMA, self.folder / "run", clients)
        tokens = str(models.random_tokens(self.folder / "set.h5", models.LLAMA, 9))
        sets = [{"name": "unseen", "tokens": tokens, "samples": 2, "sequence_length": 40}]
        more = {"run": {"keep_clients": True}, "report": {"standalone": True}, "evaluation": sets}
        self.prune(merged(config, more), ranks=2)
        out = self.folder / "report.html"
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "report.py", self.folder / "run", "--out", out],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        text = out.read_text().replace("\N{NO-BREAK SPACE}", " ")
        self.assertNotIn("Not in this report", text)
        cell = json.loads((self.folder / "run" / "summary.json").read_text())["perplexity"]["unseen"]
        for value in (cell["dense"], cell["merged"], *cell["standalone"].values()):
            self.assertIn(f"<td>{value:,.2f}</td>", text)
        for expected in ("50.0000 % in all", "Votes to drop a weight, of 3 clients", "Overlap of two clients",
                         "client-2, block 1,", "block 1 merged and written", "model sha256"):  # fmt: skip
            self.assertIn(expected, text)


if __name__ == "__main__":
    main()
