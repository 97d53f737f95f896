"""The short-time Fourier transform of nussl, on batches of waveforms: arrays of NumPy or tensors of torch.

nussl transforms one signal at a time through ``scipy.signal.stft``: half a window of zeros on both sides, zeros at the
end up to a whole frame, the window divided by its sum. The network's weights depend on that scale, so it is kept to
the letter; only the loop over signals is gone. Source: SciPy's documentation of ``stft`` and ``istft``; Griffin and
Lim, "Signal estimation from modified short-time Fourier transform", 1984; Perraudin et al., 2013.

Axes: waveforms are ``(..., n_samples)``, spectrograms ``(..., n_frames, n_bins)``.
"""

import functools
import sys
from typing import Any

import numpy as np

from vocal_extraction.settings import SignalSettings

Samples = Any  # an array of NumPy or a tensor of torch; functions return what they are given, on its device


def namespace(array: Samples) -> Any:
    """Return the library of an array: NumPy, or torch, which is not imported for that."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


@functools.lru_cache(maxsize=16)
def _window(signal: SignalSettings, library: Any, device: Any) -> Samples:
    window = np.hanning(signal.window_length + 1)[:-1]  # periodic
    if signal.window_type == "sqrt_hann":
        window = np.sqrt(window)
    return library.asarray(window, dtype=library.float32, device=device)


def _window_for(array: Samples, signal: SignalSettings) -> Samples:
    return _window(signal, namespace(array), array.device)


def n_frames_of(n_samples: int, signal: SignalSettings) -> int:
    """Return how many frames `stft` gives for `n_samples` samples.

    >>> n_frames_of(0, SignalSettings()), n_frames_of(1, SignalSettings()), n_frames_of(220_500, SignalSettings())
    (1, 2, 1724)
    """
    return -(-n_samples // signal.hop_length) + 1


def stft(waveform: Samples, *, signal: SignalSettings) -> Samples:
    """Transform waveforms to complex spectrograms, on nussl's scale.

    Shape: (..., n_samples) to (..., n_frames, n_bins), with ``n_frames = ceil(n_samples / hop_length) + 1``.
    """
    n_samples = waveform.shape[-1]
    half = signal.window_length // 2
    right = (n_frames_of(n_samples, signal) - 1) * signal.hop_length + signal.window_length - half - n_samples
    library = namespace(waveform)
    silence = {"dtype": waveform.dtype, "device": waveform.device}
    before, after = (library.zeros((*waveform.shape[:-1], n), **silence) for n in (half, right))
    return analyze(library.concatenate([before, waveform, after], axis=-1), signal=signal)


def analyze(samples: Samples, *, signal: SignalSettings) -> Samples:
    """Transform the frames that lie wholly within `samples` (..., n_samples) to (..., n_frames, n_bins)."""
    window, library = _window_for(samples, signal), namespace(samples)
    if library is np:
        frames = np.lib.stride_tricks.sliding_window_view(samples, signal.window_length, -1)[
            ..., :: signal.hop_length, :
        ]
    else:
        frames = samples.unfold(-1, signal.window_length, signal.hop_length)  # (..., n_frames, window_length)
    # With a factor of its own, NumPy stays with 32-bit floats, in a third of the time.
    return library.fft.rfft(frames * (window * (signal.window_length / window.sum())), norm="forward")


def istft(spectrogram: Samples, *, n_samples: int, signal: SignalSettings) -> Samples:
    """Transform complex spectrograms back to waveforms: the inverse of `stft` on what it gave.

    Shape: (..., n_frames, n_bins) to (..., n_samples), which is at most ``(n_frames - 1) * hop_length``; else a
    ValueError.
    """
    n_frames = spectrogram.shape[-2]
    if n_samples > (n_frames - 1) * signal.hop_length:
        raise ValueError(f"{n_frames} frames hold fewer than {n_samples} samples, the length that was asked for.")
    overlapped = synthesize(spectrogram, signal=signal)
    half = signal.window_length // 2
    # Beyond the first and last half window the weight falls to nothing; none of that is kept.
    kept = slice(half, half + n_samples)
    weight = synthesis_weight(n_frames, signal=signal, like=spectrogram)
    return overlapped[..., kept] / weight[kept]


def synthesize(spectrogram: Samples, *, signal: SignalSettings) -> Samples:
    """Transform frames back and add them up where they overlap; `synthesis_weight` is what remains to divide by.

    Shape: (..., n_frames, n_bins) to (..., (n_frames - 1) * hop_length + window_length).
    """
    window = _window_for(spectrogram, signal)
    frames = namespace(spectrogram).fft.irfft(spectrogram, n=signal.window_length)
    frames *= window * window.sum()
    overlapped = _overlap_add(frames.reshape(-1, *frames.shape[-2:]), signal.hop_length)
    return overlapped.reshape(*spectrogram.shape[:-2], -1)


def synthesis_weight(n_frames: int, *, signal: SignalSettings, like: Samples) -> Samples:
    """Return the sum of the squared windows of `n_frames` frames, kept from 0, as an array of the kind of `like`.

    Shape: ((n_frames - 1) * hop_length + window_length).
    """
    window = _window_for(like, signal)
    frames = namespace(like).broadcast_to(window * window, (1, n_frames, signal.window_length))
    return _overlap_add(frames, signal.hop_length)[0].clip(min=1e-10)


def magnitude(spectrogram: Samples) -> Samples:
    """Return the absolute value, for use without gradients, in a third of the time of ``abs``."""
    power = spectrogram.real * spectrogram.real
    power += spectrogram.imag * spectrogram.imag
    return namespace(power).sqrt(power, out=power)


def _overlap_add(frames: Samples, hop_length: int) -> Samples:
    """Add frames (n, n_frames, window_length) up at distances of `hop_length`: (n, n_samples).

    A window is a whole number of hops, so each frame is a row of hops and the k-th hops of all frames form one
    contiguous signal, shifted by k hops: a handful of additions instead of a scatter.
    """
    n, n_frames, window_length = frames.shape
    n_hops = window_length // hop_length
    shape = (n, n_frames + n_hops - 1, hop_length)
    out = namespace(frames).zeros(shape, dtype=frames.dtype, device=frames.device)
    for k in range(n_hops):
        out[:, k : k + n_frames] += frames[..., k * hop_length : (k + 1) * hop_length]
    return out.reshape(n, -1)


def griffin_lim(
    magnitude: Samples,
    *,
    phase_of: Samples,
    n_samples: int,
    signal: SignalSettings,
    n_iterations: int = 32,
    momentum: float = 0.99,
) -> Samples:
    """Find a waveform whose magnitudes come close to `magnitude`, starting from the phase of `phase_of`, the mixture's.

    Shape: twice (..., n_frames, n_bins) to (..., n_samples). `momentum`, 0 to 1, is how far each round goes on in the
    direction of the one before (Perraudin et al., "A fast Griffin-Lim algorithm", WASPAA 2013); 0 is Griffin and Lim's
    own (1984, equation 5).
    """
    library = namespace(magnitude)
    phase, before = library.exp(1j * library.angle(phase_of)), library.zeros_like(phase_of)
    for _ in range(n_iterations):
        estimate = stft(istft(magnitude * phase, n_samples=n_samples, signal=signal), signal=signal)
        # As in librosa: the step back is less than the whole of the last estimate, so that its own angle still counts.
        phase = library.exp(1j * library.angle(estimate - momentum / (1 + momentum) * before))
        before = estimate
    return istft(magnitude * phase, n_samples=n_samples, signal=signal)
