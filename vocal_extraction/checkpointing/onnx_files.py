"""Models in ONNX: one graph, and the graphs that it is cut into at its recurrent layers, as docs/edge.md has them."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from vocal_extraction.checkpointing.archive import CheckpointError, reason_of
from vocal_extraction.checkpointing.metadata import CheckpointMetadata, STFTParams

FORMAT = 1
METADATA_KEY = "vocal_extraction"  # entry of ``metadata_props`` that holds the metadata as JSON
WAYS = ("forward", "backward")  # names of a layer's directions
# What is kept of a checkpoint's metadata, beside the signal.
_KEPT = ("n_channels", "sources", "preset", "licence", "n_steps", "training_s", "git_commit", "members", "imported")
MOST_LAYERS = 64
NETWORK = "network"  # name of the only graph of a network that is not cut
Ends = tuple[list[str], list[str]]  # names of a graph's inputs and outputs


def graph_ends(directions: Sequence[int]) -> dict[str, Ends]:
    """Return inputs and outputs of each graph by its name, in the order in which they run.

    `directions` has the number of directions of each recurrent layer; none: the network is one graph.

    >>> list(graph_ends([2]))
    ['encode', 'forward0', 'backward0', 'combine0', 'decode']
    """
    if not directions:
        return {NETWORK: (["magnitudes"], ["masks"])}
    ends: dict[str, Ends] = {"encode": (["magnitudes"], ["features0"])}
    for i, n_directions in enumerate(directions):
        layers = [f"{way}{i}" for way in WAYS[:n_directions]]
        for name in layers:
            states, following = ([f"{name}.{part}" for part in parts] for parts in (("h", "c"), ("next_h", "next_c")))
            ends[name] = ([f"features{i}", *states], [f"{name}.output", *following])
        ends[f"combine{i}"] = ([f"features{i}", *(f"{name}.output" for name in layers)], [f"features{i + 1}"])
    return {**ends, "decode": ([f"features{len(directions)}"], ["masks"])}


def cut(model: onnx.ModelProto, directions: Sequence[int]) -> dict[str, onnx.ModelProto]:
    """Cut a network's graph at its recurrent layers, whose graphs take and return states, or raise CheckpointError."""
    try:
        return _cut(model, directions)
    except (LookupError, TypeError, ValueError) as error:  # TypeError: names that are no UTF-8 are bytes
        raise CheckpointError(f"its graph cannot be cut at its layers ({reason_of(error)})") from error


def _cut(model: onnx.ModelProto, directions: Sequence[int]) -> dict[str, onnx.ModelProto]:
    graph, ends = model.graph, graph_ends(directions)
    producers = {output: number for number, node in enumerate(graph.node) for output in node.output if output}
    shapes = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
    weights = {weight.name: weight for weight in graph.initializer}
    states = {each for _, outputs in ends.values() for each in outputs if each.endswith(".next_h")}
    if states != {each for each in producers if each.endswith(".next_h")}:
        raise ValueError("its metadata lists other layers")
    found = {}
    for name, (inputs, outputs) in ends.items():
        numbers: set[int] = set()
        used, waiting = [], [*outputs]
        while waiting:
            value = waiting.pop()
            if value in weights:
                used.append(value)
            elif value and value not in inputs and producers[value] not in numbers:
                numbers.add(producers[value])
                waiting += graph.node[producers[value]].input
        part = onnx.helper.make_graph(
            [graph.node[number] for number in sorted(numbers)],
            name,
            [shapes[each] for each in inputs],
            [shapes[each] for each in outputs],
            [weights[each] for each in dict.fromkeys(used)],
        )
        found[name] = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
        if len(inputs) > 1 and len(outputs) > 1:
            _take_states(found[name].graph, inputs[1:], outputs[1:])
    return found


def _take_states(graph: onnx.GraphProto, states: Sequence[str], following: Sequence[str]) -> None:
    """Make a layer's states inputs, and let it take the frames in the given order."""
    (node,) = (node for node in graph.node if following[0] in node.output)
    given = [*node.input, *[""] * (7 - len(node.input))]  # features, weights, bias, lengths, two states, ...
    given[5:7] = states
    node.ClearField("input")
    node.input.extend(given)
    kept = [attribute for attribute in node.attribute if attribute.name != "direction"]
    node.ClearField("attribute")
    node.attribute.extend(kept)


def stored(metadata: CheckpointMetadata, **facts: Any) -> dict[str, Any]:
    """Return metadata and further facts as plain values."""
    known = {name: value for name in _KEPT if (value := getattr(metadata, name))}
    return {"format": FORMAT, "signal": dataclasses.asdict(metadata.signal), **known, **facts}


def parse(contents: bytes, *, weights: bytes | None = None) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the model in a file's contents, and what it says of itself.

    `weights` are the contents of the only file that may hold values for it; None: all are in the model. Raises
    CheckpointError if it is damaged, of another program, or refers to other files.
    """
    try:
        model = onnx.load_model_from_string(contents)
    except DecodeError as error:
        raise CheckpointError("it is no ONNX model, or only a part of one") from error
    attributes = [each for node in model.graph.node for each in node.attribute]
    for tensor in (*model.graph.initializer, *(each.t for each in attributes)):
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        if weights is None:
            raise CheckpointError("it takes values from other files; only models in one file are accepted")
        place = {entry.key: entry.value for entry in tensor.external_data}
        start, length = int(place["offset"]), int(place["length"])
        values = weights[start : start + length]
        if tensor.data_type == onnx.TensorProto.FLOAT and length == 2 * math.prod(tensor.dims):
            values = np.frombuffer(values, "<f2").astype("<f4").tobytes()  # a checkpoint of half its size
        tensor.ClearField("external_data")
        tensor.data_location, tensor.raw_data = onnx.TensorProto.DEFAULT, values
    if model.functions or any(each.HasField("g") or each.graphs for each in attributes):
        raise CheckpointError("it has functions or graphs within its graph, which no export of this program has")
    stored = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    try:
        metadata = json.loads(stored[0]) if stored else None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its metadata is no JSON ({reason_of(error)})") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(f"it lacks metadata of this program's format {FORMAT}: it was exported by another")
    return model, metadata


def metadata_of(stored: dict[str, Any]) -> CheckpointMetadata:
    """Return what `stored` made into JSON; raise CheckpointError or SettingsError if it is something else."""
    signal = stored.get("signal")
    if not isinstance(signal, dict):
        raise CheckpointError("its metadata lacks 'signal'")
    stft = STFTParams(*(signal.get(name) for name in STFTParams._fields))
    renamed = {"stft_params": stft, "num_channels": stored.get("n_channels"), "source_names": stored.get("sources")}
    return CheckpointMetadata.parse({**signal, **stored, **renamed})


def layers_of(stored: dict[str, Any]) -> list[dict[str, int]]:
    """Return 'directions' and 'units' of each layer, as the metadata has them."""
    layers = stored.get("layers")
    if not isinstance(layers, list) or len(layers) > MOST_LAYERS:
        raise CheckpointError("its metadata does not list its layers")
    for each in layers:
        sizes = (each.get("directions"), each.get("units")) if isinstance(each, dict) else (0, 0)
        if sizes[0] not in (1, 2) or type(sizes[1]) is not int or sizes[1] < 1:
            raise CheckpointError("its metadata describes a layer that is none")
    return layers


def frames_of(stored: dict[str, Any], name: str, most: int) -> int:
    """Return a number of frames, `lookahead` or `block_frames`, that the metadata has; 0 where it has none."""
    n_frames = stored.get(name, 0)
    if type(n_frames) is not int or not 0 <= n_frames <= most:
        raise CheckpointError(f"its metadata has a {name} that is none")
    return n_frames
