"""Events that scaper drew, made audible: excerpt, pitch, tempo, loudness.

Scaper renders each stem through SoX, one process an event; that took 92% of its time and spliced the stems of one song
at different places. Here the stems of a song go through one transform together and share every splice.

==============  =========================================================
`stems`         which songs a folder holds, and excerpts of them
`stretching`    pitch and tempo of several channels at once
`loudness`      integrated loudness as broadcasting and scaper measure it
`events`        the events of an annotation, rendered and faded
`levels`        their gains by loudness, and their sum
==============  =========================================================

The loops over samples are compiled by numba, which librosa brings; it keeps what it compiled in ``__pycache__``.
"""

from vocal_extraction.rendering.events import fade, render_events
from vocal_extraction.rendering.levels import gains_of, overall_scale, place
from vocal_extraction.rendering.loudness import LOWEST_LUFS, loudness_lufs
from vocal_extraction.rendering.stems import Audio, RenderingError, duration_s_of, read_excerpt, songs_of
from vocal_extraction.rendering.stretching import change_pitch_and_tempo

__all__ = [
    "LOWEST_LUFS",
    "Audio",
    "RenderingError",
    "change_pitch_and_tempo",
    "duration_s_of",
    "fade",
    "gains_of",
    "loudness_lufs",
    "overall_scale",
    "place",
    "read_excerpt",
    "render_events",
    "songs_of",
]
