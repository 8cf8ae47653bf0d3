#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One line about a JUnit report of ctest: how many tests passed, failed and were skipped. Used by tests/run.sh."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main() -> None:
    name, report = sys.argv[1], Path(sys.argv[2])
    if not report.exists():
        print(f"{name}: no test ran")
        return
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = sum(case.find("failure") is not None or case.get("status") == "fail" for case in cases)
    skipped = sum(case.find("skipped") is not None or case.get("status") in ("notrun", "disabled") for case in cases)
    seconds = sum(float(case.get("time", 0)) for case in cases)
    print(
        f"{name}: {len(cases) - failed - skipped} tests passed, {failed} failed, {skipped} skipped"
        f" out of {len(cases)} ({seconds:.0f} s of tests)"
    )


main()
