"""From a network of torch to the graphs of ONNX that `checkpointing.onnx_files` describes."""

import functools
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from vocal_extraction.checkpointing.onnx_files import NETWORK, WAYS, graph_ends
from vocal_extraction.errors import ExportError
from vocal_extraction.networks.layers import OverTime
from vocal_extraction.separation.torch_runtime import layerwise_network, one_direction

_OPSET = 17  # the first that has layer normalization; ONNX Runtime knows it since 2022
_FRAMES_BEHIND = {0: "n_batch", 1: "n_frames"}
_FRAMES_FIRST = {0: "n_frames", 1: "n_sequences"}
_N_ITEMS, _N_FRAMES = 2, 5  # of the example that the network is followed on; the graphs take any


class _Part(nn.Module):
    """A function of tensors that uses the weights of some modules."""

    def __init__(self, function: Callable[..., Any], *owners: nn.Module) -> None:
        super().__init__()
        self.function, self.owners = function, nn.ModuleList(owners)

    def forward(self, *values: Tensor) -> Any:
        return self.function(*values)


def export_graphs(
    network: nn.Module, *, n_bins: int, n_channels: int, fold: bool, limit: bool = False
) -> tuple[dict[str, onnx.ModelProto], list[dict[str, int]]]:
    """Return a network's graphs, and the directions and units of each layer; `fold` computes constants beforehand.

    `limit` cuts features off at the network's `largest_feature`, so that 8 bits resolve the others.
    """
    values = {"magnitudes": torch.full((_N_ITEMS, _N_FRAMES, n_bins, n_channels), 0.01)}
    inner: Any = layerwise_network(network)
    layers: list[OverTime] = [] if inner is None else inner.layers_over_time()
    parts = _layerwise_parts(inner, layers, limit=limit) if layers else {}
    parts.setdefault(NETWORK, _Part(lambda data: network({"mix_magnitude": data})["mask"], network))
    directions = [2 if layer.lstm.bidirectional else 1 for layer in layers]
    graphs = {}
    for name, (inputs, outputs) in graph_ends(directions).items():
        if inputs[-1].endswith(".c"):
            features = values[inputs[0]]
            lstm: Any = parts[name].owners[-1]
            values.update({state: torch.zeros(1, features.shape[1], lstm.hidden_size) for state in inputs[1:]})
        given = tuple(values[each] for each in inputs)
        with torch.no_grad():
            results = parts[name].eval()(*given)
        values.update(zip(outputs, results if isinstance(results, tuple) else [results], strict=True))
        graphs[name] = _exported(parts[name], given, inputs, outputs, fold=fold)
    units = [layer.lstm.hidden_size for layer in layers]
    return graphs, [{"directions": n, "units": m} for n, m in zip(directions, units, strict=True)]


def _layerwise_parts(network: Any, layers: Sequence[OverTime], *, limit: bool) -> dict[str, _Part]:
    """Return the parts of a network by the names of their graphs; each takes and gives the frames first."""

    def encode(data: Tensor) -> Tensor:
        features: Tensor = network.encode(data).transpose(0, 1)
        largest = network.largest_feature
        return features.clamp(-largest, largest) if limit and largest < float("inf") else features

    parts = {
        "encode": _Part(encode, network),
        "decode": _Part(lambda features: network.decode(features.transpose(0, 1)), network),
    }
    for i, layer in enumerate(layers):
        for direction, way in enumerate(WAYS[: 2 if layer.lstm.bidirectional else 1]):
            lstm = one_direction(layer, direction)
            parts[f"{way}{i}"] = _Part(functools.partial(_step, layer.before, lstm), network, lstm)
        parts[f"combine{i}"] = _Part(functools.partial(_combined, layer.after), network)
    return parts


def _step(before: Any, lstm: nn.LSTM, features: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    output, states = lstm(features if before is None else before(features), (hidden, cell))
    return (output, *states)


def _combined(after: Any, features: Tensor, *outputs: Tensor) -> Tensor:
    output = torch.cat(outputs, dim=-1).transpose(0, 1)
    following: Tensor = output if after is None else after(features.transpose(0, 1), output)
    return following.transpose(0, 1)


def _exported(part: _Part, given: Any, inputs: Sequence[str], outputs: Sequence[str], *, fold: bool) -> onnx.ModelProto:
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's age; it needs no further package
            torch.onnx.export(
                part,
                given,
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                do_constant_folding=fold,
                opset_version=_OPSET,
                input_names=[*inputs],
                output_names=[*outputs],
                dynamic_axes={name: _axes(name) for name in (*inputs, *outputs)},
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"The network cannot be exported: {' '.join(str(error).split())[:200]}") from error
    return onnx.load_from_string(buffer.getvalue())


def _axes(name: str) -> dict[int, str]:
    if name in ("magnitudes", "masks"):
        return _FRAMES_BEHIND
    return {1: "n_sequences"} if name.endswith((".h", ".c", "_h", "_c")) else _FRAMES_FIRST


def joined(graphs: dict[str, onnx.ModelProto], directions: Sequence[int], *, streaming: bool) -> onnx.ModelProto:
    """Return the graphs as one, from magnitudes to masks; if it is `streaming`, with the layers' states in and out."""
    ends = graph_ends(directions)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    values: dict[str, onnx.ValueInfoProto] = {}
    for name, (inputs, outputs) in ends.items():
        graph = onnx.GraphProto()
        graph.CopyFrom(graphs[name].graph)
        kept = {each: each for each in (*inputs, *outputs, "")}

        def renamed(value: str, name: str = name, kept: dict[str, str] = kept) -> str:
            return kept.get(value, f"{name}/{value}")

        for node in graph.node:
            node.name = f"{name}/{node.name.strip('/')}"
            for field in (node.input, node.output):
                field[:] = [renamed(value) for value in field]
            if node.op_type == "LSTM" and inputs[-1] in node.input:
                if not streaming:
                    node.input[5:7] = ["", ""]
                if name.startswith("backward"):
                    node.attribute.append(onnx.helper.make_attribute("direction", "reverse"))
        for weight in graph.initializer:
            weight.name = renamed(weight.name)
        nodes += graph.node
        weights += graph.initializer
        values |= {value.name: value for value in (*graph.input, *graph.output)}
    states = [[each for name in ends for each in ends[name][side] if "." in each] for side in (0, 1)]
    states = [[each for each in names if not each.endswith(".output")] for names in states]
    inputs, outputs = (["magnitudes", *states[0]], ["masks", *states[1]]) if streaming else (["magnitudes"], ["masks"])
    whole = onnx.helper.make_graph(
        nodes,
        "separation",
        [values.pop(name) for name in inputs],
        [values.pop(name) for name in outputs],
        weights,
        value_info=list(values.values()),
    )
    opset = [onnx.helper.make_opsetid("", _OPSET)]
    return onnx.helper.make_model(whole, opset_imports=opset, ir_version=8, producer_name="vocal-extraction")
