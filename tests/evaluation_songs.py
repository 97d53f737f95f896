"""Short songs of tones and noise, models for them, and options that keep an evaluation quiet."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from vocal_extraction.checkpointing import save_checkpoint
from vocal_extraction.networks import create_model
from vocal_extraction.presets import Preset
from vocal_extraction.settings import NetworkSettings, SignalSettings
from vocal_extraction.tracks import find_tracks

RATE = 8_000
SIGNAL = SignalSettings(sample_rate=RATE, window_length=256, hop_length=64)
TINY = Preset("tiny", signal=SIGNAL, network=NetworkSettings(hidden_size=4, num_layers=1))
QUIET: dict[str, Any] = {"metrics": "scale", "progress": False, "show": False, "n_jobs": 1}


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    """Write samples (n_samples, n_channels), folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else "PCM_24")


def write_songs(folder: Path, *, duration_s: float = 2.5) -> Path:
    """Write one valid and two test songs in the prepared layout: a voice of gliding tones over a repeated rhythm."""
    for subset, name, seed in (("valid", "a valid song", 0), ("test", "first song", 1), ("test", "second song", 2)):
        rng = np.random.default_rng(seed)
        t = np.arange(round(duration_s * RATE)) / RATE
        voice = sum(np.sin(2 * np.pi * k * (200 * t + 30 * np.sin(3 * t + seed))) / k for k in range(1, 8))
        beat = np.exp(-20 * (t % 0.5))
        parts = {
            "vocals": 0.1 * voice * (0.5 + 0.5 * np.sin(2 * t)),
            "drums": 0.2 * beat * rng.standard_normal(len(t)),
            "bass": 0.1 * beat * np.sin(2 * np.pi * 80 * t),
            "other": 0.05 * np.sign(np.sin(2 * np.pi * 330 * t)),
        }
        for stem, samples in parts.items():
            stereo = np.stack([samples, 0.8 * samples], axis=1) + 1e-3 * rng.standard_normal((len(t), 2))
            write(folder / subset / "foreground" / stem / f"{name}.wav", stereo.astype(np.float32))
    return folder


def save_model(path: Path, *, seed: int = 0, preset: Preset = TINY) -> Path:
    """Save an untrained network: its masks are near a half, and its scores reproducible."""
    torch.manual_seed(seed)
    return save_checkpoint(path, create_model(preset).eval(), preset=preset, seed=seed)


def songs_in(folder: Path, **options: Any) -> list[Any]:
    """Return the test songs of a folder."""
    return find_tracks(folder, subset="test", **options)
