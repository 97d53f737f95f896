"""The short-time Fourier transform of nussl, on batches of waveforms and on any device.

nussl transforms one signal at a time through ``scipy.signal.stft``: half a window of zeros on both sides, zeros at the
end up to a whole frame, the window divided by its sum. The network's weights depend on that scale, so it is kept to
the letter; only the loop over signals is gone. Source: SciPy's documentation of ``stft`` and ``istft``; Griffin and
Lim, "Signal estimation from modified short-time Fourier transform", 1984; Perraudin et al., 2013.

Axes: waveforms are ``(..., n_samples)``, spectrograms ``(..., n_frames, n_bins)``.
"""

import functools

import torch
from torch import Tensor

from vocal_extraction.settings import SignalSettings


@functools.lru_cache(maxsize=16)
def _window(signal: SignalSettings, device: torch.device) -> Tensor:
    window = torch.hann_window(signal.window_length, periodic=True, dtype=torch.float64)
    if signal.window_type == "sqrt_hann":
        window = window.sqrt()
    return window.float().to(device)


def n_frames_of(n_samples: int, signal: SignalSettings) -> int:
    """Return how many frames `stft` gives for `n_samples` samples.

    >>> n_frames_of(0, SignalSettings()), n_frames_of(1, SignalSettings()), n_frames_of(220_500, SignalSettings())
    (1, 2, 1724)
    """
    return -(-n_samples // signal.hop_length) + 1


def stft(waveform: Tensor, *, signal: SignalSettings) -> Tensor:
    """Transform waveforms to complex spectrograms, on nussl's scale.

    Parameters
    ----------
    waveform
        Real samples. Shape: (..., n_samples).
    signal
        Window and hop.

    Returns
    -------
    Tensor
        Complex. Shape: (..., n_frames, n_bins), with ``n_frames = ceil(n_samples / hop_length) + 1``.
    """
    n_samples = waveform.shape[-1]
    half = signal.window_length // 2
    right = (n_frames_of(n_samples, signal) - 1) * signal.hop_length + signal.window_length - half - n_samples
    return analyze(torch.nn.functional.pad(waveform, (half, right)), signal=signal)


def analyze(samples: Tensor, *, signal: SignalSettings) -> Tensor:
    """Transform the frames that lie wholly within `samples`; the first begins at the first sample.

    Parameters
    ----------
    samples
        Real samples, at least one window of them. Shape: (..., n_samples).
    signal
        Window and hop.

    Returns
    -------
    Tensor
        Complex. Shape: (..., n_frames, n_bins), with ``n_frames = (n_samples - window_length) // hop_length + 1``.
    """
    window = _window(signal, samples.device)
    frames = samples.unfold(-1, signal.window_length, signal.hop_length)  # (..., n_frames, window_length)
    return torch.fft.rfft(frames * (window / window.sum()))


def istft(spectrogram: Tensor, *, n_samples: int, signal: SignalSettings) -> Tensor:
    """Transform complex spectrograms back to waveforms: the inverse of `stft` on what it gave.

    Parameters
    ----------
    spectrogram
        Complex. Shape: (..., n_frames, n_bins).
    n_samples
        Length of the waveform, at most ``(n_frames - 1) * hop_length``.
    signal
        Window and hop.

    Returns
    -------
    Tensor
        Real samples. Shape: (..., n_samples).

    Raises
    ------
    ValueError
        If the frames are too few for that many samples.
    """
    n_frames = spectrogram.shape[-2]
    if n_samples > (n_frames - 1) * signal.hop_length:
        raise ValueError(f"{n_frames} frames hold fewer than {n_samples} samples, the length that was asked for.")
    overlapped = synthesize(spectrogram, signal=signal)
    half = signal.window_length // 2
    # Beyond the first and last half window the weight falls to nothing; none of that is kept.
    kept = slice(half, half + n_samples)
    weight = synthesis_weight(n_frames, signal=signal, device=spectrogram.device)
    return overlapped[..., kept] / weight[kept]


def synthesize(spectrogram: Tensor, *, signal: SignalSettings) -> Tensor:
    """Transform frames back and add them up where they overlap; `synthesis_weight` is what remains to divide by.

    Parameters
    ----------
    spectrogram
        Complex. Shape: (..., n_frames, n_bins).
    signal
        Window and hop.

    Returns
    -------
    Tensor
        Real samples. Shape: (..., (n_frames - 1) * hop_length + window_length).
    """
    window = _window(signal, spectrogram.device)
    frames = torch.fft.irfft(spectrogram, n=signal.window_length) * (window * window.sum())
    overlapped = _overlap_add(frames.reshape(-1, *frames.shape[-2:]), signal.hop_length)
    return overlapped.reshape(*spectrogram.shape[:-2], -1)


def synthesis_weight(n_frames: int, *, signal: SignalSettings, device: torch.device) -> Tensor:
    """Return the sum of the squared windows of `n_frames` frames, kept from 0.

    Shape: ((n_frames - 1) * hop_length + window_length).
    """
    window = _window(signal, device)
    return _overlap_add((window * window).expand(1, n_frames, -1), signal.hop_length)[0].clamp_min(1e-10)


def magnitude(spectrogram: Tensor) -> Tensor:
    """Return the absolute value, for use without gradients.

    It takes a third of the time of ``abs``, which guards against overflows that no audio causes.
    """
    return (spectrogram.real * spectrogram.real).addcmul_(spectrogram.imag, spectrogram.imag).sqrt_()


def _overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """Add frames (n, n_frames, window_length) up at distances of `hop_length`: (n, n_samples).

    A window is a whole number of hops, so each frame is a row of hops and the k-th hops of all frames form one
    contiguous signal, shifted by k hops: a handful of additions instead of a scatter.
    """
    n, n_frames, window_length = frames.shape
    n_hops = window_length // hop_length
    out = frames.new_zeros(n, n_frames + n_hops - 1, hop_length)
    for k in range(n_hops):
        out[:, k : k + n_frames] += frames[..., k * hop_length : (k + 1) * hop_length]
    return out.reshape(n, -1)


def griffin_lim(
    magnitude: Tensor,
    *,
    phase_of: Tensor,
    n_samples: int,
    signal: SignalSettings,
    n_iterations: int = 32,
    momentum: float = 0.99,
) -> Tensor:
    """Find a waveform whose magnitudes come close to `magnitude`, starting from the phase of the mixture.

    Parameters
    ----------
    magnitude
        Wanted magnitudes, at least 0. Shape: (..., n_frames, n_bins).
    phase_of
        Complex spectrogram whose phase is the first guess. Same shape.
    n_samples, signal
        As for `istft`.
    n_iterations
        Rounds of inverse and forward transform.
    momentum
        How far each round goes on in the direction of the one before, 0 to 1 (Perraudin et al., "A fast Griffin-Lim
        algorithm", WASPAA 2013); 0 is Griffin and Lim's own (1984, equation 5).

    Returns
    -------
    Tensor
        Real samples. Shape: (..., n_samples).
    """
    phase = torch.polar(torch.ones_like(magnitude), phase_of.angle())
    before = torch.zeros_like(phase)
    for _ in range(n_iterations):
        estimate = stft(istft(magnitude * phase, n_samples=n_samples, signal=signal), signal=signal)
        # As in librosa: the step back is less than the whole of the last estimate, so that its own angle still counts.
        phase = torch.polar(torch.ones_like(magnitude), (estimate - momentum / (1 + momentum) * before).angle())
        before = estimate
    return istft(magnitude * phase, n_samples=n_samples, signal=signal)
