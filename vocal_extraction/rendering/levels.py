"""The levels of events: gains by loudness, their places in the mixture, and one scale for all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.rendering.loudness import loudness_lufs
from vocal_extraction.rendering.stems import Audio
from vocal_extraction.settings import MixingSettings

_QUIETEST_LUFS = -60.0
"""An excerpt below this is lifted as if it had this loudness: scaper would turn near-silence into loud noise."""


def gains_of(
    rendered: Sequence[Audio], events: list[dict[str, Any]], drawer: Any, *, keeps_balance: bool
) -> NDArray[np.float32]:
    """Return each event's gain as a factor, and make the annotation's SNR what will be heard.

    A levelled event gets ``ref_db + snr``. One that keeps the song's balance is moved by ``snr``, and the annotation
    then says the loudness that results. Silence stays silence: scaper would lift its noise by up to 55 dB.
    """
    lufs = np.array([loudness_lufs(audio, drawer.sr) for audio in rendered])
    snr_db = np.array([event["snr"] for event in events])
    if keeps_balance:
        gain_db = snr_db
        for event, heard_db in zip(events, lufs + gain_db - drawer.ref_db, strict=True):
            event["snr"] = float(heard_db)
    else:
        # No event is lifted further than from _QUIETEST_LUFS; what is quieter misses its SNR.
        gain_db = drawer.ref_db + snr_db - np.maximum(lufs, _QUIETEST_LUFS)
    factors: NDArray[np.float32] = (10 ** (gain_db / 20)).astype(np.float32)
    return factors


def place(rendered: Sequence[Audio], events: list[dict[str, Any]], factors: NDArray[np.float32], drawer: Any) -> Audio:
    """Level the events and put them where they begin: (n_stems, n_channels, n_samples)."""
    stems = np.zeros((len(events), drawer.n_channels, int(drawer.duration * drawer.sr)), dtype=np.float32)
    for stem, audio, event, factor in zip(stems, rendered, events, factors, strict=True):
        here = stem[:, int(drawer.sr * event["event_time"]) :][:, : audio.shape[1]]
        np.multiply(audio[:, : here.shape[1]], factor, out=here)
    return stems


def overall_scale(mixture: Audio, mixing: MixingSettings, random_state: np.random.RandomState) -> float:
    """Return one factor for everything: down to full scale where it would clip, then the drawn level."""
    peak = float(max(mixture.max(), -mixture.min()))
    level_db = random_state.uniform(*mixing.level_db)
    return float(min(1.0, 1.0 / max(peak, 1e-10)) * 10 ** (level_db / 20))
