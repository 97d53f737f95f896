"""The events of a scaper annotation: rendered, levelled by their loudness, faded and added up."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from vocal_extraction.rendering.loudness import loudness_lufs
from vocal_extraction.rendering.stems import Audio, read_excerpt
from vocal_extraction.rendering.stretching import change_pitch_and_tempo

_QUIETEST_LUFS = -60.0  # below, an excerpt is lifted as if it had this: scaper would make noise of silence

EQUALIZER_HZ = (60, 200, 600, 2_000, 6_000, 18_000)
"""Where an equalizer's gains are drawn; between them they are interpolated in decibels over octaves."""


def mix_events(
    events: Sequence[dict[str, Any]],
    channels: Sequence[str],
    polarities: NDArray[np.float32],
    drawer: Any,
    *,
    band_limit_hz: float | None = None,
    equalizer_gains_db: Sequence[Sequence[float]] = (),
    level_db: float,
    together: bool,
    keeps_balance: bool,
) -> tuple[Audio, Audio, float]:
    """Mix the events of an annotation, values of scaper's observations.

    Of each event's file, `channels` says what to read, and `polarities` its sign. Events that are `together` go through
    one transform and stay aligned. Where `keeps_balance`, 'snr' is a gain on an event's own level, and is replaced by
    the loudness that results. Returns the mixture (n_channels, n_samples), its stems (n_events, n_channels, n_samples),
    and the factor on all of it: down to full scale where it would clip, times the level.
    """
    rendered = render_events(events, channels, sample_rate=drawer.sr, together=together)
    if equalizer_gains_db:
        rendered = [equalize(*each, sample_rate=drawer.sr) for each in zip(rendered, equalizer_gains_db, strict=True)]
    for audio in rendered:
        # Before the loudness is measured, not after as in scaper: a drum that is faded away may be 0.2 dB of it.
        fade(audio, n_in=int(drawer.fade_in_len * drawer.sr), n_out=int(drawer.fade_out_len * drawer.sr))
    factors = _gains(rendered, events, drawer, keeps_balance=keeps_balance) * polarities
    stems = np.zeros((len(events), drawer.n_channels, int(drawer.duration * drawer.sr)), dtype=np.float32)
    for stem, audio, event, factor in zip(stems, rendered, events, factors, strict=True):
        here = stem[:, int(drawer.sr * event["event_time"]) :][:, : audio.shape[1]]
        np.multiply(audio[:, : here.shape[1]], factor, out=here)
    if band_limit_hz is not None:
        spectra = scipy.fft.rfft(stems)
        spectra[..., math.ceil(band_limit_hz * stems.shape[-1] / drawer.sr) :] = 0
        stems = scipy.fft.irfft(spectra, stems.shape[-1])
    mixture = stems.sum(axis=0)
    peak = float(max(mixture.max(), -mixture.min()))
    scale = min(1.0, 1.0 / max(peak, 1e-10)) * 10 ** (level_db / 20)
    if scale != 1.0:
        stems *= np.float32(scale)
        mixture = stems.sum(axis=0)
    return mixture, stems, scale


def render_events(
    events: Sequence[Mapping[str, Any]], channels: Sequence[str], *, sample_rate: int, together: bool
) -> list[Audio]:
    """Return the events' excerpts (n_channels, n_samples), with the pitch and length that the events ask for."""
    read = functools.partial(read_excerpt, sample_rate=sample_rate)
    excerpts = [
        read(event["source_file"], start_s=event["source_time"], duration_s=event["event_duration"], channel=channel)
        for event, channel in zip(events, channels, strict=True)
    ]
    if not together:
        return [_transform(one, event, sample_rate) for one, event in zip(excerpts, events, strict=True)]
    n_samples = max(excerpt.shape[1] for excerpt in excerpts)  # siblings may differ by a few at the end of the file
    stacked = np.concatenate([np.pad(one, ((0, 0), (0, n_samples - one.shape[1]))) for one in excerpts])
    return np.split(_transform(stacked, events[0], sample_rate), len(excerpts))


def _transform(audio: Audio, event: Mapping[str, Any], sample_rate: int) -> Audio:
    n_wanted = round(event["event_duration"] * (event["time_stretch"] or 1.0) * sample_rate)
    semitones = event["pitch_shift"] or 0.0
    return change_pitch_and_tempo(audio, semitones=semitones, n_wanted=n_wanted, sample_rate=sample_rate)


def equalize(audio: Audio, gains_db: Sequence[float], *, sample_rate: int) -> Audio:
    """Return (n_channels, n_samples) with these gains at `EQUALIZER_HZ`, without a delay."""
    n_samples = audio.shape[1]
    n_padded = scipy.fft.next_fast_len(n_samples, real=True)
    octaves = np.log2(np.maximum(scipy.fft.rfftfreq(n_padded, 1 / sample_rate), 1))
    factors = 10 ** (np.interp(octaves, np.log2(EQUALIZER_HZ), gains_db) / 20)
    equalized: Audio = scipy.fft.irfft(scipy.fft.rfft(audio, n_padded) * factors.astype(np.float32), n_padded)
    return equalized[:, :n_samples]


def fade(audio: Audio, *, n_in: int, n_out: int) -> None:
    """Fade both ends of (n_channels, n_samples) in place, along a quarter of a sine as scaper does."""
    for n_faded, ends in ((n_in, audio), (n_out, audio[:, ::-1])):
        n_here = min(n_faded, ends.shape[1])
        ends[:, :n_here] *= _rise(n_here)


@functools.lru_cache(maxsize=8)
def _rise(n_samples: int) -> Audio:
    return np.sin(np.linspace(0, np.pi / 2, n_samples, dtype=np.float32))


def _gains(
    rendered: Sequence[Audio], events: Sequence[dict[str, Any]], drawer: Any, *, keeps_balance: bool
) -> NDArray[np.float32]:
    """Return each event's gain as a factor; silence stays silence, where scaper would lift its noise by up to 55 dB."""
    lufs = np.array([loudness_lufs(audio, drawer.sr) for audio in rendered])
    snr_db = np.array([event["snr"] for event in events])
    if keeps_balance:
        gain_db = snr_db
        for event, result_db in zip(events, lufs + gain_db - drawer.ref_db, strict=True):
            event["snr"] = float(result_db)
    else:
        gain_db = drawer.ref_db + snr_db - np.maximum(lufs, _QUIETEST_LUFS)
    return (10 ** (gain_db / 20)).astype(np.float32)
