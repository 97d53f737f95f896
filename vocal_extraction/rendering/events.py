"""The events of a scaper annotation as audio of just the length that the annotation tells."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vocal_extraction.rendering.stems import Audio, read_excerpt
from vocal_extraction.rendering.stretching import change_pitch_and_tempo


def render_events(
    events: Sequence[Mapping[str, Any]], channels: Sequence[str], *, sample_rate: int, together: bool
) -> list[Audio]:
    """Read the events' excerpts and give them the pitch and the length that the events ask for.

    Parameters
    ----------
    events
        Values of scaper's observations: 'source_file', 'source_time', 'event_duration', 'pitch_shift', 'time_stretch'.
    channels
        What to read of each event's file, as `read_excerpt` names it.
    sample_rate
        Samples per second.
    together
        Whether all events share duration, pitch and stretch; they then go through one transform and stay aligned.

    Returns
    -------
    list of ndarray
        Shape of each: (n_channels, n_samples), the event's duration times its stretch. Neither levelled nor faded.

    Raises
    ------
    RenderingError
        If a stem cannot be read.
    """
    excerpts = [
        read_excerpt(
            event["source_file"],
            start_s=event["source_time"],
            duration_s=event["event_duration"],
            sample_rate=sample_rate,
            channel=channel,
        )
        for event, channel in zip(events, channels, strict=True)
    ]
    if together:
        return np.split(_transform(_stack(excerpts), events[0], sample_rate), len(excerpts))
    return [_transform(one, event, sample_rate) for one, event in zip(excerpts, events, strict=True)]


def _stack(excerpts: Sequence[Audio]) -> Audio:
    """Stack the channels of all excerpts; siblings may differ by a few samples at the end of the file."""
    n_samples = max(excerpt.shape[1] for excerpt in excerpts)
    return np.concatenate([np.pad(one, ((0, 0), (0, n_samples - one.shape[1]))) for one in excerpts])


def _transform(block: Audio, event: Mapping[str, Any], sample_rate: int) -> Audio:
    """Give (n_channels, n_samples) the event's pitch and length."""
    stretch = event["time_stretch"] or 1.0
    return change_pitch_and_tempo(
        block,
        semitones=event["pitch_shift"] or 0.0,
        n_wanted=round(event["event_duration"] * stretch * sample_rate),
        sample_rate=sample_rate,
    )


def fade(event_audio: Audio, *, n_in: int, n_out: int) -> None:
    """Fade both ends of (n_channels, n_samples) in place, along a quarter of a sine as scaper: then no cut clicks."""
    for n_faded, ends in ((n_in, event_audio), (n_out, event_audio[:, ::-1])):
        n_here = min(n_faded, ends.shape[1])
        ends[:, :n_here] *= _rise(n_here)


@functools.lru_cache(maxsize=8)
def _rise(n_samples: int) -> Audio:
    """Return a quarter of a sine (n_samples,); nearly every event ends in the same two."""
    rise: Audio = np.sin(np.linspace(0, np.pi / 2, n_samples, dtype=np.float32))
    rise.flags.writeable = False
    return rise
