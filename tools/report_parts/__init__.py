# SPDX-License-Identifier: Apache-2.0
"""The parts of tools/report.py: reading runs, pieces of HTML, sections of the page."""
