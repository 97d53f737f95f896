"""Drums, bass and chords.

Drums are swept sines and shaped noise, every stroke a little different; the bass is a filtered sawtooth; the chords
are plucked strings (Karplus and Strong 1983, the delay line solved as one division of spectra), detuned pads, or both.
"""

import itertools

import numpy as np
import scipy.fft

from vocal_extraction.demo_songs.score import BEATS_PER_BAR, Score
from vocal_extraction.demo_songs.sound import Signal, add, band, harmonics, hertz, pan, room, wave

_STEPS_PER_BEAT = 4
_GROOVES = (
    {"kick": "X.......x.X.....", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.xo"},
    {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "..o...o...o...o."},
    {"kick": "X.........x.....", "snare": "........X.......", "hat": "X...x...X...x..."},
    {"kick": "X..x..X...x.....", "snare": "....X..x.x..X..x", "hat": "XxxxXxxxXxxxXxxx"},
    {"kick": "X.....x.X.......", "snare": "....X.......X..x", "hat": "X.x.X.xoX.x.X.x."},
)
"""Sixteen steps of a bar: X loud, x soft, o open."""
_STRENGTHS = {"X": 1.0, "x": 0.5, "o": 0.7}

_BASS_LINES = ("X.X.X.X.X.X.X.X.", "X.....X.X.....5.", "X...8...X...8...", "X.........X.....", "X..X..X.5.5.8...")
"""Sixteen steps of a bar: X root, 5 fifth, 8 octave."""

_STRUMS = ("D...D.UU.UD.D.U.", "D...D...D...D.U.", "D.DUD.DUD.DUD.DU", "D.......D...U.U.")
"""Sixteen steps of a bar: D from the lowest string, U from the highest."""


# ------------------------------------------------------------------------------------------------------- drums


def play_drums(score: Score, rng: np.random.Generator) -> Signal:
    """Play one groove with a crash at the start and a fill in every fourth bar; return (2, n_samples)."""
    groove = _GROOVES[rng.integers(len(_GROOVES))]
    strokes = {"kick": _kick, "snare": _snare, "hat": _hat}
    places = {"kick": 0.0, "snare": rng.uniform(-0.15, 0.15), "hat": rng.choice((-0.4, 0.4))}
    drums = np.zeros((2, score.n_samples))
    for bar in range(score.n_bars):
        for drum, pattern in groove.items():
            if drum == "snare" and bar % 4 == 3:
                pattern = pattern[:12] + "xXxX"
            for step, sign in enumerate(pattern):
                if sign != ".":
                    strength = _STRENGTHS[sign] * rng.uniform(0.85, 1.1)
                    start = _step(score, bar, step) + round(rng.normal(0, 0.003) * score.sample_rate)
                    sound = strokes[drum](score.sample_rate, rng, sign == "o")
                    add(drums, start, pan(strength * sound, places[drum]))
        if bar % 4 == 0:
            add(drums, _step(score, bar, 0), pan(_crash(score.sample_rate, rng), -places["hat"]))
    drums = room(drums, rng, decay_s=rng.uniform(0.25, 0.6), wet_db=-12, sample_rate=score.sample_rate)
    return np.tanh(0.8 * drums)


def _step(score: Score, bar: int, step: int) -> int:
    return score.sample(bar * BEATS_PER_BAR + step / _STEPS_PER_BEAT)


def _dying(sample_rate: int, duration_s: float, half_life_s: float) -> tuple[Signal, Signal]:
    """Return the time in seconds and an envelope that halves every `half_life_s`, with a soft end."""
    time_s = np.arange(int(duration_s * sample_rate)) / sample_rate
    return time_s, 0.5 ** (time_s / half_life_s) * np.minimum(1, (duration_s - time_s) / 0.02)


def _kick(sample_rate: int, rng: np.random.Generator, _is_open: bool) -> Signal:
    time_s, envelope = _dying(sample_rate, 0.35, 0.06)
    frequency_hz = 48 + 110 * np.exp(-time_s / 0.022)
    click = band(rng.standard_normal(len(time_s)), 1_500, 6_000, sample_rate) * np.exp(-time_s / 0.003)
    return np.asarray(1.4 * np.sin(2 * np.pi * np.cumsum(frequency_hz) / sample_rate) * envelope + 0.5 * click)


def _snare(sample_rate: int, rng: np.random.Generator, _is_open: bool) -> Signal:
    time_s, envelope = _dying(sample_rate, 0.3, 0.045)
    wires = band(rng.standard_normal(len(time_s)), 500, 6_000, sample_rate) * envelope
    shell = np.sin(2 * np.pi * 188 * time_s) + 0.6 * np.sin(2 * np.pi * 332 * time_s)
    return np.asarray(0.9 * wires + 0.5 * shell * np.exp(-time_s / 0.05))


def _hat(sample_rate: int, rng: np.random.Generator, is_open: bool) -> Signal:
    time_s, envelope = _dying(sample_rate, 0.4 if is_open else 0.12, 0.09 if is_open else 0.014)
    return np.asarray(0.25 * band(rng.standard_normal(len(time_s)), 6_500, 16_000, sample_rate) * envelope)


def _crash(sample_rate: int, rng: np.random.Generator) -> Signal:
    time_s, envelope = _dying(sample_rate, 1.8, 0.28)
    return np.asarray(0.2 * band(rng.standard_normal(len(time_s)), 2_500, 15_000, sample_rate) * envelope)


# -------------------------------------------------------------------------------------------------------- bass


def play_bass(score: Score, rng: np.random.Generator) -> Signal:
    """Play one line on the chords' roots, fifths and octaves; return (2, n_samples)."""
    line = _BASS_LINES[rng.integers(len(_BASS_LINES))]
    steps = [step for step, sign in enumerate(line) if sign != "."] + [len(line)]
    frequency_hz, gate, pluck = np.full(score.n_samples, 40.0), np.zeros(score.n_samples), np.zeros(score.n_samples)
    for bar in range(score.n_bars):
        root = score.midi(score.chord(bar)[0])
        root -= 12 * (root > 43)
        for step, following in itertools.pairwise(steps):
            note = slice(_step(score, bar, step), min(_step(score, bar, following), score.n_samples))
            time_s = np.arange(max(note.stop - note.start, 0)) / score.sample_rate
            frequency_hz[note] = hertz(root + {"X": 0, "5": 7, "8": 12}[line[step]])
            fade = np.minimum(1, time_s[::-1] / 0.015) * np.minimum(1, time_s / 0.004)
            gate[note] = fade * (0.3 + 0.7 * np.exp(-time_s / 0.4))
            pluck[note] = fade * np.exp(-time_s / rng.uniform(0.08, 0.14))
    saw, _ = wave(frequency_hz, harmonics(float(frequency_hz.max()), 6_000, 1.0), score.sample_rate)
    dark = band(saw, 0, rng.uniform(220, 420), score.sample_rate)
    bright = band(saw, 0, rng.uniform(1_200, 2_600), score.sample_rate)
    return pan(np.tanh(0.5 * (gate * dark + 0.25 * pluck * bright)), 0.0)


# ------------------------------------------------------------------------------------------------------ chords


def play_chords(score: Score, rng: np.random.Generator) -> Signal:
    """Play the chords as a strummed guitar, a plucked arpeggio or a pad, or as two of them; return (2, n_samples)."""
    players = (_strum, _arpeggio, _pad)
    chosen = rng.choice(len(players), size=rng.integers(1, 3), replace=False)
    parts = [players[i](score, rng) for i in chosen]
    return np.asarray(sum(part / np.sqrt(np.mean(part**2) + 1e-12) for part in parts))


def _voicing(score: Score, bar: int) -> list[int]:
    """MIDI notes of a six-string voicing between 40 and 76."""
    root, third, fifth = (score.midi(degree) % 12 for degree in score.chord(bar))
    low = 40 + (root - 40) % 12
    notes = [low]
    for pitch_class in (fifth, root, third, fifth, root):
        notes.append(notes[-1] + 1 + (pitch_class - notes[-1] - 1) % 12)
    return [note for note in notes if note <= 76]


class Strings:
    """Plucked strings of one brightness; a pitch is worked out once."""

    def __init__(self, sample_rate: int, rng: np.random.Generator, *, brightness_hz: float) -> None:
        self._sample_rate = sample_rate
        self._rng = rng
        self._brightness_hz = brightness_hz
        self._plucked: dict[int, Signal] = {}

    def pluck(self, midi: int) -> Signal:
        """Return 0.7 s of the string of this pitch, (n_samples)."""
        if midi not in self._plucked:
            self._plucked[midi] = self._vibrate(float(hertz(midi)), int(0.7 * self._sample_rate))
        return self._plucked[midi]

    def _vibrate(self, frequency_hz: float, n_samples: int) -> Signal:
        """Solve ``y[t] = x[t] + g (y[t - d] + y[t - d - 1]) / 2``, a burst x going round a string of d samples.

        In the spectrum that is one division, and d may be a fraction.
        """
        period = self._sample_rate / frequency_hz
        burst = np.zeros(n_samples)
        burst[: int(period)] = self._rng.uniform(-1, 1, int(period))
        # What rings on beyond the transform comes round to its start, 40 dB down.
        n_fft = 1 << (n_samples - 1).bit_length()
        spectrum = scipy.fft.rfft(band(burst, 0, self._brightness_hz, self._sample_rate), n_fft)
        angle = 2 * np.pi / n_fft * np.arange(len(spectrum))
        gain = 10 ** (-3 / (1.1 * frequency_hz))
        loop = gain * np.cos(angle / 2) * np.exp(-1j * period * angle)
        sound = scipy.fft.irfft(spectrum / (1 - loop), n_fft)[:n_samples]
        return np.asarray(sound * np.minimum(1, np.arange(n_samples)[::-1] / (0.05 * self._sample_rate)))


def _strum(score: Score, rng: np.random.Generator) -> Signal:
    """Two guitars, one on each side, strum the same pattern, never quite together."""
    pattern = _STRUMS[rng.integers(len(_STRUMS))]
    strings = Strings(score.sample_rate, rng, brightness_hz=rng.uniform(1_200, 3_500))
    guitars = np.zeros((2, score.n_samples))
    for side in range(2):
        for bar in range(score.n_bars):
            notes = _voicing(score, bar)
            for step, sign in enumerate(pattern):
                start = _step(score, bar, step) + round(rng.normal(0.008, 0.006) * score.sample_rate)
                for i, midi in enumerate({"D": notes, "U": notes[:2:-1]}.get(sign, ())):
                    strength = rng.uniform(0.5, 1.0) * (0.7 if sign == "U" else 1.0)
                    start_sample = start + round(0.011 * i * score.sample_rate)
                    add(guitars[side : side + 1], start_sample, strength * strings.pluck(midi))
    guitars = band(guitars, 90, 9_000, score.sample_rate)
    return pan(guitars[0], -0.7) + pan(guitars[1], 0.7)


def _arpeggio(score: Score, rng: np.random.Generator) -> Signal:
    """One plucked note after the other, in sixteenths or eighths, wandering between the sides."""
    step_length = int(rng.choice((1, 2)))
    order = rng.permutation(8)
    strings = Strings(score.sample_rate, rng, brightness_hz=rng.uniform(1_500, 4_500))
    track = np.zeros((2, score.n_samples))
    for bar in range(score.n_bars):
        notes = [note + 12 for note in _voicing(score, bar)[1:]]
        for i, step in enumerate(range(0, BEATS_PER_BAR * _STEPS_PER_BEAT, step_length)):
            sound = rng.uniform(0.6, 1.0) * strings.pluck(notes[order[i % 8] % len(notes)])
            add(track, _step(score, bar, step), pan(sound, 0.6 * np.sin(1.3 * i)))
    return room(track, rng, decay_s=1.2, wet_db=-10, sample_rate=score.sample_rate)


def _pad(score: Score, rng: np.random.Generator) -> Signal:
    """Sawtooth voices hold each chord, detuned against each other on the two sides."""
    cutoff_hz = rng.uniform(900, 2_800)
    frequencies_hz = np.full((3, score.n_samples), 220.0)
    swell = np.zeros(score.n_samples)
    for bar in range(score.n_bars):
        span = slice(_step(score, bar, 0), min(_step(score, bar + 1, 0), score.n_samples))
        time_s = np.arange(max(span.stop - span.start, 0)) / score.sample_rate
        frequencies_hz[:, span] = [[hertz(score.midi(degree) % 12 + 60)] for degree in score.chord(bar)]
        swell[span] = np.minimum(1, time_s / 0.12) * np.minimum(1, time_s[::-1] / 0.06)
    pad = np.zeros((2, score.n_samples))
    for frequency_hz in frequencies_hz:
        for side in range(2):
            detuned_hz = frequency_hz * 2 ** (rng.uniform(-8, 8) / 1_200)
            pad[side] += wave(detuned_hz, harmonics(600, 9_000, 1.0), score.sample_rate, rng.random())[0]
    return band(pad * swell, 0, cutoff_hz, score.sample_rate)
