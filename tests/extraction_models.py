"""Small networks for the tests of the extraction, without nussl, which takes seconds to import."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vocal_extraction.checkpointing import CheckpointMetadata, LoadedModel
from vocal_extraction.extraction.manifest import MANIFEST_NAME
from vocal_extraction.networks import NETWORKS, EnsembleMaskInference, MaskInference
from vocal_extraction.settings import ACCOMPANIMENT, SignalSettings
from vocal_extraction.training.losses import estimate_sources

SIGNAL = SignalSettings()


class Masking(nn.Module):
    """One of this project's networks, in a shell that hides what it is, so that it is run on chunks with context."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.network(data["mix_magnitude"])


class Layered(nn.Module):
    """One of this project's networks, as it comes out of a checkpoint: it is taken through the whole song."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"model": network})

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.layers["model"](data["mix_magnitude"])


class ConstantMask(nn.Module):
    """The same masks in every bin."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        magnitudes = data["mix_magnitude"]
        return {"mask": self.values.expand(*magnitudes.shape, -1)}


class ChannelMask(nn.Module):
    """A mask of 1 for the first channel of a group, 0 for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        mask = torch.zeros_like(data["mix_magnitude"])
        mask[..., 0] = self.one
        return {"mask": mask.unsqueeze(-1)}


class HalvingAudio(nn.Module):
    """Takes samples; the vocals are half of them, shifted by nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        audio = data["mix_audio"]
        return {"audio": torch.stack([audio * (1 - self.share), audio * self.share], dim=-1)}


def loaded(
    network: nn.Module,
    *,
    n_channels: int = 1,
    sources: tuple[str, ...] = ("vocals",),
    output: str = "mask",
    signal: SignalSettings = SIGNAL,
    sha256: str = "0" * 64,
) -> LoadedModel:
    """Wrap a network as `load_checkpoint` does."""
    metadata = CheckpointMetadata(signal, n_channels, sources)
    return LoadedModel(network.eval(), signal, n_channels, sources, output, metadata, Path("tiny.pth"), sha256)


def tiny_model(n_channels: int = 1, num_sources: int = 1) -> LoadedModel:
    """Return an untrained network that forgets within a second, as a trained one does.

    Drawn as they are, the forget gates saturate, and it remembers for minutes.
    """
    torch.manual_seed(0)
    network = MaskInference(SIGNAL.n_bins, n_channels, 6, 2, True, 0.3, num_sources)
    with torch.no_grad():
        norm = network.input_normalization.batch_norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.fill_(-60.0)
        norm.running_var.fill_(400.0)
        for name, weights in network.recurrent_stack.rnn.named_parameters():
            weights.mul_(1.2 if "bias" in name else 0.4)
        network.embedding.linear.weight.mul_(12.0)
    names = {1: ("vocals",), 2: (ACCOMPANIMENT, "vocals")}[num_sources]
    return loaded(Masking(network), n_channels=n_channels, sources=names)


def remembering_model(
    kind: str, *, n_channels: int = 1, stereo: str = "each", bidirectional: bool = True, **options: Any
) -> LoadedModel:
    """Return an untrained network of a kind that ships, whose open forget gates let it remember all of a song.

    Parameters
    ----------
    kind
        A class of model.py, or 'Ensemble of' one.
    **options
        Further arguments of the network.
    """
    torch.manual_seed(0)
    signal = SignalSettings(stereo=stereo)
    member = kind.removeprefix("Ensemble of ")
    arguments: dict[str, Any] = {"num_audio_channels": n_channels, "hidden_size": 6, "num_layers": 2}
    arguments |= {
        "num_features": SIGNAL.n_bins,
        "bidirectional": bidirectional,
        "dropout": 0.0,
        "num_sources": 1,
        "num_input_features": 200,
        **options,
    }
    arguments = {name: arguments[name] for name in inspect.signature(NETWORKS[member]).parameters if name in arguments}
    network = NETWORKS[member](**arguments) if kind == member else EnsembleMaskInference(member, 3, **arguments)
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if "bias_ih" in name:
                weights[len(weights) // 4 : len(weights) // 2] = 6.0  # the forget gates
    return loaded(Layered(network), n_channels=n_channels, signal=signal)


def whole_song(mixture: np.ndarray, model: LoadedModel, source: str = "vocals") -> np.ndarray:
    """Estimate a source of a song at the model's rate, all at once."""
    with torch.inference_mode():
        estimates = estimate_sources(
            model.network, torch.from_numpy(mixture), signal=model.signal, n_network_channels=model.n_channels
        )
    return estimates[model.sources.index(source)].numpy()


def music(duration_s: float, *, sample_rate: int = 44_100, n_channels: int = 2, seed: int = 0) -> np.ndarray:
    """Return tones that swell and fade, over noise, partly alike in all channels: (n_channels, n_samples), peak 0.5."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(duration_s * sample_rate)) / sample_rate
    signal = 0.02 * rng.standard_normal((n_channels, t.size))
    for channel in range(n_channels):
        for pitch in rng.uniform(100, 2_000, 5):
            swell = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.1, 1.0) * t + rng.uniform(0, 6))
            signal[channel] += 0.08 * swell * np.sin(2 * np.pi * pitch * t)
    signal[1:] = (signal[1:] + signal[:1]) / 2
    return signal.astype(np.float32)


def records(folder: Path) -> list[dict]:
    """Read a folder's manifest."""
    return [json.loads(line) for line in (folder / MANIFEST_NAME).read_text(encoding="utf-8").splitlines()]


def files_in(folder: Path) -> set[str]:
    """Name all files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def stems_of(*songs: str) -> set[str]:
    """Name what a batch of these songs leaves."""
    return {f"{song}/{stem}.wav" for song in songs for stem in ("vocals", "accompaniment")} | {MANIFEST_NAME}
