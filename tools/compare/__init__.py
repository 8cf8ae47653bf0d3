# SPDX-License-Identifier: Apache-2.0
"""Parts of tools/compare_sparsegpt.py: FLOP, the two sides, the table. Only `published` needs torch."""
