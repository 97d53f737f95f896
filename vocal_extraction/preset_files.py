"""Presets of one's own: a TOML file that holds only what differs from a named preset.

::

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
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vocal_extraction.errors import SettingsError
from vocal_extraction.settings import PRESETS, SPECIFIED, Preset


def find_preset(name: str) -> Preset:
    """Return the preset of a name, or that of a TOML file; raise SettingsError if there is none."""
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
            values[name] = _converted(value, hints[name], f"{where}: {name}")
    return dataclasses.replace(settings, **values)


def _converted(value: Any, hint: Any, where: str) -> Any:
    """Return a value of TOML as the type of a field: int, float, str, bool, a tuple, or None for 'none'."""
    if isinstance(hint, types.UnionType):
        if value == "none":
            return None
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list):
            return tuple(_converted(each, typing.get_args(hint)[0], where) for each in value)
    elif type(value) is hint or (hint is float and type(value) is int):
        return hint(value)
    raise SettingsError(f"{where} is {value!r}; expected {getattr(hint, '__name__', hint)}.")


def _near(name: str, known: Iterable[str]) -> str:
    """Return what may have been meant, as the end of a sentence."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known)}"
