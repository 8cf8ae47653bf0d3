#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times the published SparseGPT code (a checkout) on the matrices of one decoder block, on a GPU.

Per matrix: Hessian from windows of random inputs, one after the other, as the checkout's own loop hands them
over, then `fasterprune`; the sum over the block's matrices is what `fedspallm bench sparsegpt` has as gram,
factorization and sweep. Forward passes are left out on both sides. Prints a Markdown table: medians.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from pathlib import Path
from typing import Any

SHAPES = {  # out x in of each matrix of a block
    "llama-2-7b": [("q, k, v, o", 4, 4096, 4096), ("gate, up", 2, 11008, 4096), ("down", 1, 4096, 11008)],
    "smollm2-135m": [
        ("q, o", 2, 576, 576),
        ("k, v", 2, 192, 576),
        ("gate, up", 2, 1536, 576),
        ("down", 1, 576, 1536),
    ],
    "tiny": [("q", 2, 64, 64), ("down", 1, 64, 160)],
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--published", type=Path, required=True, metavar="DIR", help="checkout with sparsegpt.py")
    add("--shape", choices=SHAPES, default="llama-2-7b", help="default: llama-2-7b")
    add("--windows", type=int, default=8, help="default: 8")
    add("--length", type=int, default=2048, help="tokens of a window (default: 2048)")
    add("--repetitions", type=int, default=3, help="default: 3")
    add("--device", default="cuda", help="default: cuda")
    return parser.parse_args()


def time_matrix(gpt_class: Any, rows: int, columns: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds for the Hessian and for `fasterprune` of one matrix."""
    import torch

    torch.manual_seed(1)
    layer = torch.nn.Linear(columns, rows, bias=False, device=options.device)
    windows = torch.randn(options.windows, 1, options.length, columns, device=options.device)
    out = torch.empty(1, options.length, rows, device=options.device)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    pruner = gpt_class(layer)
    for window in windows:
        pruner.add_batch(window, out)
    torch.cuda.synchronize()
    middle = time.perf_counter()
    pruner.fasterprune(0.5, prunen=0, prunem=0, percdamp=0.01, blocksize=128)
    torch.cuda.synchronize()
    return middle - begin, time.perf_counter() - middle


def main() -> int:
    """Entry point."""
    options = arguments()
    sys.path.insert(0, str(options.published))
    import torch

    if options.device == "cpu":
        torch.cuda.synchronize = lambda *_arguments: None
    from sparsegpt import SparseGPT

    where = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"published code, torch {torch.__version__}, {where}, {options.windows} x {options.length} tokens\n")
    print("| matrices | shape | Hessian ms | solve ms | of a block, ms |\n|---|---|---|---|---|")
    total = 0.0
    with torch.no_grad():
        for name, count, rows, columns in SHAPES[options.shape]:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for each
                taken = [
                    time_matrix(SparseGPT, rows, columns, options) for _ in range(options.repetitions + 1)
                ]
            hessian = statistics.median(one[0] for one in taken[1:])  # the first one warms up
            solve = statistics.median(one[1] for one in taken[1:])
            total += count * (hessian + solve)
            print(
                f"| {name} | {rows} x {columns} | {hessian * 1e3:.2f} | {solve * 1e3:.2f} "
                f"| {count * (hessian + solve) * 1e3:.2f} |"
            )
    print(f"| decoder block | | | | {total * 1e3:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
