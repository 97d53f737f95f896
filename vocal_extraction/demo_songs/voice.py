"""A singer as source and filter: a glottal wave through a vocal tract's moving resonances (Fant 1960, Klatt 1980)."""

import dataclasses

import numpy as np
import scipy.ndimage
import scipy.signal
from numpy.typing import ArrayLike, NDArray

from vocal_extraction.demo_songs.sound import BEATS_PER_BAR, Score, Signal, add, band, echo, harmonics, hertz, pan, wave
from vocal_extraction.musdb_preparation import SAMPLE_RATE

_BLOCK_SAMPLES = 512
"""Pitch, level and formants are computed once a block."""

_VOWELS_HZ = {
    "a": (730, 1_090, 2_440),
    "e": (530, 1_840, 2_480),
    "i": (270, 2_290, 3_010),
    "o": (570, 840, 2_410),
    "u": (300, 870, 2_240),
}
"""First three formants of a man's vowels (Peterson and Barney 1952)."""

_NASAL_HZ = (260, 1_150, 2_300)
_HIGHER_FORMANTS_HZ = (3_300, 4_100, 5_100, 6_100, 7_200, 8_300, 9_600)
_BANDWIDTHS_HZ = np.array((80, 90, 120, 150, 180, 220, 250, 280, 320, 360))

_NOISES = {
    "s": (5_000, 11_000, 0.09, 0.35),
    "sh": (2_400, 7_000, 0.10, 0.35),
    "t": (3_000, 9_000, 0.025, 0.5),
    "k": (1_400, 3_600, 0.03, 0.45),
    "p": (400, 1_800, 0.02, 0.4),
    "h": (700, 4_000, 0.07, 0.12),
}
"""Unvoiced consonants: band in Hz, duration in seconds, level relative to the voice."""
_VOICED = ("", "m", "n", "l")

_RHYTHMS = (
    *((0.5, 0.5, 1, 1, 1), (1, 0.5, 0.5, 2), (0.5, 0.5, 0.5, 0.5, 1, 1)),
    *((1.5, 0.5, 1, 1), (0.75, 0.75, 0.5, 2), (0.5, 1, 0.5, 1, 1)),
)
"""Beats of a bar's notes."""


@dataclasses.dataclass(frozen=True)
class Note:
    """A syllable; its pitch is a degree of the score's scale."""

    start_s: float
    duration_s: float
    degree: int
    vowel: str
    consonant: str
    begins_phrase: bool


@dataclasses.dataclass(frozen=True)
class Singer:
    """The settings of a voice."""

    centre_midi: float
    """Middle of the range."""
    tract_scale: float
    """Formants relative to a man's."""
    vibrato_hz: float
    vibrato_semitones: float
    tilt: float
    """Exponent by which glottal harmonics fall: 1 is bright."""
    breathiness: float
    """Level of the breath relative to the first harmonic."""


def sing(score: Score, rng: np.random.Generator) -> Signal:
    """Sing a melody over the chords, at times with a second voice a third above; return (2, n_samples)."""
    is_high = rng.random() < 0.5
    singer = Singer(
        centre_midi=rng.uniform(64, 69) if is_high else rng.uniform(53, 58),
        tract_scale=rng.uniform(1.12, 1.2) if is_high else rng.uniform(0.97, 1.04),
        vibrato_hz=rng.uniform(5.0, 6.4),
        vibrato_semitones=rng.uniform(0.25, 0.6),
        tilt=rng.uniform(0.9, 1.15),
        breathiness=rng.uniform(0.02, 0.06),
    )
    melody = _melody(score, singer, rng)
    voice = pan(take(score, singer, melody, rng), rng.uniform(-0.1, 0.1))
    if rng.random() < 0.35:
        third = [dataclasses.replace(note, degree=note.degree + 2) for note in melody]
        voice += 0.35 * pan(take(score, singer, third, rng), rng.choice((-0.6, 0.6)))
    return echo(voice, rng, decay_s=rng.uniform(0.5, 1.4), wet_db=rng.uniform(-16, -9))


def _melody(score: Score, singer: Singer, rng: np.random.Generator) -> list[Note]:
    """Walk along the scale in phrases of two bars, resting on the chords and leaving time to breathe."""
    degrees = [degree for degree in range(-7, 35) if abs(score.midi(degree) - singer.centre_midi) <= 8]
    degree = degrees[len(degrees) // 2]
    notes = []
    for bar in range(score.n_bars):
        rhythm = _RHYTHMS[rng.integers(len(_RHYTHMS))]
        beats = np.concatenate(([0.0], np.cumsum(rhythm)))
        for i, length in enumerate(rhythm):
            degree = int(np.clip(degree + rng.choice((-2, -1, -1, 0, 1, 1, 2)), degrees[0], degrees[-1]))
            if beats[i] % 2 == 0 or length >= 1.5:
                degree = min(degrees, key=lambda d: (min((d - c) % 7 for c in score.chord(bar)) > 0, abs(d - degree)))
            ends_phrase = bar % 2 == 1 and i == len(rhythm) - 1
            rest = min(0.9, 0.6 * length) if ends_phrase else rng.uniform(0.03, 0.15)
            notes.append(
                Note(
                    start_s=(bar * BEATS_PER_BAR + beats[i]) * score.beat_s + rng.normal(0.015, 0.01),
                    duration_s=(length - rest) * score.beat_s,
                    degree=degree,
                    vowel=str(rng.choice(list(_VOWELS_HZ))),
                    consonant=str(rng.choice((*_NOISES, *_VOICED))),
                    begins_phrase=bar % 2 == 0 and i == 0,
                )
            )
    return notes


class _Line:
    """A melody block by block, as arrays (n_blocks,)."""

    def __init__(self, notes: list[Note], score: Score) -> None:
        self.notes = notes
        self.block_s = _BLOCK_SAMPLES / SAMPLE_RATE
        self.times_s = np.arange(-(-score.n_samples // _BLOCK_SAMPLES)) * self.block_s
        starts_s = np.array([note.start_s for note in notes])
        self.current = np.clip(np.searchsorted(starts_s, self.times_s, side="right") - 1, 0, None)
        """Index of the last note that has begun."""
        self.since_s = self.times_s - starts_s[self.current]
        """Seconds since the note began, below 0 before the first one."""
        self.durations_s = self.of_notes([note.duration_s for note in notes])

    def of_notes(self, values: ArrayLike) -> NDArray:
        """Hold a value of each note over its blocks."""
        return np.asarray(values)[self.current]

    def smooth(self, values: Signal, sigma_s: float) -> Signal:
        """Blur along time."""
        return np.asarray(scipy.ndimage.gaussian_filter1d(values, sigma_s / self.block_s, axis=0))

    def wander(self, sigma_s: float, rng: np.random.Generator) -> Signal:
        """Slow noise of unit deviation."""
        noise = self.smooth(rng.standard_normal(len(self.times_s)), sigma_s)
        return np.asarray(noise / (noise.std() + 1e-9))


def take(score: Score, singer: Singer, notes: list[Note], rng: np.random.Generator) -> Signal:
    """Sing `notes` once; return (n_samples)."""
    line = _Line(notes, score)
    pitch_hz = hertz(_pitch(score, singer, line, rng))
    formants_hz = _formants(singer, line, pitch_hz)
    blocks = np.arange(score.n_samples) / _BLOCK_SAMPLES
    frequency_hz = np.interp(blocks, np.arange(len(pitch_hz)), pitch_hz)
    level = np.interp(blocks, np.arange(len(pitch_hz)), _loudness(line, rng))
    voice = _tract(_glottis(frequency_hz, level, singer, rng), formants_hz)
    voice += 2 * band(voice, 5_000, 16_000)  # more treble
    voice *= np.sqrt(np.mean(level > 0.1) / np.mean(voice**2))
    return np.asarray(2.5 * np.tanh(voice / 2.5)) + _consonants_and_breaths(score, notes, rng)


def _pitch(score: Score, singer: Singer, line: _Line, rng: np.random.Generator) -> Signal:
    """Return MIDI pitches (n_blocks,): glides, scoops into phrases, vibrato on long notes, and drift."""
    melody = line.of_notes([float(score.midi(note.degree)) for note in line.notes])
    swelling = np.clip((line.since_s - 0.18) / 0.25, 0, 1) * np.clip((line.durations_s - 0.2) / 0.25, 0, 1)
    rate_hz = singer.vibrato_hz + 0.3 * line.wander(0.3, rng)
    vibrato = singer.vibrato_semitones * swelling * np.sin(2 * np.pi * np.cumsum(rate_hz) * line.block_s)
    is_first = line.of_notes([note.begins_phrase for note in line.notes])
    scoop = -1.2 * is_first * np.exp(-np.maximum(line.since_s, 0) / 0.06)
    return np.asarray(line.smooth(melody, 0.018) + vibrato + scoop + 0.08 * line.wander(0.12, rng))


def _loudness(line: _Line, rng: np.random.Generator) -> Signal:
    """Return levels (n_blocks,) of 0 to about 1: notes swell, and unvoiced consonants interrupt them."""
    is_sung = (line.since_s >= 0) & (line.since_s < line.durations_s)
    swell = 0.85 + 0.15 * np.sin(np.pi * np.clip(line.since_s / line.durations_s, 0, 1))
    level = line.of_notes(rng.uniform(0.7, 1.0, len(line.notes))) * is_sung * swell
    for note in line.notes:
        if note.consonant in _NOISES:
            duration_s = _NOISES[note.consonant][2]
            level[(line.times_s > note.start_s - duration_s) & (line.times_s < note.start_s + 0.01)] = 0
    return line.smooth(level, 0.012)


def _formants(singer: Singer, line: _Line, pitch_hz: Signal) -> Signal:
    """Return resonances (n_blocks, n_formants) in Hz; the first one lies above the pitch."""
    vowels = line.of_notes([_VOWELS_HZ[note.vowel] for note in line.notes]).astype(float)
    is_nasal = line.of_notes([note.consonant in ("m", "n", "l") for note in line.notes]) & (line.since_s < 0.07)
    vowels[is_nasal] = _NASAL_HZ
    lower = line.smooth(vowels, 0.03) * singer.tract_scale
    lower[:, 0] = np.maximum(lower[:, 0], 1.05 * pitch_hz)
    lower[:, 1] = np.maximum(lower[:, 1], 1.3 * lower[:, 0])
    higher = np.tile(np.array(_HIGHER_FORMANTS_HZ) * singer.tract_scale, (len(lower), 1))
    return np.concatenate((lower, higher), axis=1)


def _glottis(frequency_hz: Signal, level: Signal, singer: Singer, rng: np.random.Generator) -> Signal:
    """Return the wave (n_samples,) at the vocal folds: brighter where it is louder, with breath."""
    highest_hz = float(frequency_hz.max())
    bright, cycles = wave(frequency_hz, harmonics(highest_hz, 0.4 * SAMPLE_RATE, singer.tilt))
    soft, _ = wave(frequency_hz, harmonics(highest_hz, 0.4 * SAMPLE_RATE, singer.tilt + 0.8))
    breath = rng.standard_normal(len(cycles)) * (0.6 + 0.4 * np.cos(2 * np.pi * cycles))
    return np.asarray(level * (level * bright + (1 - level) * soft) + singer.breathiness * level * breath)


def _tract(source: Signal, formants_hz: Signal) -> Signal:
    """Filter `source` with cascades of resonators (Klatt 1980, equation 1), one a block, cross-faded."""
    radius = np.exp(-np.pi * _BANDWIDTHS_HZ / SAMPLE_RATE)
    b = 2 * radius * np.cos(2 * np.pi * formants_hz / SAMPLE_RATE)
    c = np.broadcast_to(-(radius**2), b.shape)
    zero, one = np.zeros_like(b), np.ones_like(b)
    fade = np.hanning(2 * _BLOCK_SAMPLES + 1)[:-1]
    ringing = 2 * _BLOCK_SAMPLES
    padded = np.pad(source, (_BLOCK_SAMPLES, 2 * _BLOCK_SAMPLES))
    voice = np.zeros((1, len(padded) + ringing))
    for i, cascade in enumerate(np.stack([1 - b - c, zero, zero, one, -b, -c], axis=-1)):
        start = i * _BLOCK_SAMPLES
        chunk = np.pad(padded[start : start + len(fade)] * fade, (0, ringing))
        add(voice, start, scipy.signal.sosfilt(cascade, chunk))
    return voice[0, _BLOCK_SAMPLES : _BLOCK_SAMPLES + len(source)]


def _consonants_and_breaths(score: Score, notes: list[Note], rng: np.random.Generator) -> Signal:
    """Return the noises (n_samples,) between the vowels, for a voice of unit level."""
    track = np.zeros((1, score.n_samples))

    def hiss(low_hz: float, high_hz: float, duration_s: float, level: float, end_s: float, decay: float) -> None:
        n_samples = int(duration_s * SAMPLE_RATE)
        noise = band(rng.standard_normal(n_samples), low_hz, high_hz)
        shape = np.sin(np.pi * np.linspace(0, 1, n_samples) ** decay)
        add(track, int((end_s - duration_s) * SAMPLE_RATE), level * noise / noise.std() * shape)

    for note in notes:
        if note.consonant in _NOISES:
            low_hz, high_hz, duration_s, level = _NOISES[note.consonant]
            hiss(low_hz, high_hz, duration_s, level, note.start_s + 0.005, 0.4 if duration_s < 0.05 else 1)
        if note.begins_phrase:
            hiss(600, 6_000, 0.3, 0.05, note.start_s - 0.08, 1.5)
    return track[0]
