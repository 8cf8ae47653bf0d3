#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What came of a JUnit report of ctest: one line with how many tests passed, failed and were skipped, then each failed
test with the end of what it printed (a CI keeps only the end of a log). Used by tests/run.sh."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

LAST_LINES = 25


def last_lines(case: ElementTree.Element) -> list[str]:
    """The end of a test's output."""
    text = case.findtext("system-out") or ""
    return [line[:300] for line in text.rstrip().splitlines()[-LAST_LINES:]]


def main() -> None:
    name, report = sys.argv[1], Path(sys.argv[2])
    if not report.exists():
        print(f"{name}: no test ran")
        return
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.get("status") == "fail"]
    skipped = sum(case.find("skipped") is not None or case.get("status") in ("notrun", "disabled") for case in cases)
    seconds = sum(float(case.get("time", 0)) for case in cases)
    print(
        f"{name}: {len(cases) - len(failed) - skipped} tests passed, {len(failed)} failed, {skipped} skipped"
        f" out of {len(cases)} ({seconds:.0f} s of tests)"
    )
    for case in failed:
        print(f"  failed: {case.get('name')} ({float(case.get('time', 0)):.0f} s)")
        for line in last_lines(case):
            print(f"    {line}")


main()
