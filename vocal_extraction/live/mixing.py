"""The mix that is played: a gain for each stem, changed without clicks."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vocal_extraction.errors import SettingsError
from vocal_extraction.separation.disk_array import Rows

_MOST_DB = 24.0
_FADE_S = 0.01


def parse_gains(text: str) -> dict[str, float]:
    """Return gains in decibels by stem.

    >>> parse_gains("vocals=-inf,other=-3")
    {'vocals': -inf, 'other': -3.0}
    """
    gains = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            gains[name.strip()] = float(value.lower().removesuffix("db").strip())
        except ValueError:
            raise SettingsError(f"{part!r} is no gain; write NAME=DECIBELS, as vocals=-inf,other=0.") from None
        if not gains[name.strip()] <= _MOST_DB:
            raise SettingsError(f"The gain of {name.strip()} is {value}; expected at most {_MOST_DB:g} dB.")
    return gains


class Mixer:
    """Sums stems with gains that reach their targets within a block; `solo` plays one stem alone."""

    def __init__(
        self, stems: Sequence[str], sample_rate: int, *, gains_db: Mapping[str, float], solo: str | None = None
    ) -> None:
        self._stems = tuple(stems)
        self.target = np.array([0.0 if solo else 1.0 for _ in stems], np.float32)
        if solo:
            self.target[self._index(solo)] = 1.0
        for name, gain_db in gains_db.items():
            self.target[self._index(name)] = 10 ** (gain_db / 20)
        self._gains = self.target.copy()
        self._n_fade = max(round(_FADE_S * sample_rate), 1)
        self._was_late = False

    def _index(self, name: str) -> int:
        if name == "other" and name not in self._stems:
            name = "accompaniment"
        if name not in self._stems:
            raise SettingsError(f"There is no stem {name!r}; there are {', '.join(self._stems)}.")
        return self._stems.index(name)

    def choose(self, key: str) -> None:
        """Take another mix: 'o' is the original, 'k' all but the vocals, 's' the vocals (or the first stem) alone."""
        lead = "vocals" if "vocals" in self._stems else self._stems[0]
        is_lead = np.array([name == lead for name in self._stems])
        mixes = {"o": np.ones(len(is_lead)), "k": ~is_lead, "s": is_lead}
        if key in mixes:
            self.target = mixes[key].astype(np.float32)

    def mix(self, stems: Rows | None, mixture: Rows) -> Rows:
        """Return what is played: the stems (n_stems, n_samples, n_channels) with their gains; if late, the mixture."""
        n = len(mixture)
        if stems is None:
            played = mixture if self._was_late else mixture * self._ramp(n)
            self._was_late = True
            return played
        share = self._ramp(n)[:, 0]
        gains = self._gains + np.outer(share, self.target - self._gains)  # (n_samples, n_stems)
        played = np.einsum("snc,ns->nc", stems, gains)
        if self._was_late:
            played = mixture + (played - mixture) * self._ramp(n)
        self._gains, self._was_late = self.target.copy(), False
        return played

    def _ramp(self, n: int) -> Rows:
        return np.minimum(np.arange(1, n + 1, dtype=np.float32) / min(self._n_fade, n), 1.0)[:, None]


def level_db(samples: Rows) -> float:
    """Return the RMS of samples in dB of full scale."""
    power = float(np.mean(np.square(samples))) if samples.size else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf
