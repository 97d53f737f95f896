"""Audio of the events that scaper drew: excerpt, pitch, tempo, loudness.

Scaper renders each stem through SoX, one process an event; that took 92% of its time and spliced the stems of one song
at different places. Here they go through one transform together. numba compiles the loops over samples.
"""

from vocal_extraction.rendering.events import EQUALIZER_HZ, mix_events
from vocal_extraction.rendering.stems import Audio, RenderingError, duration_s_of, songs_of
