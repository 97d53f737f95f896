"""From a network to a checkpoint's file, and back; the config is untrusted: step 5 in docs/checkpoints.md."""

import copy
import functools
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vocal_extraction.atomic_files import write_bytes
from vocal_extraction.checkpointing.archive import CheckpointError, reason_of
from vocal_extraction.checkpointing.metadata import CheckpointMetadata
from vocal_extraction.networks import NETWORKS
from vocal_extraction.networks.base import MOST_LAYERS, MOST_SOURCES
from vocal_extraction.presets import Preset
from vocal_extraction.settings import SignalSettings

# What nussl's own builders put together; a config may name no other class, at any depth.
_NUSSL_CLASSES = (
    *("Alias", "AmplitudeToDB", "BatchNorm", "Concatenate", "ConvolutionalStack2D", "DualPath", "Embedding", "Expand"),
    *("GroupNorm", "InstanceNorm", "LayerNorm", "LearnedFilterBank", "Mask", "RecurrentStack", "STFT", "ShiftAndScale"),
    "Split",
)
_TORCH_CLASSES = ("Linear", "PReLU", "ReLU", "Sigmoid", "Tanh")

_LARGEST_NUMBER = 2**20
_DEEPEST = 16
_BOUNDS = {"num_layers": MOST_LAYERS, "num_sources": MOST_SOURCES}
_LARGEST_RESULT = 2**26  # most elements that the layers of a network may make of the few frames of a trial
_N_FRAMES = 5  # of a trial, or as many as nussl's DualPath takes together
_N_ITEMS = 2
# What torch's and nussl's modules raise of a config that makes no network, or one whose parts do not fit.
_TORCH_RAISES = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError)


class MaskNetwork(nn.Module):
    """One of `NETWORKS` (`kind`, by name) under the calling convention of nussl's SeparationModel."""

    def __init__(self, kind: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.kind, self.arguments = kind, arguments
        self.layers: Any = nn.ModuleDict({"model": NETWORKS[kind](**arguments)})
        self.block_frames = NETWORKS[kind].block_frames
        self.has_one_for_each_source = NETWORKS[kind].has_one_for_each_source

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take ``{'mix_magnitude'}``, give ``{'mask'}``."""
        return {"mask": self.layers["model"].masks(data["mix_magnitude"])}

    def save(self, file: Any, *, metadata: dict[str, Any]) -> None:
        """Save what `rebuild` takes, as nussl's SeparationModel does, but without nussl."""
        config = json.dumps(NETWORKS[self.kind].config_of(self.arguments))
        torch.save({"state_dict": self.state_dict(), "config": config, "metadata": metadata}, file)

    def only(self, indices: list[int]) -> "MaskNetwork":
        """Return the network of some of its sources, on the same weights."""
        one = copy.copy(self)
        one._modules = {"layers": nn.ModuleDict({"model": self.layers["model"].only(indices)})}
        return one


def save_checkpoint(path: str | Path, network: nn.Module, *, preset: Preset, **facts: Any) -> Path:
    """Save what `networks.create_model` returned, in nussl's format; `facts` are fields of `CheckpointMetadata`."""
    return save_network(path, network, CheckpointMetadata.of_preset(preset, **facts))


def save_network(path: str | Path, network: nn.Module, metadata: CheckpointMetadata) -> Path:
    """Save a network, nussl's or a `MaskNetwork`, with metadata that is complete; otherwise as `save_checkpoint`."""
    # Not to the path itself: torch would put that name into the file, and report a full disk as an error of its own.
    buffer = io.BytesIO()
    network.save(buffer, metadata=metadata.stored(for_nussl=not isinstance(network, MaskNetwork)))  # type: ignore[operator]
    write_bytes(path, buffer.getbuffer())
    return Path(path)


def rebuild(content: dict[str, Any], *, signal: SignalSettings, n_channels: int) -> tuple[nn.Module, str, int]:
    """Build a checkpoint's network; return it in ``eval()``, "mask" or "audio", and its number of sources."""
    config, state = _config_of(content), content["state_dict"]
    modules = {key: module for key, module in config["modules"].items() if module}
    known = [key for key, module in modules.items() if module.get("class") in NETWORKS]
    is_ours = len(known) == 1 and all(modules[key].get("class") == "Alias" for key in modules if key not in known)
    make: Callable[[], nn.Module]
    if is_ours:
        kind, given = modules[known[0]]["class"], modules[known[0]].get("args", {})
        arguments = NETWORKS[kind].checked_arguments(**given)
        _bound(arguments, state, signal, n_channels)
        state = {name.replace(f"layers.{known[0]}.", "layers.model.", 1): value for name, value in state.items()}
        make = functools.partial(MaskNetwork, kind, arguments)
    else:
        from vocal_extraction.compatibility import nussl

        make = functools.partial(nussl.ml.SeparationModel, config)
    try:
        with torch.device("meta"):
            network = make().eval()
    except _TORCH_RAISES as error:
        raise CheckpointError(f"no network can be made of its config: {reason_of(error)}") from error
    _compare(network.state_dict(), state)
    try:
        if not is_ours:  # for which torch would import its whole compiler
            with _Bounded():
                _try(network.to("meta"), signal, n_channels, device="meta")
        kinds = {name: values.dtype for name, values in network.state_dict().items()}
        state = {name: values.to(kinds[name]).contiguous() for name, values in state.items()}
        network.to_empty(device="cpu").load_state_dict(state, strict=True, assign=True)
        return network, *_try(network, signal, n_channels, device="cpu")
    except _TORCH_RAISES as error:
        raise CheckpointError(f"its network does not take {signal.n_bins} bins: {reason_of(error)}") from error


def _config_of(content: dict[str, Any]) -> dict[str, Any]:
    """Return the config, every number and list of it bounded, and no class in it but those that are known."""
    config = content.get("config") or content["metadata"].get("config")
    try:
        config = json.loads(config) if isinstance(config, str) else config
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its config is no JSON ({reason_of(error)})") from error
    modules = config.get("modules") if isinstance(config, dict) else None
    if not isinstance(modules, dict) or not all(isinstance(module, dict) for module in modules.values()):
        raise CheckpointError("it has no config that says what its network is")
    if not all(isinstance(module.get("args", {}), dict) for module in modules.values()):
        raise CheckpointError("the arguments of a part of its network are no dictionary")
    _check_config(config)
    return dict(config)


def _check_config(value: Any, name: str = "config", depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise CheckpointError("its config is nested too deep")
    if isinstance(value, dict):
        kind = value.get("class")
        if kind is not None and kind not in (*NETWORKS, *_NUSSL_CLASSES, *_TORCH_CLASSES):
            raise CheckpointError(f"{name[:40]!a} is a {str(kind)[:40]!a}, which is no part that may be loaded")
        for key, item in value.items():
            _check_config(item, str(key), depth + 1)
    elif isinstance(value, list):
        if len(value) > MOST_LAYERS:
            raise CheckpointError(f"{name[:40]!a} lists {len(value)} things, at most {MOST_LAYERS} are accepted")
        for item in value:
            _check_config(item, name, depth + 1)
    elif isinstance(value, int | float) and not abs(value) <= (largest := _BOUNDS.get(name, _LARGEST_NUMBER)):
        raise CheckpointError(f"{name[:40]!a} is {str(value)[:40]}, at most {largest} is accepted")


def _bound(arguments: dict[str, Any], state: dict[str, Tensor], signal: SignalSettings, n_channels: int) -> None:
    """Refuse by its numbers a network that takes more memory than its weights do."""
    n_members, n_layers, n_sources = (arguments.get(name, 1) for name in ("n_members", "num_layers", "num_sources"))
    if n_members * n_layers > len(state):
        raise CheckpointError(
            f"its weights and its architecture differ ({len(state)} weights, {n_members * n_layers} layers)"
        )
    # The masks of all members lie side by side before their mean is taken. No other tensor is much larger than weights.
    n_values = math.prod((_N_ITEMS, _N_FRAMES, signal.n_bins, n_channels, n_sources, n_members))
    if n_values > _LARGEST_RESULT:
        raise CheckpointError(f"it makes {n_values} values of {_N_FRAMES} frames")


class _Bounded(TorchDispatchMode):
    """Stops a network whose layers make too many values in all: nussl keeps every tensor."""

    _n_values = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            self._n_values += tensor.numel() if isinstance(tensor, Tensor) else 0
        if self._n_values > _LARGEST_RESULT:
            raise CheckpointError(f"it makes {self._n_values} values of a few frames")
        return result


def _compare(expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Refuse weights that are not those expected, by name, shape and kind, or are not numbers."""
    if not state or expected.keys() != state.keys():
        odd = ", ".join(sorted(expected.keys() ^ state.keys())[:3]) or "there are no weights"
        raise CheckpointError(f"its weights and its architecture differ ({odd[:100]!a})")
    for name, values in expected.items():
        if values.shape != state[name].shape:
            raise CheckpointError(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(values.shape)}")
        if values.is_floating_point() != state[name].is_floating_point():
            raise CheckpointError(f"{name} is {state[name].dtype}, expected {values.dtype}")
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise CheckpointError("its weights hold NaN or infinity")


@torch.inference_mode()
def _try(network: nn.Module, signal: SignalSettings, n_channels: int, *, device: str) -> tuple[str, int]:
    """Give a network two short items; return what it gives, 'mask' or 'audio', and for how many sources."""
    shape: tuple[int, ...]
    wanted = set(getattr(network, "input", {"mix_magnitude"}))
    n_frames = max(_N_FRAMES, *(getattr(module, "chunk_size", 0) for module in network.modules()))
    if wanted == {"mix_magnitude"}:
        output, shape = "mask", (_N_ITEMS, n_frames, signal.n_bins, n_channels)
    elif wanted == {"mix_audio"}:
        output, shape = "audio", (_N_ITEMS, n_channels, signal.window_length + n_frames * signal.hop_length)
    else:
        raise CheckpointError(f"its network wants {sorted(wanted)!a}, expected mix_magnitude or mix_audio")
    given = network({min(wanted): torch.full(shape, 0.01, device=device)})
    result = given.get(output)
    if not isinstance(result, Tensor):
        raise CheckpointError(f"its network gives {sorted(given)!a}, expected {output}")
    if result.ndim != len(shape) + 1 or result.shape[:-1] != shape:
        raise CheckpointError(
            f"its network makes {tuple(result.shape)} of {shape}, expected one more axis, for sources"
        )
    if result.shape[-1] > MOST_SOURCES:
        raise CheckpointError(f"it makes {result.shape[-1]} sources, at most {MOST_SOURCES} are accepted")
    if not (result.is_meta or bool(torch.isfinite(result).all())):
        raise CheckpointError("its network gives NaN or infinity")
    return output, result.shape[-1]
