"""Trained networks as ONNX files, which run without torch: docs/edge.md."""

import json
import logging
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from vocal_extraction.atomic_files import StorageError, write_bytes, write_json
from vocal_extraction.checkpointing import LoadedModel, load_checkpoint
from vocal_extraction.checkpointing.onnx_files import METADATA_KEY, cut, graph_ends, stored
from vocal_extraction.errors import ExportError
from vocal_extraction.model_library.known import VOCALS_DB

_OUTPUT_AXES = {"Conv": 0, "ConvTranspose": 1}  # of their kernels
_SMALL_KERNEL = 2**14  # weights up to which a kernel stays in floats: a hundredth of the size, most of the loss


def export_model(
    model: str | Path,
    output_path: str | Path,
    *,
    int8: bool = False,
    streaming: bool = False,
    overwrite: bool = False,
    tracks: str | Path | None = None,
    check: bool = True,
) -> Path:
    """Export the network of a checkpoint, or of a model that ships, from magnitudes to masks.

    An `output_path` with the ending .onnx becomes one file, any other a folder with the graphs that the network is cut
    into, and ``model.json``. `int8` makes the weights integers of 8 bits; with `streaming`, the states of the recurrent
    layers go in and out, for blocks in turn. To `check` holds its estimates of songs, `tracks`, to those of torch, see
    `checking.checked`. Raises ExportError if it cannot be exported, or estimates worse than on torch.
    """
    output_path = Path(output_path)
    if output_path.exists() and not overwrite:
        raise StorageError(f"{output_path} is there already. Name another place, or say --overwrite.")
    loaded = load_checkpoint(model, runtime="torch")
    whole, metadata = exported(loaded, int8=int8, streaming=streaming)
    if check:
        from vocal_extraction.exporting.checking import checked

        print(checked(loaded, whole.SerializeToString(), int8=int8, tracks=tracks), file=sys.stderr)
    if output_path.suffix == ".onnx":
        write_bytes(output_path, whole.SerializeToString())
    else:
        _write_folder(output_path, whole, metadata)
    return output_path


def exported(
    model: LoadedModel, *, int8: bool = False, streaming: bool = False, fold: bool = True
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a network of torch as one graph, and its metadata; see `export_model` and `graphs.export_graphs`."""
    from vocal_extraction.exporting.graphs import export_graphs, joined
    from vocal_extraction.separation.torch_runtime import layerwise_network

    if model.output != "mask":
        given = f"is the mean of {len(model.members)} models" if model.output == "mean" else "gives waveforms"
        raise ExportError(f"{model.path} {given}; only single networks from magnitudes to masks can be exported.")
    n_bins, n_channels = model.signal.n_bins, model.n_channels
    graphs, layers = export_graphs(model.network, n_bins=n_bins, n_channels=n_channels, fold=fold, limit=int8)
    directions = [layer["directions"] for layer in layers]
    if streaming and (not layers or max(directions) > 1):
        raise ExportError(f"{model.path} needs the end of a song before its beginning: it cannot run on a stream.")
    facts = {
        "layers": layers,
        "precision": "int8" if int8 else "float32",
        "streaming": streaming,
        "source": {"name": model.name, "sha256": model.sha256, "vocals_si_sdr_db": VOCALS_DB.get(model.name)},
        "lookahead": getattr(layerwise_network(model.network), "lookahead", 0),
        "block_frames": getattr(model.network, "block_frames", None) or 0,
    }
    metadata = stored(model.metadata, **facts)
    whole = joined(graphs, directions, streaming=streaming)
    whole = _quantized(whole) if int8 else whole
    onnx.helper.set_model_props(whole, {METADATA_KEY: json.dumps(metadata)})
    return whole, metadata


def _quantized(whole: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with weights of 8 bits; what LSTMs and products multiply them with is quantized as it comes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # advice that is for other kinds of networks
    try:
        with tempfile.TemporaryDirectory() as folder:
            quantize_dynamic(whole, Path(folder, "a.onnx"), ["LSTM", "MatMul"], weight_type=QuantType.QInt8)
            whole = onnx.load(Path(folder, "a.onnx"))
    finally:
        logging.disable(logging.NOTSET)
    _store_kernels_in_8_bits(whole.graph)
    return whole


def _store_kernels_in_8_bits(graph: onnx.GraphProto) -> None:
    """Give large kernels of convolutions a scale for each output channel; they still multiply in floats.

    Integers would take three times as long, and lose 0.36 dB of what Spleeter estimates.
    """
    axes = {node.input[1]: _OUTPUT_AXES[node.op_type] for node in graph.node if node.op_type in _OUTPUT_AXES}
    large = [each for each in graph.initializer if each.name in axes and math.prod(each.dims) > _SMALL_KERNEL]
    for kernel in large:
        weights, axis = onnx.numpy_helper.to_array(kernel), axes[kernel.name]
        others = tuple(i for i in range(weights.ndim) if i != axis)
        scale = np.maximum(abs(weights).max(axis=others, keepdims=True) / 127, np.finfo(np.float32).tiny)
        parts = {f"{kernel.name}.int8": np.rint(weights / scale).astype(np.int8), f"{kernel.name}.scale": scale.ravel()}
        graph.initializer.remove(kernel)
        graph.initializer.extend(onnx.numpy_helper.from_array(part, name) for name, part in parts.items())
        graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", [*parts], [kernel.name], axis=axis))


def _write_folder(folder: Path, whole: onnx.ModelProto, metadata: dict[str, Any]) -> None:
    """Write the graphs that a network is cut into, and last of all what they are."""
    directions = [layer["directions"] for layer in metadata["layers"]]
    graphs, files = cut(whole, directions), {}
    for name, (inputs, outputs) in graph_ends(directions).items():
        files[name] = {"file": f"{name}.onnx", "inputs": inputs, "outputs": outputs}
        write_bytes(folder / f"{name}.onnx", graphs[name].SerializeToString())
    write_json(folder / "model.json", {**metadata, "graphs": files})
