"""The tools that all players share: pitches, waves, bands, rooms and places in the stereo picture."""

import numpy as np
import scipy.fft
import scipy.signal
from numpy.typing import ArrayLike, NDArray

Signal = NDArray[np.float64]
"""One channel (n_samples) or two (n_channels=2, n_samples)."""

_TABLE_LENGTH = 4_096


def hertz(midi: ArrayLike) -> Signal:
    """Frequency of MIDI notes, fractions included.

    >>> float(hertz(69))
    440.0
    """
    return np.asarray(440.0 * 2.0 ** ((np.asarray(midi, dtype=float) - 69) / 12))


def add(track: Signal, start_sample: int, sound: Signal) -> None:
    """Add `sound` to `track` (n_channels, n_samples) in place; what hangs over an end of the track is cut off."""
    skip = max(-start_sample, 0)
    start = start_sample + skip
    length = min(sound.shape[-1] - skip, track.shape[-1] - start)
    if length > 0:
        track[:, start : start + length] += sound[..., skip : skip + length]


def band(signal: Signal, low_hz: float, high_hz: float, sample_rate: int) -> Signal:
    """Keep what lies between two frequencies (second-order Butterworth edges); a low edge of 0 is none."""
    high_hz = min(high_hz, 0.45 * sample_rate)
    edges, kind = (high_hz, "lowpass") if low_hz <= 0 else ((min(low_hz, 0.8 * high_hz), high_hz), "bandpass")
    return np.asarray(scipy.signal.sosfilt(scipy.signal.butter(2, edges, kind, fs=sample_rate, output="sos"), signal))


def harmonics(highest_hz: float, top_hz: float, tilt: float) -> Signal:
    """Amplitudes ``1 / k ** tilt`` of as many harmonics as stay below `top_hz` at the highest pitch of a part."""
    n_harmonics = int(np.clip(top_hz / highest_hz, 1, _TABLE_LENGTH // 4))
    return np.asarray(1.0 / np.arange(1, n_harmonics + 1) ** tilt)


def wave(frequency_hz: Signal, amplitudes: Signal, sample_rate: int, first_cycle: float = 0.0) -> tuple[Signal, Signal]:
    """Read a table of one period along a pitch contour, so that no harmonic beyond the given ones appears.

    Returns
    -------
    tuple
        The wave and its phase in cycles, both as long as `frequency_hz`.
    """
    spectrum = np.zeros(_TABLE_LENGTH // 2 + 1, dtype=complex)
    spectrum[1 : len(amplitudes) + 1] = -0.5j * _TABLE_LENGTH * amplitudes
    table = scipy.fft.irfft(spectrum)
    cycles = first_cycle + np.cumsum(frequency_hz) / sample_rate
    position = (cycles % 1.0) * _TABLE_LENGTH
    index = position.astype(np.intp) % _TABLE_LENGTH
    steps = np.roll(table, -1) - table
    return table[index] + (position - index) * steps[index], cycles


def room(signal: Signal, rng: np.random.Generator, *, decay_s: float, wet_db: float, sample_rate: int) -> Signal:
    """Add a room's echo to (2, n_samples): noise that falls by 60 dB in `decay_s`, another one for each ear."""
    time_s = np.arange(int(decay_s * sample_rate)) / sample_rate
    response = rng.standard_normal((2, len(time_s))) * 10 ** (-3 * time_s / decay_s) * (time_s > 0.012)
    response = band(response, 150, 7_000, sample_rate)
    response *= 10 ** (wet_db / 20) / np.sqrt(np.sum(response**2, axis=1, keepdims=True))
    return np.asarray(signal + scipy.signal.oaconvolve(signal, response, axes=1)[:, : signal.shape[1]])


def pan(signal: Signal, position: float) -> Signal:
    """Place (n_samples) between left (-1) and right (1) at constant power; return (2, n_samples)."""
    angle = (position + 1) * np.pi / 4
    return np.stack([np.cos(angle) * signal, np.sin(angle) * signal])
