#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Perplexity of a model directory as Hugging Face transformers computes it, to check `fedspallm eval`.

Window i is tokens[i*L, (i+1)*L), each alone, no BOS added, weights in float32; the NLL is the mean over
the L-1 predictions of all windows. torch and transformers are installed into build/venv-transformers
when they are missing (some 5 GB on disk; only this tool and make_goldens.py need them).

With --compare FILE (the output of `fedspallm eval --json`) the exit status is 1 when a perplexity
differs by more than 0.1 %, or a set is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
from common import fail

VENV = common.ROOT / "build" / "venv-transformers"
PACKAGES = ("torch==2.15.0", "transformers==5.23.0", "numpy==2.4.6", "h5py==3.16.0")
TOLERANCE = 1e-3


def enter_transformers_venv() -> None:
    """Makes the environment where it is missing and goes on inside it."""
    stamp = VENV / ".complete"
    wanted = " ".join(PACKAGES)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Installing {wanted} into {VENV} (some 5 GB)", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run(command, check=True, stdout=sys.stderr)
            subprocess.run([*pip, *PACKAGES], check=True, stdout=sys.stderr)
        except subprocess.CalledProcessError as error:
            fail(f"{' '.join(error.cmd[:4])} ... failed with status {error.returncode}")
        stamp.write_text(wanted)
    common.enter_venv(VENV)


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="Hugging Face model directory")
    parser.add_argument("--tokens", nargs="+", required=True, type=Path, help="token files")
    parser.add_argument("--sequence-length", type=int, default=512, help="default: 512")
    parser.add_argument("--samples", type=int, help="windows per file (default: all whole windows)")
    parser.add_argument("--compare", type=Path, metavar="JSON", help="output of `fedspallm eval --json`")
    parser.add_argument("--json", action="store_true", help="print one JSON object, as eval does")
    return parser.parse_args()


def read_windows(path: Path, length: int, samples: int | None) -> Any:
    """The windows of a token file, one a row."""
    import h5py
    import numpy as np

    try:
        with h5py.File(path, "r") as file:
            tokens = file["tokens"][:]
    except (OSError, KeyError) as error:
        fail(f"{path}: not a token file: {error}")
    whole = len(tokens) // length
    count = whole if samples is None else samples
    if count < 1 or count > whole:
        fail(f"{path}: {len(tokens)} tokens are {whole} windows of {length}; {count} asked")
    return tokens[: count * length].astype(np.int64).reshape(count, length)


def negative_log_likelihood(model: Any, windows: Any) -> float:
    """Mean NLL over all predictions of all windows, summed in float64."""
    import torch

    total = 0.0
    with torch.inference_mode():
        for window in windows:
            ids = torch.from_numpy(window)
            logits = model(ids[None], use_cache=False).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits.double(), ids[1:], reduction="sum").item()
    return total / (windows.shape[0] * (windows.shape[1] - 1))


def load_model(path: Path) -> Any:
    """The model in float32; missing or unexpected tensors are an error."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, info = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            fail(f"{path}: transformers reports {kind}: {sorted(map(str, info[kind]))[:5]}", status=1)
    return model.eval()


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """The same object that `fedspallm eval --json` prints."""
    model = load_model(options.model)
    evaluations = []
    for path in options.tokens:
        windows = read_windows(path, options.sequence_length, options.samples)
        nll = negative_log_likelihood(model, windows)
        evaluations.append(
            {
                "name": path.stem,
                "tokens": str(path),
                "samples": len(windows),
                "predictions": len(windows) * (options.sequence_length - 1),
                "nll": nll,
                "perplexity": math.exp(nll),
            }
        )
        if not options.json:
            print(f"{path.stem:24s} {math.exp(nll):12.4f}", flush=True)
    return {
        "format_version": 1,
        "model": str(options.model),
        "dtype": "float32",
        "sequence_length": options.sequence_length,
        "evaluations": evaluations,
    }


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> int:
    """Says where transformers and fedspallm differ; the exit status."""
    found = {entry["name"]: entry for entry in theirs["evaluations"]}
    status = 0
    for entry in ours["evaluations"]:
        other = found.get(entry["name"])
        if other is None:
            print(f"{entry['name']}: missing in the compared file", file=sys.stderr)
            status = 1
            continue
        difference = other["perplexity"] / entry["perplexity"] - 1
        same = abs(difference) <= TOLERANCE and other["predictions"] == entry["predictions"]
        print(
            f"{entry['name']:24s} transformers {entry['perplexity']:.6f}  "
            f"fedspallm {other['perplexity']:.6f}  {100 * difference:+.5f} %  {'ok' if same else 'DIFFERENT'}",
            file=sys.stderr,
        )
        status = status if same else 1
    return status


def main() -> int:
    """Entry point."""
    options = arguments()
    enter_transformers_venv()
    if not (options.model / "config.json").is_file():
        fail(f"{options.model} is not a Hugging Face model directory: it has no config.json")
    result = evaluate(options)
    if options.json:
        print(json.dumps(result))
    if options.compare is None:
        return 0
    return compare(result, json.loads(options.compare.read_text()))


if __name__ == "__main__":
    sys.exit(main())
