"""Presets: a signal, a network and a recipe under the name that ``--preset`` takes.

A preset of one's own is a TOML file that holds only what differs from a named one::

    based_on = "studio"                 # specified, if it is left out
    sources = ["vocals", "drums", "bass", "other"]

    [network]                           # and [signal], [mixing], [training]: the fields of settings.py
    hidden_size = 96

    [training]
    n_mixtures = 5_000
    gradient_clip_norm = "none"         # TOML has no other word for it
"""

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vocal_extraction.errors import SettingsError
from vocal_extraction.settings import (
    STEMS,
    Checked,
    MixingSettings,
    NetworkSettings,
    SignalSettings,
    TrainingSettings,
    require,
)


@dataclasses.dataclass(frozen=True)
class Preset(Checked):
    """A signal, a network and a recipe under one name."""

    name: str
    signal: SignalSettings = SignalSettings()
    mixing: MixingSettings = MixingSettings()
    network: NetworkSettings = NetworkSettings()
    training: TrainingSettings = TrainingSettings()
    sources: tuple[str, ...] = ("vocals",)
    """What the network estimates: names of stems, 'accompaniment' (all but the vocals) or sums as 'bass+drums'."""

    def _check(self) -> None:
        require(
            self,
            sources_must_be_1_to_16_different_names=(
                1 <= len(self.sources) <= 16 and all(self.sources) and len(set(self.sources)) == len(self.sources)
            ),
            training_source_weights_must_be_one_for_each_source=(
                len(self.training.source_weights) in (0, len(self.sources))
            ),
            softmax_needs_two_sources_or_more=self.network.activation != "softmax" or len(self.sources) > 1,
        )


_REMIXING = MixingSettings(
    duration_s=2.5,
    pitch_shift_semitones=(-3.0, 3.0),
    snr_db=(-6.0, 6.0),
    coherent_gain_db=3.0,
    stretch_follows_pitch=True,
    channels="any",
    polarity_flips=True,
    level_db=(-12.0, 3.0),
)

SPECIFIED = Preset("specified")

CLASSIC = Preset(
    "classic",
    signal=SignalSettings(stereo="mid-side", input_level_db=-24.0),
    mixing=_REMIXING,
    training=TrainingSettings(
        n_epochs=20,
        batches_per_epoch=150,
        batch_size=16,
        n_mixtures=None,
        n_validation_mixtures=None,
        loss="waveform",
        learning_rate=3e-3,
        learning_rate_schedule="cosine",
        gradient_clip_norm=5.0,
        weight_average_decay=0.998,
    ),
)

STUDIO = Preset(
    "studio",
    signal=SignalSettings(window_length=4_096, hop_length=1_024, stereo="mid-side", input_level_db=-18.0),
    mixing=dataclasses.replace(_REMIXING, duration_s=3.0),
    network=NetworkSettings("BandSplitMaskInference", hidden_size=64, num_layers=2, dropout=0.0),
    training=dataclasses.replace(
        CLASSIC.training,
        n_epochs=54,
        batches_per_epoch=100,
        batch_size=6,
        learning_rate=2e-3,
        weight_average_decay=0.995,
        mixed_precision=True,
    ),
)

FOUR_STEMS = Preset(
    "four-stems",
    signal=dataclasses.replace(STUDIO.signal, input_level_db=-20.0),
    mixing=dataclasses.replace(
        STUDIO.mixing,
        duration_s=4.0,
        coherent_probability=0.4,
        band_limits_hz=(8_000.0, 11_000.0, 16_000.0),
    ),
    network=dataclasses.replace(STUDIO.network, num_layers=3, bands="fine", over_bands="attention"),
    training=dataclasses.replace(
        STUDIO.training,
        n_epochs=28,
        loss="waveform_batch",
        source_weights=(0.5, 0.5, 0.5, 2.0),
        learning_rate=1.2e-3,
        mixed_precision=False,
    ),
    sources=STEMS,
)

LIVE = dataclasses.replace(
    FOUR_STEMS,
    name="live",
    network=dataclasses.replace(FOUR_STEMS.network, bidirectional=False, lookahead=4),
    training=dataclasses.replace(FOUR_STEMS.training, n_epochs=10, source_weights=(), learning_rate=1.5e-3),
    sources=("vocals",),
)

PRESETS = {preset.name: preset for preset in (SPECIFIED, CLASSIC, STUDIO, FOUR_STEMS, LIVE)}
"""Presets by name."""


def find_preset(preset: str | Path | Preset) -> Preset:
    """Return a preset as it is, the preset of a name, or that of a TOML file; raise SettingsError if there is none."""
    if isinstance(preset, Preset):
        return preset
    name = str(preset)
    if name in PRESETS:
        return PRESETS[name]
    if name.endswith(".toml"):
        return read_preset(Path(name))
    raise SettingsError(f"There is no preset {name!r}{_near(name, PRESETS)}; or name a file that ends with .toml.")


def read_preset(path: Path) -> Preset:
    """Read a preset from a TOML file, after which it is named; raise SettingsError if it holds anything else."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is no preset that can be read ({error}).") from error
    base = content.pop("based_on", SPECIFIED.name)
    if base not in PRESETS:
        raise SettingsError(f"{path}: there is no preset {base!r} to be based on{_near(str(base), PRESETS)}.")
    return _replaced(PRESETS[base], {"name": path.stem, **content}, str(path))


def _replaced(settings: Any, changes: dict[str, Any], where: str) -> Any:
    """Return a dataclass with other values in some fields, which may be dataclasses themselves."""
    hints = typing.get_type_hints(type(settings))
    values = {}
    for name, value in changes.items():
        if name not in hints:
            raise SettingsError(f"{where}: there is no setting {name!r}{_near(name, hints)}.")
        current = getattr(settings, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise SettingsError(f"{where}: {name} is a table; write [{name}], and its settings below.")
            values[name] = _replaced(current, value, f"{where} [{name}]")
        else:
            values[name] = None if value == "none" else value
    try:
        return dataclasses.replace(settings, **values)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def _near(name: str, known: Iterable[str]) -> str:
    """Return what may have been meant, as the end of a sentence."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known)}"
