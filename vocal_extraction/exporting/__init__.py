"""Trained networks as ONNX files, which run without torch: docs/edge.md."""

import json
from pathlib import Path
from typing import Any

import onnx

from vocal_extraction.atomic_files import StorageError, write_bytes, write_json
from vocal_extraction.checkpointing import LoadedModel, load_checkpoint, model_name, shipped_checkpoints
from vocal_extraction.checkpointing.onnx_files import METADATA_KEY, cut, graph_ends, stored
from vocal_extraction.errors import VocalExtractionError

_LEAST_BYTES = 64
"""Shorter weights stay in the graph."""


class ExportError(VocalExtractionError):
    """A network cannot be exported; the text says why."""


def export_model(
    model: str | Path, output_path: str | Path, *, streaming: bool = False, overwrite: bool = False
) -> Path:
    """Export the network of a checkpoint, from magnitudes to masks.

    Parameters
    ----------
    model
        The path of a checkpoint, or the name of a model that ships.
    output_path
        With the ending .onnx, one file; any other, a folder with the graphs that the network is cut into, and
        ``model.json``.
    streaming
        Whether the states of the recurrent layers go in and out, for blocks in turn.
    overwrite
        Whether what is there may be replaced.

    Raises
    ------
    ExportError
        If the network cannot be exported.
    CheckpointError, StorageError
        If the checkpoint cannot be read, or the export not be written.
    """
    output_path = Path(output_path)
    if output_path.exists() and not overwrite:
        raise StorageError(f"{output_path} is there already. Name another place, or say --overwrite.")
    loaded = load_checkpoint(model, runtime="torch")
    whole, metadata = exported(loaded, streaming=streaming)
    if output_path.suffix == ".onnx":
        write_bytes(output_path, whole.SerializeToString())
        return output_path
    _write_folder(output_path, whole, metadata)
    return output_path


def exported(
    model: LoadedModel, *, streaming: bool = False, fold: bool = True
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a network of torch as one graph, and its metadata; see `export_model` and `graphs.export_graphs`."""
    from vocal_extraction.exporting.graphs import export_graphs, joined
    from vocal_extraction.separation.torch_runtime import layerwise_network

    if model.output != "mask":
        raise ExportError(f"{model.path} gives waveforms; only networks from magnitudes to masks can be exported.")
    n_bins, n_channels = model.signal.n_bins, model.n_channels
    graphs, layers = export_graphs(model.network, n_bins=n_bins, n_channels=n_channels, fold=fold)
    directions, lookahead = (
        [layer["directions"] for layer in layers],
        getattr(layerwise_network(model.network), "lookahead", 0),
    )
    if streaming and (not layers or max(directions) > 1):
        raise ExportError(f"{model.path} needs the end of a song before its beginning: it cannot run on a stream.")
    source = {"name": model_name(model.path), "sha256": model.sha256}
    metadata = stored(
        model.metadata, layers=layers, precision="float32", streaming=streaming, source=source, lookahead=lookahead
    )
    whole = joined(graphs, directions, streaming=streaming)
    onnx.helper.set_model_props(whole, {METADATA_KEY: json.dumps(metadata)})
    return whole, metadata


def write_shipped_graphs() -> None:
    """Write the graphs of the models that ship beside their checkpoints, in which their weights stay."""
    for path in shipped_checkpoints().values():
        whole, _ = exported(load_checkpoint(path, runtime="torch"), fold=False)
        contents = path.read_bytes()
        for weight in whole.graph.initializer:
            start = contents.find(weight.raw_data)
            if start >= 0 and len(weight.raw_data) >= _LEAST_BYTES:
                length = len(weight.raw_data)
                onnx.external_data_helper.set_external_data(weight, path.name, start, length)
                weight.ClearField("raw_data")
        write_bytes(path.with_suffix(".onnx"), whole.SerializeToString())


def _write_folder(folder: Path, whole: onnx.ModelProto, metadata: dict[str, Any]) -> None:
    """Write the graphs that a network is cut into, and last of all what they are."""
    directions = [layer["directions"] for layer in metadata["layers"]]
    graphs, files = cut(whole, directions), {}
    for name, (inputs, outputs) in graph_ends(directions).items():
        files[name] = {"file": f"{name}.onnx", "inputs": inputs, "outputs": outputs}
        write_bytes(folder / f"{name}.onnx", graphs[name].SerializeToString())
    write_json(folder / "model.json", {**metadata, "graphs": files})
