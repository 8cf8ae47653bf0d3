# SPDX-License-Identifier: Apache-2.0
"""Our side: runs the program as a user would, and reads its phases, speed of products and perplexities."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from common import fail

CLIENT = "calibration"  # its name in configs/compare.toml
PHASES = ("forward", "hessian", "factorize", "prune", "pack")
ORDERS = {"staged": ("staged", "exact"), "block": ("block", "published"), "bf16": ("staged", "exact")}
PRODUCTS = {"bf16": "bf16"}  # by side; else f32


def call(command: list[str], threads: int) -> str:
    """Standard output of a command; ends the program with the command's last words where it fails."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PMIX_MCA_pcompress_base_silence_warning": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        words = "\n".join(done.stderr.strip().splitlines()[-5:])
        fail(f"{' '.join(command)} ended with status {done.returncode}:\n{words}", status=1)
    return done.stdout


def prune_command(program: Path, config: Path, run: Path, settings: dict[str, Any], side: str) -> list[str]:
    """The command line of one trial."""
    order, count = ORDERS[side]
    values = {
        "model.path": Path(settings["model"]).resolve(),
        "run.dir": run.resolve(),
        "run.threads": settings["threads"],
        "prune.order": order,
        "prune.count": count,
        "calibration.samples": settings["samples"],
        "calibration.sequence_length": settings["length"],
        "run.products": PRODUCTS.get(side, "f32"),
        f"client.{CLIENT}.tokens": Path(settings["tokens"]).resolve(),
    }
    command = [str(program), "prune", str(config), "--quiet"]
    for key, value in values.items():
        command += ["--set", f"{key}={value}"]
    return command


def has_bf16_products(program: Path, threads: int) -> bool:
    """Whether this CPU multiplies bf16 numbers, by `fedspallm doctor`."""
    lines = call([str(program), "doctor"], threads).splitlines()
    return any(line.split()[:3] == ["bf16", "products", "yes"] for line in lines)


def read_run(run: Path) -> dict[str, Any]:
    """Seconds by phase and of the loop over the blocks, by the files that a run leaves."""
    summary = json.loads((run / "summary.json").read_text())
    ranks = summary["rank_seconds"]
    if len(ranks) != 1:
        fail(f"{run}/summary.json: {len(ranks)} ranks found, 1 expected")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "client_block"]
    return {
        "seconds": {phase: float(ranks[0][phase]) for phase in PHASES},
        "wall": sum(event["end"] - event["begin"] for event in events),
        "peak_rss_bytes": summary["peak_rss_bytes"][0],
        "sparsity": summary["sparsity"],
        "version": summary.get("version", ""),
    }


def prune(program: Path, config: Path, run: Path, settings: dict[str, Any], side: str) -> dict[str, Any]:
    """One trial in a run folder of its own."""
    shutil.rmtree(run, ignore_errors=True)
    call(prune_command(program, config, run, settings, side), settings["threads"])
    return read_run(run)


def evaluate(program: Path, model: Path, settings: dict[str, Any], client: bool) -> dict[str, float]:
    """Perplexities by file stem, of a model directory or of the client of a run."""
    if not settings["evaluate"]:
        return {}
    command = [str(program), "eval", str(model), "--json", "--sequence-length", str(settings["length"])]
    if client:
        command += ["--client", CLIENT]
    if settings["evaluation_samples"] is not None:
        command += ["--samples", str(settings["evaluation_samples"])]
    result = json.loads(call([*command, "--tokens", *settings["evaluate"]], settings["threads"]))
    return {entry["name"]: entry["perplexity"] for entry in result["evaluations"]}


def find_rate(value: Any) -> float | None:
    """GFLOP/s: the first number by a key with sgemm and gflops, or limit_rate beside limit = sgemm."""
    if isinstance(value, list):
        return next((rate for item in value if (rate := find_rate(item)) is not None), None)
    if not isinstance(value, dict):
        return None
    if value.get("limit") == "sgemm" and isinstance(value.get("limit_rate"), (int, float)):
        return float(value["limit_rate"]) / 1e9
    for key, item in value.items():
        if "sgemm" in key and "gflops" in key and isinstance(item, (int, float)):
            return float(item)
    return next((rate for item in value.values() if (rate := find_rate(item)) is not None), None)


def sgemm_rate(program: Path, threads: int) -> float | None:
    """GFLOP/s of our BLAS by `fedspallm bench forward`; nothing where it does not say."""
    command = [str(program), "bench", "forward", "--threads", str(threads), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    try:
        return find_rate(json.loads(done.stdout))
    except ValueError:
        return None
