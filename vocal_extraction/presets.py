"""Presets: a signal, a network and a recipe under the name that ``--preset`` takes.

`specified` is what settings.py has. Any other is a TOML file with only what differs from a named one, as in
docs/training.md.
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
    PACKAGE_FOLDER,
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


SPECIFIED = Preset("specified")
PRESETS = {SPECIFIED.name: SPECIFIED}  # presets by name; those in `shipped_presets` follow below


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
    base = str(content.pop("based_on", SPECIFIED.name))
    if base not in PRESETS:
        raise SettingsError(f"{path}: there is no preset {base!r} to be based on{_near(base, PRESETS)}.")
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


for _name in ("classic", "band-split", "studio", "live", "low-latency"):
    PRESETS[_name] = read_preset(PACKAGE_FOLDER / "shipped_presets" / f"{_name}.toml")
