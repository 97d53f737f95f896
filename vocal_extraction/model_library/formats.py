"""From files of other people's models to networks of this program: one function a format, recognised by content.

Nothing that a file says is run: weights are data, which are compared with a network's shapes, and tried.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vocal_extraction.checkpointing import CheckpointError, CheckpointMetadata, rebuild
from vocal_extraction.checkpointing.reading import OLD_MAGIC, parse_torch_file
from vocal_extraction.model_library.files import Files, read
from vocal_extraction.model_library.tensorflow_checkpoint import TABLE_MAGIC, read_arrays
from vocal_extraction.networks import NETWORKS
from vocal_extraction.settings import SignalSettings


class Imported(NamedTuple):
    """A network, and what is known of it from its files."""

    network: torch.nn.Module
    metadata: CheckpointMetadata  # its preset is the model's default name
    files: list[str]  # those that the weights are from


_SPLEETER = {2: (("vocals", "accompaniment"), "leaky"), 4: (("vocals", "drums", "bass", "other"), "elu")}
"""Sources, in the order in which their U-Nets were made, and activation, by number of U-Nets."""
_U_NET = [  # parts of `spleeter.UNet`, and TensorFlow's layers: kind, number, and how many a U-Net has of the kind
    *((f"down.{i}", "conv2d", i, 7) for i in range(6)),
    ("last", "conv2d", 6, 7),
    *((f"up.{i}", "conv2d_transpose", i, 6) for i in range(6)),
    *((f"down_norm.{i}", "batch_normalization", i, 12) for i in range(6)),
    *((f"up_norm.{i}", "batch_normalization", i + 6, 12) for i in range(6)),
]
# Names of a layer's arrays in TensorFlow and in torch.
_ARRAYS = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
_ARRAYS |= {"moving_mean": "running_mean", "moving_variance": "running_var"}


def open_unmix(files: Files, high: str) -> Imported | None:
    """Import open-unmix: a file of torch's for each source, whose name begins with that of the source."""
    states = {
        name: parse_torch_file(read(files, name), name=name)
        for name in files
        if read(files, name, 32).startswith(OLD_MAGIC) or (name.endswith(".pth") and read(files, name, 2) == b"PK")
    }
    if not states:
        return None
    by_source = {re.split("[^a-z]", name.rpartition("/")[2].lower())[0]: name for name in states}
    if len(by_source) < len(states):
        raise CheckpointError(f"two files are for the same source: {', '.join(states)}")
    state = states[by_source[min(by_source)]]
    try:
        (hidden_size, n_inputs), n_seen = state["fc1.weight"].shape, len(state["input_mean"])
        n_bins = len(state["output_mean"])
    except (TypeError, LookupError, ValueError) as error:
        raise CheckpointError("it is a file of torch's, but not one of open-unmix") from error
    n_layers = sum(bool(re.fullmatch(r"lstm\.weight_hh_l\d+", key)) for key in state)
    arguments: dict[str, Any] = {"num_features": n_bins, "num_audio_channels": n_inputs // max(n_seen, 1)}
    arguments |= {"hidden_size": hidden_size, "num_layers": n_layers, "num_input_features": n_seen}
    arguments |= {"member": "OpenUnmix", "n_members": len(states)}
    members = {
        f"members.{i}.{key}": values
        for i, source in enumerate(sorted(by_source))
        for key, values in states[by_source[source]].items()
        if not re.match(r"stft\.|transform\.|sample_rate", key)  # of the STFT, in some releases
    }
    half = n_bins - 1
    signal = SignalSettings(window_length=2 * half, hop_length=half // 2, window_type="hann", padding="reflect")
    return _imported("SourceNetworks", arguments, members, signal, sorted(by_source), list(states), "open-unmix")


def spleeter(files: Files, high: str) -> Imported | None:
    """Import Spleeter: a checkpoint of TensorFlow's with the U-Nets of two or four sources."""
    found = [name for name in files if name.endswith(".index") and read(files, name).endswith(TABLE_MAGIC)]
    if not found:
        return None
    names = [found[0], found[0].removesuffix("index") + "data-00000-of-00001"]
    if len(found) > 1 or names[1] not in files:
        raise CheckpointError(f"one index and {names[1]} are expected")
    arrays = read_arrays(*(read(files, name) for name in names))
    n_convolutions = sum(bool(re.fullmatch(r"conv2d(_\d+)?/kernel", name)) for name in arrays)
    n_sources, rest = divmod(n_convolutions, 7)
    if rest or n_sources not in _SPLEETER:
        raise CheckpointError(f"it has {n_convolutions} convolutions; Spleeter for two sources has 14, for four 28")
    sources, activation = _SPLEETER[n_sources]
    state: dict[str, Tensor] = {}
    for number in range(n_sources):
        for ours, kind, i, n_of_a_kind in _U_NET:
            total = number * n_of_a_kind + i
            layer, part = f"{kind}_{total}" if total else kind, f"unets.{number}.{ours}"
            values = {key: torch.from_numpy(arrays[f"{layer}/{key}"]) for key in _ARRAYS if f"{layer}/{key}" in arrays}
            if "norm" in ours:
                state[f"{part}.num_batches_tracked"] = torch.tensor(0)
            for key, array in values.items():
                # Theirs are height, width, inputs and outputs, of transposed convolutions the last two the other way.
                state[f"{part}.{_ARRAYS[key]}"] = array.permute(3, 2, 0, 1).contiguous() if array.ndim == 4 else array
    arguments: dict[str, Any] = {"num_features": 2_049, "num_audio_channels": 2, "num_sources": n_sources}
    arguments |= {"num_input_features": 1_024, "activation": activation, "high": high}
    signal = SignalSettings(window_length=4_096, hop_length=1_024, window_type="hann", padding="whole")
    return _imported("Spleeter", arguments, state, signal, sources, names, f"spleeter-{n_sources}stems")


FORMATS: tuple[Callable[[Files, str], Imported | None], ...] = (spleeter, open_unmix)
"""Each returns None if there is nothing of its kind among the files."""


def _imported(
    kind: str, arguments: dict[str, Any], state: dict[str, Tensor], signal: SignalSettings, sources: Any, *of: Any
) -> Imported:
    """Build the network, with the checks that every checkpoint gets."""
    files, name = of
    config = NETWORKS[kind].config_of(arguments)
    weights = {f"layers.model.{key}": values for key, values in state.items()}
    n_channels = arguments["num_audio_channels"]
    content = {"config": config, "state_dict": weights, "metadata": {}}
    network, _, _ = rebuild(content, signal=signal, n_channels=n_channels)
    return Imported(network, CheckpointMetadata(signal, n_channels, tuple(sources), preset=name), files)
