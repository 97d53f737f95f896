"""A network in ONNX on ONNX Runtime, with those methods of `separation.layerwise.Runtime` that masks need."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vocal_extraction.checkpointing.archive import CheckpointError, reason_of
from vocal_extraction.checkpointing.metadata import CheckpointMetadata
from vocal_extraction.checkpointing.onnx_files import NETWORK, WAYS, cut, frames_of, layers_of, metadata_of, parse
from vocal_extraction.errors import SettingsError

Rows = NDArray[np.float32]
_N_ITEMS, _N_FRAMES = 2, 5  # of what a network is tried on
_MOST_LOOKAHEAD, _MOST_BLOCK = 64, 4_096  # frames
_state = onnxruntime.capi.onnxruntime_pybind11_state
_REFUSALS = tuple(  # what ONNX Runtime raises of a graph that it cannot run
    getattr(_state, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
)


class OnnxLayer:
    """See `layerwise.Layer`."""

    def __init__(self, network: "OnnxNetwork", number: int, n_directions: int, n_units: int) -> None:
        self._network, self._number = network, number
        self.n_directions, self.n_outputs = n_directions, n_units

    def step(self, direction: int, features: Rows, state: Any) -> tuple[Rows, Any]:
        order = slice(None, None, -1 if direction else 1)
        state = state or [np.zeros((1, features.shape[1], self.n_outputs), np.float32)] * 2
        output, *state = self._network.run(f"{WAYS[direction]}{self._number}", features[order], *state)
        return output[order], state

    def combine(self, features: Rows, outputs: Sequence[Rows]) -> Rows:
        return self._network.run(f"combine{self._number}", features, *outputs)[0]


class OnnxNetwork:
    """A network as the serialized graphs that it is cut into, each run on the thread that calls it."""

    def __init__(
        self,
        graphs: Mapping[str, bytes],
        layers: Sequence[Mapping[str, int]],
        precision: str,
        lookahead: int,
        block_frames: int,
    ) -> None:
        self._made_of, self.lookahead = (graphs, layers, precision, lookahead, block_frames), lookahead
        self.block_frames = block_frames or None  # as of `networks.Network`
        self.name = f"ONNX Runtime {onnxruntime.__version__} ({precision})"
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False  # it keeps the memory of the largest chunk for each thread
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised
        providers = ["CPUExecutionProvider"]
        self._sessions = {
            name: onnxruntime.InferenceSession(graph, options, providers=providers) for name, graph in graphs.items()
        }
        self._inputs = {name: [each.name for each in session.get_inputs()] for name, session in self._sessions.items()}
        self.layers = [OnnxLayer(self, i, layer["directions"], layer["units"]) for i, layer in enumerate(layers)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process as what it was made of."""
        return OnnxNetwork, self._made_of

    def run(self, name: str, *values: Rows) -> list[Rows]:
        feeds = dict(zip(self._inputs[name], map(np.ascontiguousarray, values), strict=True))
        return self._sessions[name].run(None, feeds)

    def samples(self, rows: Rows) -> Rows:
        return rows

    rows = samples

    def encode(self, magnitudes: Rows) -> Rows:
        return self.run("encode", magnitudes)[0]

    def decode(self, features: Rows) -> Rows:
        return self.run("decode", features)[0]

    def masks(self, magnitudes: Rows) -> Rows:
        return self.run(NETWORK, magnitudes)[0]


def load_onnx(
    contents: bytes, name: str, *, weights: bytes | None = None
) -> tuple[OnnxNetwork, CheckpointMetadata, str]:
    """Load what `exporting.export_model` wrote; messages call the file `name`, and `weights` are as for `parse`."""
    try:
        model, stored = parse(contents, weights=weights)
        if weights is not None and stored.get("source", {}).get("sha256") != hashlib.sha256(weights).hexdigest():
            raise CheckpointError("the graph beside it is of another checkpoint")
        metadata, layers = metadata_of(stored), layers_of(stored)
        graphs = cut(model, [layer["directions"] for layer in layers])
        parts = {part: graph.SerializeToString() for part, graph in graphs.items()}
        numbers = (frames_of(stored, "lookahead", _MOST_LOOKAHEAD), frames_of(stored, "block_frames", _MOST_BLOCK))
        network = OnnxNetwork(parts, layers, str(stored.get("precision"))[:16], *numbers)
        _try(network, metadata)
    except (CheckpointError, SettingsError, *_REFUSALS) as error:
        raise CheckpointError(f"{name} was refused: {reason_of(error).rstrip('.')}. Export the model again.") from error
    return network, metadata, "mask"


def _try(network: OnnxNetwork, metadata: CheckpointMetadata) -> None:
    """Run the network on two short items; raise CheckpointError if the masks are not those that it promises."""
    shape = (_N_ITEMS, _N_FRAMES, metadata.signal.n_bins, metadata.n_channels)
    found = np.full(shape, 0.01, np.float32)
    if network.layers:
        found = network.encode(found)
        for layer in network.layers:
            outputs = [layer.step(direction, found, None)[0] for direction in range(layer.n_directions)]
            found = layer.combine(found, outputs)
        found = network.decode(found)
    else:
        found = network.masks(found)
    if found.shape != (*shape, len(metadata.sources)):
        raise CheckpointError(
            f"it makes {found.shape} of {shape}, expected an axis for {len(metadata.sources)} sources"
        )
    if not np.isfinite(found).all():
        raise CheckpointError("it gives NaN or infinity")
