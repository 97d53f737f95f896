"""What the band agrees on before it plays: tempo, key and chords."""

import dataclasses
import math

import numpy as np

BEATS_PER_BAR = 4
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (3, 0, 4, 5), (0, 2, 3, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 6, 2), (0, 6, 5, 6), (5, 6, 0, 0)),
}
"""Four bars of scale degrees, 0 being the tonic."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A song's length, tempo, key and chords."""

    sample_rate: int
    n_samples: int
    beat_s: float
    tonic: int
    """MIDI note of a low tonic, 36 to 47."""
    scale: tuple[int, ...]
    """Semitones above the tonic of the seven degrees."""
    progression: tuple[int, ...]
    """Scale degree on which each bar's chord stands, repeated as long as the song lasts."""

    @property
    def n_bars(self) -> int:
        """Bars that have begun when the song ends."""
        return math.ceil(self.n_samples / (self.sample_rate * self.beat_s * BEATS_PER_BAR))

    def midi(self, degree: int) -> int:
        """MIDI note of a scale degree, which may lie below 0 or above 6.

        >>> Score(44_100, 1, 0.5, 36, (0, 2, 4, 5, 7, 9, 11), (0,)).midi(8)
        50
        """
        return self.tonic + 12 * (degree // 7) + self.scale[degree % 7]

    def chord(self, bar: int) -> tuple[int, int, int]:
        """Scale degrees of a bar's triad, root first."""
        root = self.progression[bar % len(self.progression)]
        return root, root + 2, root + 4

    def sample(self, beat: float) -> int:
        """The sample on which a beat falls."""
        return round(beat * self.beat_s * self.sample_rate)


def compose(rng: np.random.Generator, n_samples: int, sample_rate: int) -> Score:
    """Draw tempo (84 to 138 beats a minute), key and progression."""
    mode = "major" if rng.random() < 0.65 else "minor"
    progression = _PROGRESSIONS[mode][rng.integers(len(_PROGRESSIONS[mode]))]
    return Score(
        sample_rate, n_samples, 60 / rng.uniform(84, 138), int(rng.integers(36, 48)), _SCALES[mode], progression
    )
