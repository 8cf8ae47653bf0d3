#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times the published SparseGPT code (your checkout) and fedspallm on the same model, tokens and threads.

The sides take turns, several times; the table shows medians with the smallest and largest value, perplexities
of the results, and what the machine's matrix products would allow. Files are neither read nor written in the
timed phases of either side. --published is the only argument needed once `tools/run_reference.sh FOLDER
--prepare-only` has made the inputs. torch and transformers are installed into build/venv-transformers when
they are missing (some 5 GB). docs/measurements/compare.md says what is measured, and how.

Exit status: 0 measured (with --check: and every claim met), 1 a claim not met or a side failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import check_transformers
import common
from common import fail
from compare import cut_model, machine, ours, table, work

ROOT = common.ROOT
CONFIG = ROOT / "configs" / "compare.toml"
SIDES = ("published", "staged", "block", "bf16")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} found, at least 1 expected")
    return value


def blocks_or_all(text: str) -> int | None:
    """A number of blocks; None for all."""
    return None if text == "all" else positive(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    data = ROOT / "data" / "reference"
    add(
        "--published",
        type=Path,
        required=True,
        metavar="PATH",
        help="checkout with sparsegpt.py and modelutils.py",
    )
    add("--model", type=Path, default=ROOT / "models" / "smollm2-135m-f32", help="default: %(default)s")
    add("--tokens", type=Path, default=data / "austen.calibration.h5", help="default: %(default)s")
    add("--samples", type=positive, default=16, help="windows to calibrate on (default: 16)")
    add("--length", type=positive, default=512, help="tokens of a window (default: 512)")
    add("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="default: all cores")
    add("--repeats", type=positive, default=3, help="trials of each side (default: 3)")
    add(
        "--blocks",
        type=blocks_or_all,
        default=None,
        metavar="N|all",
        help="only the first N blocks (default: all)",
    )
    add("--evaluate", type=Path, nargs="*", default=[data / "austen.test.h5"], metavar="FILE",
        help="token files for the perplexities; none: leave them out (default: %(default)s)")  # fmt: skip
    add("--evaluation-samples", type=positive, metavar="N", help="windows of each (default: all)")
    add(
        "--fedspallm",
        type=Path,
        default=ROOT / "build" / "release" / "fedspallm",
        help="default: %(default)s",
    )
    add(
        "--sides",
        nargs="+",
        choices=SIDES,
        help="default: all; bf16 (16-bit products) where the CPU has AVX512-BF16",
    )
    add(
        "--out",
        type=Path,
        default=ROOT / "runs" / "compare",
        help="compare.json, compare.md and the runs go here",
    )
    add("--json", action="store_true", help="print the JSON object, not the table")
    add("--check", action="store_true", help="exit with status 1 unless every claim is met")
    return result


def check_inputs(options: argparse.Namespace) -> None:
    """Ends the program with a message when something is missing."""
    sides = set(options.sides or SIDES)
    for name in ("sparsegpt.py", "modelutils.py"):
        if "published" in sides and not (options.published / name).is_file():
            fail(
                f"--published {options.published}: no {name} there; a checkout of IST-DASLab/sparsegpt has it"
            )
    prepare = "tools/run_reference.sh FOLDER --prepare-only makes the default inputs"
    if not (options.model / "config.json").is_file():
        fail(f"--model {options.model}: no config.json there; {prepare}")
    for path in (options.tokens, *options.evaluate):
        if not path.is_file():
            fail(f"{path}: no such token file; {prepare}")
    if sides != {"published"} and not os.access(options.fedspallm, os.X_OK):
        fail(
            f"--fedspallm {options.fedspallm}: no program there; build it: "
            "cmake --preset release && cmake --build --preset release"
        )


def settings_of(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """What both sides are given; sparsity, block size and damping are those of configs/compare.toml."""
    prune = tomllib.loads(CONFIG.read_text())["prune"]
    return {
        "published": str(options.published),
        "model": str(model),
        "tokens": str(options.tokens),
        "samples": options.samples,
        "length": options.length,
        "threads": options.threads,
        "repeats": options.repeats,
        "sparsity": prune["sparsity"],
        "block_size": prune["block_size"],
        "damping": prune["damping"],
        "evaluate": [str(path) for path in options.evaluate],
        "evaluation_samples": options.evaluation_samples,
    }


def published_trial(settings: dict[str, Any], evaluate: bool) -> dict[str, Any]:
    """One run of the published code in a process of its own."""
    threads = str(settings["threads"])
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tools"),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": "",
    }
    given = settings if evaluate else {**settings, "evaluate": []}
    command = [sys.executable, "-m", "compare.published"]
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode != 0:
        words = "\n".join(done.stderr.strip().splitlines()[-5:])
        fail(f"the published side ended with status {done.returncode}:\n{words}", status=1)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def our_trial(
    options: argparse.Namespace, settings: dict[str, Any], side: str, evaluate: bool
) -> dict[str, Any]:
    """One run of fedspallm, the speed of its products just before, and its perplexities."""
    rate = ours.sgemm_rate(options.fedspallm, options.threads)
    run = options.out / f"run-{side}"
    result = ours.prune(options.fedspallm, CONFIG, run, settings, side)
    result["sgemm_gflops"] = rate
    if evaluate:
        result["perplexity"] = ours.evaluate(options.fedspallm, run, settings, client=True)
        result["dense_perplexity"] = ours.evaluate(
            options.fedspallm, Path(settings["model"]), settings, client=False
        )
    return result


def measure(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """All trials: the sides in turn, every other time in the reverse order."""
    trials: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for repeat in range(options.repeats):
        order = options.sides if repeat % 2 == 0 else options.sides[::-1]
        for side in order:
            print(
                f"trial {repeat + 1} of {options.repeats}: {table.NAMES[side]}", file=sys.stderr, flush=True
            )
            with machine.watch() as watched:
                if side == "published":
                    trial = published_trial(settings, evaluate=repeat == 0)
                else:
                    trial = our_trial(options, settings, side, evaluate=repeat == 0)
            trials[side].append({**trial, **watched})
    return trials


def versions_of(options: argparse.Namespace, trials: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """What was compared, by name."""
    result = {}
    if "published" in trials:
        checkout = machine.checkout_facts(options.published)
        found = trials["published"][0]["versions"]
        result["published"] = (
            f"commit {checkout['commit'][:12] or 'unknown'}, "
            f"sparsegpt.py sha256 {checkout['sparsegpt_sha256'][:16]}, "
            f"torch {found['torch']} ({found['blas']}, {found['instructions']}), "
            f"transformers {found['transformers']}, attention {trials['published'][0]['attention']}"
        )
    if set(trials) != {"published"}:
        result["fedspallm"] = ours.call([str(options.fedspallm), "--version"], options.threads).strip()
    return result


def report_of(
    options: argparse.Namespace, settings: dict[str, Any], trials: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The JSON object."""
    shape = work.read_shape(Path(settings["model"]))
    size = (shape, settings["samples"], settings["length"])
    needed = work.needed(*size)
    total = sum(needed.values())
    sides = {name: table.side_of(found, total) for name, found in trials.items()}
    facts = machine.facts(options.threads)
    return {
        "format_version": 1,
        "command": " ".join(["tools/compare_sparsegpt.py", *sys.argv[1:]]),
        "machine": facts,
        "versions": versions_of(options, trials),
        "settings": settings,
        "work": {"needed": needed, "performed_by_published": work.performed_by_published(*size)},
        "sides": sides,
        "claims": table.claims_of(sides),
        "warnings": table.warnings_of(sides, facts["cores"]),
    }


def main() -> int:
    """Entry point."""
    options = parser().parse_args()
    check_inputs(options)
    if options.sides is None:
        has_bf16 = ours.has_bf16_products(options.fedspallm, options.threads)
        options.sides = [side for side in SIDES if side != "bf16" or has_bf16]
    if "published" in options.sides:
        check_transformers.enter_transformers_venv()
    options.out.mkdir(parents=True, exist_ok=True)
    model = options.model
    if options.blocks is not None:
        model = cut_model.cut(model, options.blocks, options.out / f"model-{options.blocks}")
    settings = settings_of(options, model)
    work.read_shape(model)
    report = report_of(options, settings, measure(options, settings))
    common.write_json(options.out / "compare.json", report)
    text = table.markdown(report)
    with common.atomic_file(options.out / "compare.md") as stream:
        stream.write((text + "\n").encode())
    print(json.dumps(report) if options.json else text)
    missed = any(claim["met"] is not True for claim in report["claims"])
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
