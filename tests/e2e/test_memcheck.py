#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One run of `prune` under valgrind (docs/robustness.md): no invalid access, no use of what was not set, no leak."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import PROGRAM, ROOT, SKIPPED, ProgramTest, enter_venv, environment, main, merged

if __name__ == "__main__":
    if shutil.which("valgrind") is None or os.environ.get("FEDSPALLM_SANITIZED"):
        print("skipped: no valgrind here, or a program with sanitizers of its own")
        sys.exit(SKIPPED)
    enter_venv()

import models  # noqa: E402

OF_OPEN_MPI = Path("/usr/share/openmpi/openmpi-valgrind.supp")


class Memcheck(ProgramTest):
    """valgrind knows no AVX-512."""

    def test_a_run_with_evaluations(self) -> None:
        clients = models.clients_of(self.folder / "tokens", models.LLAMA, 2)
        tokens = str(models.random_tokens(self.folder / "set.h5", models.LLAMA, 9))
        sets = [{"name": "unseen", "tokens": tokens, "samples": 2, "sequence_length": 40}]
        more = {"report": {"standalone": True}, "evaluation": sets}
        config = self.write_config(merged(models.run_config(models.LLAMA, self.folder / "run", clients), more))
        files = [path for path in (OF_OPEN_MPI, ROOT / "tests" / "suppressions" / "valgrind.supp") if path.is_file()]
        command = [
            "valgrind", "--num-callers=40", "--leak-check=full", "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite", "--error-exitcode=99", *(f"--suppressions={path}" for path in files),
            PROGRAM, "prune", str(config), "--watchdog", "300",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment({"FEDSPALLM_ISA": "avx2"})
        )
        self.assertEqual(done.returncode, 0, done.stderr[-4000:])
        self.assertIn("ERROR SUMMARY: 0 errors", done.stderr)


if __name__ == "__main__":
    main()
