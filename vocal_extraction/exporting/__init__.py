"""Trained networks as ONNX files, which run without torch: docs/edge.md."""

import json
from pathlib import Path
from typing import Any

import onnx

from vocal_extraction.atomic_files import StorageError, write_bytes, write_json
from vocal_extraction.checkpointing import load_checkpoint, model_name
from vocal_extraction.checkpointing.onnx_files import METADATA_KEY, cut, graph_ends, stored
from vocal_extraction.errors import VocalExtractionError


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
    from vocal_extraction.exporting.graphs import export_graphs, joined

    output_path = Path(output_path)
    if output_path.exists() and not overwrite:
        raise StorageError(f"{output_path} is there already. Name another place, or say --overwrite.")
    loaded = load_checkpoint(model)
    if loaded.output != "mask":
        raise ExportError(f"{loaded.path} gives waveforms; only networks from magnitudes to masks can be exported.")
    graphs, layers = export_graphs(loaded.network, n_bins=loaded.signal.n_bins, n_channels=loaded.n_channels)
    directions = [layer["directions"] for layer in layers]
    if streaming and (not layers or max(directions) > 1):
        raise ExportError(f"{loaded.path} needs the end of a song before its beginning: it cannot run on a stream.")
    metadata = stored(
        loaded.metadata,
        layers=layers,
        precision="float32",
        streaming=streaming,
        source={"name": model_name(loaded.path), "sha256": loaded.sha256},
    )
    whole = joined(graphs, directions, streaming=streaming)
    if output_path.suffix == ".onnx":
        onnx.helper.set_model_props(whole, {METADATA_KEY: json.dumps(metadata)})
        write_bytes(output_path, whole.SerializeToString())
        return output_path
    _write_folder(output_path, cut(whole, directions), metadata, directions)
    return output_path


def _write_folder(
    folder: Path, graphs: dict[str, onnx.ModelProto], metadata: dict[str, Any], directions: list[int]
) -> None:
    """Write the graphs that a network is cut into, and last of all what they are."""
    files = {}
    for name, (inputs, outputs) in graph_ends(directions).items():
        files[name] = {"file": f"{name}.onnx", "inputs": inputs, "outputs": outputs}
        write_bytes(folder / f"{name}.onnx", graphs[name].SerializeToString())
    write_json(folder / "model.json", {**metadata, "graphs": files})
