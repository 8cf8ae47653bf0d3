#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Repeats the reference run (configs/reference.toml; about half an hour) where its recorded data is at hand:
FEDSPALLM_REFERENCE names the folder, else data/reference. Else the script counts as skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness import ROOT, SKIPPED


def main() -> int:
    folder = Path(os.environ.get("FEDSPALLM_REFERENCE", ROOT / "data" / "reference"))
    if not (folder / "results.json").exists():
        print(
            f"skipped: {folder}/results.json is missing; FEDSPALLM_REFERENCE names the reference run's folder"
        )
        return SKIPPED
    return subprocess.run([ROOT / "tools" / "run_reference.sh", folder, "--restart"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
