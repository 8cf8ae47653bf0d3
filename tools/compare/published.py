# SPDX-License-Identifier: Apache-2.0
"""The published side: drives a user's checkout of SparseGPT over a transformers model and times its phases.

Runs in a process of its own (`python -m compare.published`): one JSON object of settings on standard input,
one of results on standard output. The order of the work is that of the checkout's llama.py: the inputs of
block 0 are caught; per block one forward pass with hooks that add up the Hessians, `fasterprune` for each
layer, and one more forward pass through the pruned block. `SparseGPT` and `find_layers` are the checkout's
own, unchanged. Four things differ, none of which makes it slower: the model stays on the CPU, everything that
block 0 was called with is passed on (newer transformers needs the position embeddings), what it prints goes
nowhere, and torch.cuda.synchronize, which it calls whatever the device, does nothing where there is no GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class PhaseClock:
    """Seconds by phase; an inner phase stops the clock of the outer one."""

    def __init__(self, now: Any = time.perf_counter) -> None:
        """Starts with no phase running."""
        self.seconds: dict[str, float] = {}
        self._now = now
        self._running: list[str] = []
        self._since = 0.0

    def _charge(self) -> None:
        """Adds the time since the last change to the phase that runs."""
        moment = self._now()
        if self._running:
            phase = self._running[-1]
            self.seconds[phase] = self.seconds.get(phase, 0.0) + moment - self._since
        self._since = moment

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charges the time inside to NAME."""
        self._charge()
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()


def load_published(checkout: Path) -> tuple[Any, Any]:
    """The checkout's SparseGPT class and find_layers function."""
    import torch

    sys.path.insert(0, str(checkout))
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *_arguments: None
    return importlib.import_module("sparsegpt").SparseGPT, importlib.import_module("modelutils").find_layers


class Caught(Exception):
    """Ends the model's forward pass once the inputs of block 0 are known."""


def catch_inputs(model: Any, windows: Any) -> tuple[Any, dict[str, Any]]:
    """Hidden states before block 0, one window a row, and the keyword arguments blocks are called with."""
    import torch

    states: list[Any] = []
    keywords: dict[str, Any] = {}

    def hook(_module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        named = dict(named)
        states.append(positional[0] if positional else named.pop("hidden_states"))
        keywords.update(named)
        raise Caught

    handle = model.model.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    for window in windows:
        with contextlib.suppress(Caught):
            model(torch.from_numpy(window)[None], use_cache=False)
    handle.remove()
    return torch.cat(states), keywords


def prune(model: Any, windows: Any, published: tuple[Any, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Prunes MODEL in place; seconds by phase, and of the whole loop over the blocks."""
    import torch

    gpt_class, find_layers = published
    clock = PhaseClock()
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        inputs, keywords = catch_inputs(model, windows)
        outputs = torch.zeros_like(inputs)
        processor, begin = time.process_time(), time.perf_counter()
        for block in model.model.layers:
            layers = find_layers(block)
            pruners = {name: gpt_class(layer) for name, layer in layers.items()}
            collect_hessians(block, layers, pruners, clock, (inputs, outputs, keywords))
            with clock.phase("solve"):
                for pruner in pruners.values():
                    pruner.fasterprune(
                        settings["sparsity"], blocksize=settings["block_size"], percdamp=settings["damping"]
                    )
                    pruner.free()
            with clock.phase("forward"):
                run_block(block, inputs, outputs, keywords)
            inputs, outputs = outputs, inputs
        wall = time.perf_counter() - begin
        processor = time.process_time() - processor
    return {"seconds": clock.seconds, "wall": wall, "cores_busy": processor / wall}


def run_block(block: Any, inputs: Any, outputs: Any, keywords: dict[str, Any]) -> None:
    """One forward pass, one sequence at a time, as llama.py does it."""
    for index in range(inputs.shape[0]):
        outputs[index] = block(inputs[index].unsqueeze(0), **keywords)[0]


def collect_hessians(
    block: Any,
    layers: dict[str, Any],
    pruners: dict[str, Any],
    clock: PhaseClock,
    states: tuple[Any, Any, Any],
) -> None:
    """The first forward pass of a block, with add_batch in hooks."""

    def hook_of(pruner: Any) -> Any:
        def hook(_layer: Any, positional: tuple[Any, ...], out: Any) -> None:
            with clock.phase("hessian"):
                pruner.add_batch(positional[0].data, out.data)

        return hook

    handles = [layers[name].register_forward_hook(hook_of(pruner)) for name, pruner in pruners.items()]
    with clock.phase("forward"):
        run_block(block, *states)
    for handle in handles:
        handle.remove()


def sgemm_rate(size: int = 2048, repeats: int = 5) -> float:
    """GFLOP/s of torch.mm in float32, the median of some products, after one to warm up."""
    import torch

    left, right, out = (torch.rand(size, size) for _ in range(3))
    torch.mm(left, right, out=out)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        torch.mm(left, right, out=out)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / sorted(seconds)[repeats // 2] / 1e9


def sparsity_of(model: Any, find_layers: Any) -> float:
    """Share of zeros in the pruned matrices."""
    zeros = total = 0
    for block in model.model.layers:
        for layer in find_layers(block).values():
            zeros += int((layer.weight == 0).sum())
            total += layer.weight.numel()
    return zeros / total


def evaluate(model: Any, settings: dict[str, Any]) -> dict[str, float]:
    """Perplexity of each evaluation file, by the file's stem."""
    import check_transformers

    result = {}
    for path in map(Path, settings["evaluate"]):
        windows = check_transformers.read_windows(path, settings["length"], settings["evaluation_samples"])
        result[path.stem] = math.exp(check_transformers.negative_log_likelihood(model, windows))
    return result


def versions() -> dict[str, str]:
    """What the published side ran on."""
    import torch
    import transformers

    lines = torch.__config__.show().splitlines()
    blas = next((line.strip(" -") for line in lines if "Kernel Library" in line), "")
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "blas": blas,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """One trial."""
    import check_transformers
    import torch

    torch.set_num_threads(settings["threads"])
    published = load_published(Path(settings["published"]))
    windows = check_transformers.read_windows(
        Path(settings["tokens"]), settings["length"], settings["samples"]
    )
    model = check_transformers.load_model(Path(settings["model"]))
    model.config.use_cache = False
    dense = evaluate(model, settings) if settings["evaluate"] else {}
    rate = sgemm_rate()
    result = prune(model, windows, published, settings)
    result["sgemm_gflops"] = max(rate, sgemm_rate())
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result["sparsity"] = sparsity_of(model, published[1])
    result["dense_perplexity"] = dense
    result["perplexity"] = evaluate(model, settings) if settings["evaluate"] else {}
    result["versions"] = versions()
    result["threads"] = torch.get_num_threads()
    result["attention"] = model.config._attn_implementation
    return result


def main() -> None:
    """Entry point. The result has a file descriptor of its own, for libraries that print."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(run(json.load(sys.stdin)), out)
    out.close()


if __name__ == "__main__":
    main()
