"""The score, and functions for pitches, waves, bands, echo and panning."""

import dataclasses
import math

import numpy as np
import scipy.fft
import scipy.signal
from numpy.typing import ArrayLike, NDArray

from vocal_extraction.musdb_preparation import SAMPLE_RATE

Signal = NDArray[np.float64]  # one channel (n_samples) or two (n_channels=2, n_samples)
BEATS_PER_BAR = 4
_TABLE_LENGTH = 4_096
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_PROGRESSIONS = {  # four bars of scale degrees, 0 being the tonic
    "major": ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (3, 0, 4, 5), (0, 2, 3, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 6, 2), (0, 6, 5, 6), (5, 6, 0, 0)),
}


@dataclasses.dataclass(frozen=True)
class Score:
    n_samples: int
    beat_s: float
    tonic: int  # MIDI note of a low tonic, 36 to 47
    scale: tuple[int, ...]  # semitones above the tonic of the seven degrees
    progression: tuple[int, ...]  # root of each bar's chord as a scale degree, repeated as long as the song lasts

    @property
    def n_bars(self) -> int:
        """Bars that have begun when the song ends."""
        return math.ceil(self.n_samples / (SAMPLE_RATE * self.beat_s * BEATS_PER_BAR))

    def midi(self, degree: int) -> int:
        """MIDI note of a scale degree, which may lie below 0 or above 6.

        >>> Score(1, 0.5, 36, (0, 2, 4, 5, 7, 9, 11), (0,)).midi(8)
        50
        """
        return self.tonic + 12 * (degree // 7) + self.scale[degree % 7]

    def chord(self, bar: int) -> tuple[int, int, int]:
        """Scale degrees of a bar's triad, root first."""
        root = self.progression[bar % len(self.progression)]
        return root, root + 2, root + 4

    def sample(self, bar: int, step: float = 0) -> int:
        """The sample on which a sixteenth of a bar falls."""
        return round((bar * BEATS_PER_BAR + step / 4) * self.beat_s * SAMPLE_RATE)


def compose(rng: np.random.Generator, n_samples: int) -> Score:
    """Draw tempo (84 to 138 beats a minute), key and progression."""
    mode = "major" if rng.random() < 0.65 else "minor"
    progression = _PROGRESSIONS[mode][rng.integers(len(_PROGRESSIONS[mode]))]
    return Score(n_samples, 60 / rng.uniform(84, 138), int(rng.integers(36, 48)), _SCALES[mode], progression)


def hertz(midi: ArrayLike) -> Signal:
    return np.asarray(440.0 * 2.0 ** ((np.asarray(midi, dtype=float) - 69) / 12))


def add(track: Signal, start_sample: int, sound: Signal) -> None:
    """Add `sound` to `track` (n_channels, n_samples) in place, as far as it is inside."""
    skip = max(-start_sample, 0)
    start = start_sample + skip
    length = min(sound.shape[-1] - skip, track.shape[-1] - start)
    if length > 0:
        track[:, start : start + length] += sound[..., skip : skip + length]


def band(signal: Signal, low_hz: float, high_hz: float) -> Signal:
    """Keep what is between two frequencies (second-order Butterworth); a low edge of 0 is none."""
    edges, kind = ((low_hz, high_hz), "bandpass") if low_hz else (high_hz, "lowpass")
    filters = scipy.signal.butter(2, edges, kind, fs=SAMPLE_RATE, output="sos")
    return np.asarray(scipy.signal.sosfilt(filters, signal))


def wave(frequency_hz: Signal, *, top_hz: float) -> Signal:
    """Follow a pitch contour (n_samples,) with harmonics below `top_hz`, the k-th of amplitude ``1 / k``."""
    n_harmonics = int(np.clip(top_hz / frequency_hz.max(), 1, _TABLE_LENGTH // 4))
    spectrum = np.zeros(_TABLE_LENGTH // 2 + 1, dtype=complex)
    spectrum[1 : n_harmonics + 1] = -0.5j * _TABLE_LENGTH / np.arange(1, n_harmonics + 1)
    table = scipy.fft.irfft(spectrum)  # one period
    position = np.cumsum(frequency_hz) / SAMPLE_RATE % 1.0 * _TABLE_LENGTH
    return np.interp(position, np.arange(_TABLE_LENGTH + 1), np.append(table, table[0]))


def echo(signal: Signal, rng: np.random.Generator, *, decay_s: float, wet_db: float) -> Signal:
    """Add a reverberation to (2, n_samples): for each side, noise that falls by 60 dB in `decay_s`."""
    time_s = np.arange(int(decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal((2, len(time_s))) * 10 ** (-3 * time_s / decay_s) * (time_s > 0.012)
    response = band(response, 150, 7_000)
    response *= 10 ** (wet_db / 20) / np.sqrt(np.sum(response**2, axis=1, keepdims=True))
    return np.asarray(signal + scipy.signal.oaconvolve(signal, response, axes=1)[:, : signal.shape[1]])


def pan(signal: Signal, position: float) -> Signal:
    """Place (n_samples) between left (-1) and right (1) at constant power; return (2, n_samples)."""
    angle = (position + 1) * np.pi / 4
    return np.stack([np.cos(angle) * signal, np.sin(angle) * signal])
