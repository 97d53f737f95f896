"""Spectra equal nussl's, which are SciPy's, and come back as the samples they were."""

import numpy as np
import pytest
import torch

from vocal_extraction.errors import SettingsError
from vocal_extraction.settings import SignalSettings
from vocal_extraction.spectrogram import (
    analyze,
    griffin_lim,
    istft,
    magnitude,
    n_frames_of,
    stft,
    synthesis_weight,
    synthesize,
)

WINDOWS = [(512, 128), (2_048, 512), (4_096, 1_024), (16, 8), (512, 256)]
SIGNALS = [SignalSettings(window_length=window, hop_length=hop) for window, hop in WINDOWS]
SIGNALS += [SignalSettings(window_length=2_048, hop_length=512, window_type="hann")]
CLASSIC = SIGNALS[0]


def name_of(signal):
    return f"{signal.window_length}-{signal.hop_length}-{signal.window_type}"


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape)).float()


def tone(n_samples, frequency_hz=1_000.0):
    return torch.from_numpy(np.sin(2 * np.pi * frequency_hz * np.arange(n_samples) / 44_100)).float()


@pytest.mark.parametrize("signal", SIGNALS, ids=name_of)
@pytest.mark.parametrize("n_samples", [4_096, 44_100, 44_101, 33_333])
def test_stft_is_nussls(signal, n_samples):
    from vocal_extraction.compatibility import nussl

    waveform = noise(2, n_samples)
    reference = nussl.AudioSignal(audio_data_array=waveform.double().numpy(), sample_rate=signal.sample_rate)
    reference.stft_params = nussl.STFTParams(signal.window_length, signal.hop_length, signal.window_type)
    expected = np.transpose(reference.stft(), (2, 1, 0))  # (n_channels, n_frames, n_bins)
    found = stft(waveform, signal=signal)
    assert found.shape == expected.shape == (2, n_frames_of(n_samples, signal), signal.n_bins)
    # Spectra of full-scale noise, in 32-bit floats: a millionth is -120 dB.
    assert np.abs(found.numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("signal", SIGNALS, ids=name_of)
@pytest.mark.parametrize("n_samples", [0, 1, 127, 4_096, 44_101])
def test_istft_is_the_inverse(signal, n_samples):
    waveform = noise(3, 2, n_samples)
    found = istft(stft(waveform, signal=signal), n_samples=n_samples, signal=signal)
    assert found.shape == waveform.shape
    assert torch.allclose(found, waveform, rtol=0, atol=2e-6)  # a few roundings of 32-bit floats


def test_istft_is_nussls():
    from vocal_extraction.compatibility import nussl

    n_samples = 20_001
    spectrum = stft(noise(1, n_samples), signal=CLASSIC) * noise(n_frames_of(n_samples, CLASSIC), CLASSIC.n_bins).abs()
    reference = nussl.AudioSignal(stft=np.transpose(spectrum.numpy(), (2, 1, 0)), sample_rate=CLASSIC.sample_rate)
    reference.stft_params = nussl.STFTParams(CLASSIC.window_length, CLASSIC.hop_length, CLASSIC.window_type)
    expected = reference.istft(truncate_to_length=n_samples)
    found = istft(spectrum, n_samples=n_samples, signal=CLASSIC)
    assert np.abs(found.numpy() - expected).max() < 2e-6


def test_a_tone_of_amplitude_one_has_magnitude_one_half():
    """nussl's scale: the window is divided by its sum, and half of a real tone is at negative frequencies."""
    frequency_hz = 44_100 / 512 * 40
    spectrum = magnitude(stft(tone(44_100, frequency_hz), signal=CLASSIC))
    within = spectrum[4:-4]  # frames that lie wholly in the tone
    assert torch.all(within.argmax(dim=-1) == 40)
    # The half at negative frequencies leaks in, 80 bins away: a thousandth is more than that window lets through.
    assert torch.allclose(within[:, 40], torch.tensor(0.5), rtol=0, atol=1e-3)


def test_batch_is_one_by_one():
    waveforms = noise(3, 2, 10_000)
    batch = stft(waveforms, signal=CLASSIC)
    for i in range(3):
        for channel in range(2):
            alone = stft(waveforms[i, channel], signal=CLASSIC)
            assert torch.equal(batch[i, channel], alone)
            inverse = istft(batch, n_samples=10_000, signal=CLASSIC)[i, channel]
            assert torch.allclose(inverse, istft(alone, n_samples=10_000, signal=CLASSIC), rtol=0, atol=1e-6)


@pytest.mark.parametrize("signal", SIGNALS, ids=name_of)
def test_pieces_are_the_whole(signal):
    """`analyze` and `synthesize` work on the frames within: what extraction streams equals what training transforms."""
    n_samples = 5 * signal.window_length
    waveform = noise(n_samples)
    frames = analyze(waveform, signal=signal)
    assert frames.shape == ((n_samples - signal.window_length) // signal.hop_length + 1, signal.n_bins)
    half = signal.window_length // 2
    whole = stft(waveform, signal=signal)[half // signal.hop_length :][: len(frames)]
    assert torch.allclose(frames, whole, rtol=0, atol=1e-7)
    weight = synthesis_weight(len(frames), signal=signal, like=torch.zeros(1))
    samples = synthesize(frames, signal=signal)
    assert samples.shape == weight.shape == ((len(frames) - 1) * signal.hop_length + signal.window_length,)
    inner = slice(signal.window_length, n_samples - signal.window_length)
    assert torch.allclose((samples / weight)[inner], waveform[inner], rtol=0, atol=2e-6)


def test_too_few_samples_or_frames_are_refused():
    with pytest.raises(RuntimeError):
        analyze(noise(511), signal=CLASSIC)
    with pytest.raises(ValueError, match="3 frames hold fewer than 257 samples"):
        istft(stft(noise(256), signal=CLASSIC), n_samples=257, signal=CLASSIC)


def test_magnitude_is_the_absolute_value():
    spectrum = stft(noise(2, 5_000), signal=CLASSIC)
    kept = spectrum.clone()
    assert torch.allclose(magnitude(spectrum), spectrum.abs(), rtol=1e-6, atol=1e-9)
    assert torch.equal(spectrum, kept), "the input is left as it was"


def test_gradients_flow_through_both_transforms():
    waveform = noise(2, 3_000).requires_grad_()
    energy = istft(stft(waveform, signal=CLASSIC), n_samples=3_000, signal=CLASSIC).square().sum()
    energy.backward()
    # The inverse of the transform gives the samples back, so the gradient of their energy is twice the samples.
    assert torch.allclose(waveform.grad, 2 * waveform.detach(), rtol=0, atol=1e-4)


def test_training_may_follow_extraction_in_one_process():
    """A window that was first made in inference mode must not spoil gradients later."""
    signal = SignalSettings(window_length=64, hop_length=16)  # used by no other test, so not yet cached
    with torch.inference_mode():
        istft(stft(noise(500), signal=signal), n_samples=500, signal=signal)
    waveform = noise(500).requires_grad_()
    istft(stft(waveform, signal=signal), n_samples=500, signal=signal).sum().backward()
    assert torch.isfinite(waveform.grad).all()


def inconsistency(waveform, wanted, signal):
    """Share of the wanted magnitudes' energy that the waveform's own magnitudes miss, in decibels."""
    missed = stft(waveform, signal=signal).abs() - wanted
    return float(10 * torch.log10(missed.square().sum() / wanted.square().sum()))


@pytest.mark.parametrize("signal", SIGNALS[:3], ids=name_of)
def test_griffin_lim_lowers_the_inconsistency(signal):
    n_samples = 20_000
    mixture = noise(n_samples, seed=1) + tone(n_samples)
    mixed = stft(mixture, signal=signal)
    wanted = stft(tone(n_samples), signal=signal).abs()
    found = [
        inconsistency(
            griffin_lim(wanted, phase_of=mixed, n_samples=n_samples, signal=signal, n_iterations=n), wanted, signal
        )
        for n in (0, 4, 32)
    ]
    assert found[0] > found[1] > found[2]
    assert found[2] < found[0] - 3  # decibels; Griffin and Lim prove that it falls, not how fast


@pytest.mark.parametrize("seed", [0, 1])
def test_griffin_lim_converges_as_librosas(seed):
    """Spectral convergence after 32 rounds, from the same first phase: within half a decibel of librosa's."""
    import librosa

    n_fft, hop, n_samples = 512, 128, 16_384
    signal = SignalSettings(window_length=n_fft, hop_length=hop, window_type="hann")
    t = np.arange(n_samples) / 44_100
    music = sum(np.sin(2 * np.pi * f * (t + 0.01 * t**2)) for f in (220, 331, 1_760)) * (1 + np.sin(2 * np.pi * 3 * t))
    music += np.random.default_rng(seed).normal(0, 0.1, n_samples)
    wanted = stft(torch.from_numpy(music).float(), signal=signal).abs()
    # The first phase of both is zero: librosa's with `init=None`, ours that of a real spectrum.
    ours = griffin_lim(wanted, phase_of=wanted + 0j, n_samples=n_samples, signal=signal)
    scale = float(np.hanning(n_fft + 1)[:-1].sum())  # nussl divides by the window's sum
    theirs = librosa.griffinlim(
        wanted.numpy().T * scale,
        n_iter=32,
        hop_length=hop,
        n_fft=n_fft,
        init=None,
        pad_mode="constant",
        length=n_samples,
    )
    ours_db = inconsistency(ours, wanted, signal)
    theirs_db = inconsistency(torch.from_numpy(theirs), wanted, signal)
    assert ours_db < theirs_db + 0.5
    without = griffin_lim(wanted, phase_of=wanted + 0j, n_samples=n_samples, signal=signal, momentum=0.0)
    assert ours_db < inconsistency(without, wanted, signal) - 1.0


def test_griffin_lim_keeps_a_consistent_spectrum():
    waveform = tone(10_000)
    spectrum = stft(waveform, signal=CLASSIC)
    found = griffin_lim(spectrum.abs(), phase_of=spectrum, n_samples=10_000, signal=CLASSIC, n_iterations=8)
    assert found.shape == waveform.shape
    assert torch.allclose(found, waveform, rtol=0, atol=1e-4)


def test_windows_that_do_not_add_up_cannot_be_asked_for():
    with pytest.raises(SettingsError):
        SignalSettings(window_length=512, hop_length=384)
