"""From a checkpoint's config and weights to a network that was seen to work.

The config is a stranger's. Names of classes are looked up in two short lists, numbers are bounded, shapes are compared
on torch's ``meta`` device, where tensors take no memory, what a network would make of a few frames is bounded, and the
finished network must turn a few quiet frames into masks, or a short waveform into waveforms, of the right shape.
"""

import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vocal_extraction.networks import READABLE_NETWORKS
from vocal_extraction.settings import SignalSettings

_NUSSL_CLASSES = (
    *("Alias", "AmplitudeToDB", "BatchNorm", "Concatenate", "ConvolutionalStack2D", "DualPath", "Embedding", "Expand"),
    *("GroupNorm", "InstanceNorm", "LayerNorm", "LearnedFilterBank", "Mask", "RecurrentStack", "STFT", "ShiftAndScale"),
    "Split",
)
_TORCH_CLASSES = ("Linear", "PReLU", "ReLU", "Sigmoid", "Tanh")
"""What nussl's own builders put together; a config may name no other class, at any depth."""

_LARGEST_NUMBER = 2**20
_MOST_LAYERS = 64
"""Bound of ``num_layers``, and of the length of any list."""
_MOST_SOURCES = 16
"""Bound of ``num_sources``, and of what a network of nussl's modules may give."""
_BOUNDS = {"num_layers": _MOST_LAYERS, "num_sources": _MOST_SOURCES}
_LARGEST_RESULT = 2**26
"""Most elements that the layers of a network may make of the few frames of a rehearsal."""
_N_FRAMES = 5
_N_ITEMS = 2


class MaskNetwork(nn.Module):
    """One of this project's networks under the calling convention of nussl's SeparationModel.

    Parameters
    ----------
    kind
        Its class, by name.
    arguments
        What it is made with.
    """

    def __init__(self, kind: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.kind, self.arguments = kind, arguments
        self.layers = nn.ModuleDict({"model": READABLE_NETWORKS[kind](**arguments)})

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take ``{'mix_magnitude'}``, give ``{'mask', 'estimates'}``."""
        output: dict[str, Tensor] = self.layers["model"](data["mix_magnitude"])
        return output


def rebuild(content: dict[str, Any], *, signal: SignalSettings, n_channels: int) -> tuple[nn.Module, str, int]:
    """Build the network of a checkpoint, without code from it and without memory that its weights do not need.

    Parameters
    ----------
    content
        What `read_checkpoint` returned.
    signal, n_channels
        What its metadata says of the input.

    Returns
    -------
    network
        In ``eval()``, on the CPU.
    output
        'mask' or 'audio'.
    n_sources
        How many of them.

    Raises
    ------
    ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError
        If config and weights are no network for separation, or not of each other. The text says how.
    """
    config, state = _config_of(content), content["state_dict"]
    _check_config(config)
    modules = {key: module for key, module in config["modules"].items() if module}
    ours = [key for key, module in modules.items() if module.get("class") in READABLE_NETWORKS]
    if len(ours) == 1 and all(module.get("class") == "Alias" for key, module in modules.items() if key not in ours):
        _bound(modules[ours[0]]["args"], state, signal, n_channels)
        network = _project_network(modules[ours[0]], state, prefix=f"layers.{ours[0]}.")
    else:
        network = _nussl_network(config, state, signal, n_channels)
    return network, *_rehearse(network, signal, n_channels, device="cpu")


def _config_of(content: dict[str, Any]) -> dict[str, Any]:
    config = content.get("config") or content["metadata"].get("config")
    config = json.loads(config) if isinstance(config, str) else config
    if not isinstance(config, dict) or not isinstance(config.get("modules"), dict):
        raise ValueError("it has no config that says what its network is")
    return config


def _check_config(value: Any, name: str = "config") -> None:
    """Bound every number and list of a config; allow the classes that are known, and none else."""
    if isinstance(value, dict):
        kind = value.get("class")
        if kind is not None and kind not in (*READABLE_NETWORKS, *_NUSSL_CLASSES, *_TORCH_CLASSES):
            raise ValueError(f"{name[:40]!a} is a {str(kind)[:40]!a}, which neither nussl nor this project knows")
        for key, item in value.items():
            _check_config(item, str(key))
    elif isinstance(value, list):
        if len(value) > _MOST_LAYERS:
            raise ValueError(f"{name[:40]!a} lists {len(value)} things, at most {_MOST_LAYERS} are accepted")
        for item in value:
            _check_config(item, name)
    elif isinstance(value, int | float):
        largest = _BOUNDS.get(name, _LARGEST_NUMBER)
        if not abs(value) <= largest:
            raise ValueError(f"{name[:40]!a} is {str(value)[:40]}, at most {largest} is accepted")


def _bound(arguments: dict[str, Any], state: dict[str, Tensor], signal: SignalSettings, n_channels: int) -> None:
    """Refuse one of this project's networks that takes more than its weights do, by the numbers it is made with.

    A rehearsal on the ``meta`` device, as nussl's modules get, would import torch's whole compiler.
    """
    n_members, n_layers, n_sources = (
        number if type(number := arguments.get(name, 1)) is int else 1
        for name in ("n_members", "num_layers", "num_sources")
    )
    if n_members * n_layers > len(state):
        raise ValueError(
            f"its weights and its architecture differ ({len(state)} weights, {n_members * n_layers} layers)"
        )
    # The masks of all members lie side by side before their mean is taken. No other tensor is much larger than weights.
    n_values = math.prod((_N_ITEMS, _N_FRAMES, signal.n_bins, n_channels, n_sources, n_members))
    if n_values > _LARGEST_RESULT:
        raise ValueError(f"it makes {n_values} values of {_N_FRAMES} frames")


def _project_network(module: dict[str, Any], state: dict[str, Tensor], *, prefix: str) -> nn.Module:
    """Build one of this project's networks without memory, compare shapes, and only then give it some."""
    state = {name.replace(prefix, "layers.model.", 1): value for name, value in state.items()}
    with torch.device("meta"):
        network = MaskNetwork(module["class"], module["args"])
    _compare(network.state_dict(), state)
    network.to_empty(device="cpu").load_state_dict(state, strict=True)
    return network.eval()


def _nussl_network(
    config: dict[str, Any], state: dict[str, Tensor], signal: SignalSettings, n_channels: int
) -> nn.Module:
    """Build a network of nussl's modules, try it without memory, and only then give it some."""
    from vocal_extraction.compatibility import nussl

    for project_network in READABLE_NETWORKS.values():
        nussl.ml.register_module(project_network)
    with torch.device("meta"):
        network: nn.Module = nussl.ml.SeparationModel({**config}).eval()
    _compare(network.state_dict(), state)
    with _Bounded():
        _rehearse(network.to("meta"), signal, n_channels, device="meta")
    network.to_empty(device="cpu").load_state_dict(state, strict=True)
    return network


class _Bounded(TorchDispatchMode):
    """Stops a network whose layers make ever larger tensors of each other's, or ever more: nussl keeps them all."""

    def __init__(self) -> None:
        super().__init__()
        self._n_values = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            self._n_values += tensor.numel() if isinstance(tensor, Tensor) else 0
        if self._n_values > _LARGEST_RESULT:
            raise ValueError(f"it makes {self._n_values} values of {_N_FRAMES} frames")
        return result


def _compare(blueprint: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Refuse weights that are not those of the blueprint, by name, shape and kind, or are not numbers."""
    if not state or blueprint.keys() != state.keys():
        odd = ", ".join(sorted(blueprint.keys() ^ state.keys())[:3]) or "there are no weights"
        raise ValueError(f"its weights and its architecture differ ({odd[:100]!a})")
    for name, expected in blueprint.items():
        if expected.shape != state[name].shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(expected.shape)}")
        if expected.is_floating_point() != state[name].is_floating_point():
            raise ValueError(f"{name} is {state[name].dtype}, expected {expected.dtype}")
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise ValueError("its weights hold NaN or infinity")


@torch.inference_mode()
def _rehearse(network: nn.Module, signal: SignalSettings, n_channels: int, *, device: str) -> tuple[str, int]:
    """Let a network hear two short items; return what it gives, 'mask' or 'audio', and for how many sources."""
    shape: tuple[int, ...]
    wanted = set(getattr(network, "input", {"mix_magnitude"}))
    if wanted == {"mix_magnitude"}:
        output, shape = "mask", (_N_ITEMS, _N_FRAMES, signal.n_bins, n_channels)
    elif wanted == {"mix_audio"}:
        output, shape = "audio", (_N_ITEMS, n_channels, signal.window_length + _N_FRAMES * signal.hop_length)
    else:
        raise ValueError(f"its network wants {sorted(wanted)!a}, expected mix_magnitude or mix_audio")
    given = network({min(wanted): torch.full(shape, 0.01, device=device)})
    if output not in given:
        raise ValueError(f"its network gives {sorted(given)!a}, expected {output}")
    result = given[output]
    if result.ndim != len(shape) + 1 or result.shape[:-1] != shape:
        raise ValueError(f"its network makes {tuple(result.shape)} of {shape}, expected one more axis, for sources")
    if result.shape[-1] > _MOST_SOURCES:
        raise ValueError(f"it makes {result.shape[-1]} sources, at most {_MOST_SOURCES} are accepted")
    if not (result.is_meta or bool(torch.isfinite(result).all())):
        raise ValueError("its network gives NaN or infinity")
    return output, result.shape[-1]
