#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What came of a JUnit report of ctest: one line with how many tests passed, failed and were skipped, then each failed
test with the end of what it printed (a CI keeps only the end of a log). A test of ctest may be a script or a program
with many tests of its own: what was skipped within one that passed is counted apart and named. Used by tests/run.sh."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

LAST_LINES = 25
COLOUR = re.compile(r"(?:\x1b|\[NON-XML-CHAR-0x1B\])\[[0-9;]*m")  # mpiexec gives rank 0 a terminal
# tests/e2e/harness.py; GoogleTest, at the end of each test.
SKIPPED_WITHIN = re.compile(r"^\[skipped\] (.*)$|^\[  SKIPPED \] (\S+) \(\d+ ms\)$", re.MULTILINE)


def last_lines(case: ElementTree.Element) -> list[str]:
    """The end of a test's output."""
    text = case.findtext("system-out") or ""
    return [line[:300] for line in text.rstrip().splitlines()[-LAST_LINES:]]


def was_skipped(case: ElementTree.Element) -> bool:
    """All of it."""
    return case.find("skipped") is not None or case.get("status") in ("notrun", "disabled")


def skipped_within(case: ElementTree.Element) -> list[str]:
    """The tests that a script or a program skipped."""
    if was_skipped(case):
        return []
    found = SKIPPED_WITHIN.finditer(COLOUR.sub("", case.findtext("system-out") or ""))
    return [match[1] or match[2] for match in found]


def main() -> None:
    name, report = sys.argv[1], Path(sys.argv[2])
    if not report.exists():
        print(f"{name}: no test ran")
        return
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.get("status") == "fail"]
    skipped = sum(was_skipped(case) for case in cases)
    within = {str(case.get("name")): found for case in cases if (found := skipped_within(case))}
    seconds = sum(float(case.get("time", 0)) for case in cases)
    print(
        f"{name}: {len(cases) - len(failed) - skipped} tests passed, {len(failed)} failed, {skipped} skipped"
        f" out of {len(cases)} ({seconds:.0f} s of tests), {sum(map(len, within.values()))} skipped within them"
    )
    for test, skipped_tests in within.items():
        print(f"  skipped within {test}: {'; '.join(skipped_tests)}")
    for case in failed:
        print(f"  failed: {case.get('name')} ({float(case.get('time', 0)):.0f} s)")
        for line in last_lines(case):
            print(f"    {line}")


main()
