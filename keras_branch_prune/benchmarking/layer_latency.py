"""How long each layer of a model takes on this machine, measured one by one."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import layers, tree

from keras_branch_prune.analysis import graph_costs
from keras_branch_prune.exporting import inference_form, inference_function
from keras_branch_prune.graph import Call, Graph, Unit, Value, build_model, canonical, draw_inputs
from keras_branch_prune.rules import layer_macs

Measure = Callable[[Mapping[str, keras.Model], int], dict[str, float]]
"""Maps models by name and the batch size to ms per call by name."""

_WHOLE, _NOTHING = "whole model", "nothing"
_WARM_UP_CALLS = 3
_ROUNDS = 5
_SECONDS_PER_TURN = 0.05
_CALLS_PER_TURN = 3


@dataclasses.dataclass(frozen=True)
class LayerLatencies:
    """How long the layers of a model take.

    Args:
        batch_size: Samples per call.
        layers: ms per call of the model, by the names of the layers that multiply; all uses of a
            layer together.
        whole: ms per call of the whole model.
    """

    batch_size: int
    layers: Mapping[str, float]
    whole: float

    @property
    def constant(self) -> float:
        """What the layers do not explain, ms per call: what lies between them, and overhead."""
        return max(0.0, self.whole - sum(self.layers.values()))


def layer_latencies(
    model: keras.Model, batch_size: int = 1, *, measure: Measure | None = None
) -> LayerLatencies:
    """Measures every layer that multiplies as a model of its own, and the model as a whole.

    Layers that differ only in name and weights are measured once. Models run as exported ones do,
    as functions with constant weights, in turns in this process and with its number of threads. The
    time of a model that does nothing is subtracted, for it is the overhead of a call.

    Args:
        model: A built functional or Sequential model.
        batch_size: Samples per call.
        measure: Measures models; `None` takes `measure_in_turns`.

    Returns:
        The latencies, ms.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has no functional graph, or the shapes of its tensors are open.
    """
    keys = {call: _timing_key(call) for call in canonical(model).calls if layer_macs(call)}
    models: dict[str, keras.Model] = {}
    for call, key in keys.items():
        if key not in models:
            models[key] = _isolate(call)
    models |= {_WHOLE: inference_form(model), _NOTHING: _make_idle_model()}
    times = (measure or measure_in_turns)(models, batch_size)
    net = {key: max(0.0, time - times[_NOTHING]) for key, time in times.items()}
    found: dict[str, float] = {}
    for call, key in keys.items():
        found[call.unit.name] = found.get(call.unit.name, 0.0) + net[key]
    return LayerLatencies(batch_size, found, net[_WHOLE])


def latency_cost(latencies: LayerLatencies, graph: Graph) -> dict[str, float]:
    """Returns what one MAC of every layer costs, ms, by layer name: a `kind` for `CostModel`.

    The model takes `latencies.constant` besides: `CostModel(analysis, latency_cost(latencies,
    graph), latencies.constant)`.

    Args:
        latencies: The latencies of a model's layers.
        graph: The canonical graph of that model.
    """
    macs = graph_costs(graph).layers
    return {name: latency / macs[name] for name, latency in latencies.layers.items()}


def measure_in_turns(models: Mapping[str, keras.Model], batch_size: int) -> dict[str, float]:
    """Runs models in turns, in another order every round; returns the least ms of a call.

    The least and not the mean, for whatever else runs on a machine only adds time (see the
    documentation of `timeit.Timer.repeat`).
    """
    runs = {name: _make_runner(model, batch_size) for name, model in models.items()}
    for run in runs.values():
        for _ in range(_WARM_UP_CALLS):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    turns = list(runs)
    for number in range(_ROUNDS):
        first = number * len(turns) // _ROUNDS
        for name in turns[first:] + turns[:first]:
            times[name] += _time_calls(runs[name])
    return {name: min(calls) for name, calls in times.items()}


def _time_calls(run: Callable[[], None]) -> list[float]:
    """Returns the milliseconds of every call of one turn."""
    calls: list[float] = []
    end = time.perf_counter() + _SECONDS_PER_TURN
    while time.perf_counter() < end or len(calls) < _CALLS_PER_TURN:
        start = time.perf_counter()
        run()
        calls.append((time.perf_counter() - start) * 1e3)
    return calls


def _make_runner(model: keras.Model, batch_size: int) -> Callable[[], None]:
    """Returns a function that runs a model once and waits for the result."""
    inputs = tree.flatten(draw_inputs(model, batch_size))
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs]
    predict, _ = inference_function(model, specs)

    # Fetching a whole output takes time that a layer within a model does not take; one number of
    # it waits for the computation as well.
    @tf.function(autograph=False)
    def first_numbers(*tensors: Any) -> list[Any]:
        return [tf.reshape(output, [-1])[:1] for output in predict(*tensors)]

    concrete = first_numbers.get_concrete_function(*specs)

    def run() -> None:
        for output in concrete(*inputs):
            output.numpy()

    return run


def _timing_key(call: Call) -> str:
    """Returns a text that is the same for calls that take equally long."""
    config = {key: value for key, value in call.unit.config.items() if key != "name"}
    arguments = call.bind(lambda value: f"{value.dtype} {value.shape}")
    return json.dumps([call.unit.cls.__name__, config, arguments], sort_keys=True, default=str)


def _isolate(call: Call) -> keras.Model:
    """Returns a model of this call only."""
    values = tuple(dict.fromkeys(call.inputs))
    units = tuple(_make_input(f"input_{index}", value) for index, value in enumerate(values))
    return build_model(Graph(call.unit.name, units, values, values, call.outputs, (call,)))


def _make_input(name: str, value: Value) -> Unit:
    config = {"name": name, "batch_shape": value.shape, "dtype": value.dtype}
    return Unit(name, layers.InputLayer, config)


def _make_idle_model() -> keras.Model:
    inputs = keras.Input((1,))
    return keras.Model(inputs, layers.Identity()(inputs))
