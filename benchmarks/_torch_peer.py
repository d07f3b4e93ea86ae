"""The far end of `peers.py`: the same network in PyTorch, pruned by Torch-Pruning.

Runs in an environment of its own and imports `torch` and `torch_pruning`, nothing of this project.
The options are a JSON object in `argv[1]`; the last line of the output is a JSON object with the
results.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch_pruning
from torch import nn

_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_WARM_UP_CALLS = 3
_LEAST_CALLS = 3


def vgg16(factor: float, classes: int) -> nn.Sequential:
    """Builds what `keras_branch_prune.zoo.vgg16` builds at this width, for images of 32 pixels."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    channels = 3
    for sizes in _BLOCKS:
        for full in sizes:
            filters = max(1, round(full * factor))
            parts.append(nn.Conv2d(channels, filters, 3, padding=1, bias=False))
            parts += [nn.BatchNorm2d(filters), nn.ReLU()]
            channels = filters
        parts.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(channels, classes)).eval()


def pruned(model: nn.Sequential, width: float, round_to: int, image: torch.Tensor) -> None:
    """Removes channels of small L1 norm, in place; the classes stay."""
    torch_pruning.pruner.MagnitudePruner(
        model,
        image,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=1 - width,
        ignored_layers=[model[-1]],
        round_to=round_to,
    ).step()


def sizes(model: nn.Module, image: torch.Tensor) -> dict[str, int]:
    """Returns the trainable parameters, and the MACs of convolutions and dense layers."""
    macs: list[int] = []

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        # Each output number is a sum over as many products as one filter has weights.
        macs.append(output[0].numel() * layer.weight[0].numel())

    layers = [x for x in model.modules() if isinstance(x, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()
    return {"parameters": sum(x.numel() for x in model.parameters()), "macs": sum(macs)}


def folded(model: nn.Sequential) -> nn.Sequential:
    """Returns the model with BatchNorm folded into the convolutions, as our exports have it."""
    parts: list[nn.Module] = []
    for part in model:
        if isinstance(part, nn.BatchNorm2d):
            parts[-1] = nn.utils.fuse_conv_bn_eval(parts[-1], part)
        else:
            parts.append(part)
    return nn.Sequential(*parts).eval()


def latencies(models: dict[str, nn.Module], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the median ms per call of every model, by batch size; the models take turns."""
    found = []
    models = {name: x.to(memory_format=torch.channels_last) for name, x in models.items()}
    for batch in options["batch_sizes"]:
        images = torch.rand(batch, 3, options["size"], options["size"])
        images = images.to(memory_format=torch.channels_last)
        runs = {name: functools.partial(model, images) for name, model in models.items()}
        with torch.inference_mode():
            ms = medians(runs, options["rounds"], options["seconds"])
        found.append({"batch": batch, "ms": ms})
    return found


def medians(
    runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float
) -> dict[str, float]:
    """Returns the median time of a call of every function, ms.

    Args:
        runs: Functions by name, that return when all is computed.
        rounds: Turns that every function takes, in every round in another order.
        seconds: Least time of one turn, s.
    """
    for run in runs.values():
        for _ in range(_WARM_UP_CALLS):
            run()
    calls: dict[str, list[float]] = {name: [] for name in runs}
    turns = list(runs)
    for number in range(rounds):
        first = number % len(turns)
        for name in turns[first:] + turns[:first]:
            calls[name] += _turn(runs[name], seconds)
    return {name: statistics.median(times) for name, times in calls.items()}


def _turn(run: Callable[[], object], seconds: float) -> list[float]:
    calls: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(calls) < _LEAST_CALLS:
        start = time.perf_counter()
        run()
        calls.append((time.perf_counter() - start) * 1e3)
    return calls


def main() -> None:
    """Prunes and measures, and prints the results."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    torch.set_num_interop_threads(1)
    image = torch.rand(1, 3, options["size"], options["size"])
    original = vgg16(options["full_width"], options["classes"])
    seconds = []
    for _ in range(options["repeats"]):
        compact = vgg16(options["full_width"], options["classes"])
        start = time.perf_counter()
        pruned(compact, options["width"], options["round_to"], image)
        seconds.append(time.perf_counter() - start)
    models = {"original": original, "compact": compact}
    models.update({f"{name}, folded": folded(model) for name, model in models.items()})
    result = {
        "versions": {
            "PyTorch": torch.__version__,
            "Torch-Pruning": importlib.metadata.version("torch-pruning"),
        },
        "seconds": statistics.median(seconds),
        "sizes": {name: sizes(models[name], image) for name in ("original", "compact")},
        "latencies": latencies(models, options),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
