# SPDX-License-Identifier: Apache-2.0
"""What the tools' tests share: they run in build/venv, with tools/ on the path, each in a folder of its own.

Import it before anything that only the environment has. Exit status 77: the environment is missing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
sys.path.insert(0, str(TOOLS))

import common  # noqa: E402

_SKIPPED = 77


def in_environment() -> None:
    """Starts the running script again in build/venv where it does not run there yet."""
    if not (common.VENV / ".complete").exists():
        print(f"skipped: {common.VENV} is missing; make it with tools/install-dependencies.sh --python")
        sys.exit(_SKIPPED)
    common.enter_venv()


def run_tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs one tool as a user would."""
    command = [str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


class Scratch(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self) -> None:
        """Makes the folder."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def tiny_model(self, name: str = "model", *arguments: object) -> Path:
        """A synthetic model of the smallest shape."""
        out = self.folder / name
        done = run_tool("make_synthetic_model.py", "--shape", "tiny", "--out", out, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out
