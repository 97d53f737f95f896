"""Drums from sines and noise, a sawtooth bass, and chords of plucked strings (Karplus and Strong 1983) or pads."""

import itertools

import numpy as np
import scipy.fft

from vocal_extraction.demo_songs.sound import Score, Signal, add, band, echo, harmonics, hertz, pan, wave
from vocal_extraction.musdb_preparation import SAMPLE_RATE

_GROOVES = (
    {"kick": "X.......x.X.....", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.xo"},
    {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "..o...o...o...o."},
    {"kick": "X.........x.....", "snare": "........X.......", "hat": "X...x...X...x..."},
    {"kick": "X..x..X...x.....", "snare": "....X..x.x..X..x", "hat": "XxxxXxxxXxxxXxxx"},
    {"kick": "X.....x.X.......", "snare": "....X.......X..x", "hat": "X.x.X.xoX.x.X.x."},
)
"""Sixteen steps of a bar: X loud, x soft, o open."""
_STRENGTHS = {"X": 1.0, "x": 0.5, "o": 0.7}
_CYMBALS = {
    "hat": (0.12, 0.014, 6_500, 16_000, 0.25),
    "open hat": (0.4, 0.09, 6_500, 16_000, 0.25),
    "crash": (1.8, 0.28, 2_500, 15_000, 0.2),
}
"""Duration and half-life in seconds, band in Hz, level."""

_BASS_LINES = ("X.X.X.X.X.X.X.X.", "X.....X.X.....5.", "X...8...X...8...", "X.........X.....", "X..X..X.5.5.8...")
"""Sixteen steps of a bar: X root, 5 fifth, 8 octave."""

_STRUMS = ("D...D.UU.UD.D.U.", "D...D...D...D.U.", "D.DUD.DUD.DUD.DU", "D.......D...U.U.")
"""Sixteen steps of a bar: D from the lowest string, U from the highest."""


def play_drums(score: Score, rng: np.random.Generator) -> Signal:
    """Play one groove with a crash at the start and a fill in every fourth bar; return (2, n_samples)."""
    groove = _GROOVES[rng.integers(len(_GROOVES))]
    strokes = {"kick": _kick, "snare": _snare, "hat": _cymbal}
    places = {"kick": 0.0, "snare": rng.uniform(-0.15, 0.15), "hat": rng.choice((-0.4, 0.4))}
    drums = np.zeros((2, score.n_samples))
    for bar in range(score.n_bars):
        for drum, pattern in groove.items():
            if drum == "snare" and bar % 4 == 3:
                pattern = pattern[:12] + "xXxX"
            for step, sign in enumerate(pattern):
                if sign != ".":
                    strength = _STRENGTHS[sign] * rng.uniform(0.85, 1.1)
                    start = score.sample(bar, step) + round(rng.normal(0, 0.003) * SAMPLE_RATE)
                    sound = strokes[drum](rng, "open hat" if sign == "o" else drum)
                    add(drums, start, pan(strength * sound, places[drum]))
        if bar % 4 == 0:
            add(drums, score.sample(bar), pan(_cymbal(rng, "crash"), -places["hat"]))
    drums = echo(drums, rng, decay_s=rng.uniform(0.25, 0.6), wet_db=-12)
    return np.tanh(0.8 * drums)


def _dying(duration_s: float, half_life_s: float) -> tuple[Signal, Signal]:
    """Return the time in seconds and an envelope that halves every `half_life_s`, with a soft end."""
    time_s = np.arange(int(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    return time_s, 0.5 ** (time_s / half_life_s) * np.minimum(1, (duration_s - time_s) / 0.02)


def _kick(rng: np.random.Generator, _kind: str) -> Signal:
    time_s, envelope = _dying(0.35, 0.06)
    frequency_hz = 48 + 110 * np.exp(-time_s / 0.022)
    click = band(rng.standard_normal(len(time_s)), 1_500, 6_000) * np.exp(-time_s / 0.003)
    return np.asarray(1.4 * np.sin(2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE) * envelope + 0.5 * click)


def _snare(rng: np.random.Generator, _kind: str) -> Signal:
    time_s, envelope = _dying(0.3, 0.045)
    wires = band(rng.standard_normal(len(time_s)), 500, 6_000) * envelope
    shell = np.sin(2 * np.pi * 188 * time_s) + 0.6 * np.sin(2 * np.pi * 332 * time_s)
    return np.asarray(0.9 * wires + 0.5 * shell * np.exp(-time_s / 0.05))


def _cymbal(rng: np.random.Generator, kind: str) -> Signal:
    duration_s, half_life_s, low_hz, high_hz, level = _CYMBALS[kind]
    time_s, envelope = _dying(duration_s, half_life_s)
    return np.asarray(level * band(rng.standard_normal(len(time_s)), low_hz, high_hz) * envelope)


def play_bass(score: Score, rng: np.random.Generator) -> Signal:
    """Play one line on the chords' roots, fifths and octaves; return (2, n_samples)."""
    line = _BASS_LINES[rng.integers(len(_BASS_LINES))]
    steps = [step for step, sign in enumerate(line) if sign != "."] + [len(line)]
    frequency_hz, gate, pluck = np.full(score.n_samples, 40.0), np.zeros(score.n_samples), np.zeros(score.n_samples)
    for bar in range(score.n_bars):
        root = score.midi(score.chord(bar)[0])
        root -= 12 * (root > 43)
        for step, following in itertools.pairwise(steps):
            note = slice(score.sample(bar, step), min(score.sample(bar, following), score.n_samples))
            time_s = np.arange(max(note.stop - note.start, 0)) / SAMPLE_RATE
            frequency_hz[note] = hertz(root + {"X": 0, "5": 7, "8": 12}[line[step]])
            fade = np.minimum(1, time_s[::-1] / 0.015) * np.minimum(1, time_s / 0.004)
            gate[note] = fade * (0.3 + 0.7 * np.exp(-time_s / 0.4))
            pluck[note] = fade * np.exp(-time_s / rng.uniform(0.08, 0.14))
    saw, _ = wave(frequency_hz, harmonics(float(frequency_hz.max()), 6_000, 1.0))
    dark = band(saw, 0, rng.uniform(220, 420))
    bright = band(saw, 0, rng.uniform(1_200, 2_600))
    return pan(np.tanh(0.5 * (gate * dark + 0.25 * pluck * bright)), 0.0)


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
    """Plucked strings of one brightness; each pitch is computed once."""

    def __init__(self, rng: np.random.Generator, *, brightness_hz: float) -> None:
        self._rng, self._brightness_hz = rng, brightness_hz
        self._plucked: dict[int, Signal] = {}

    def pluck(self, midi: int) -> Signal:
        """Return 0.7 s of the string of this pitch, (n_samples,).

        Solves ``y[t] = x[t] + g (y[t - d] + y[t - d - 1]) / 2`` for a burst x, in the spectrum, since d is no integer.
        """
        if midi in self._plucked:
            return self._plucked[midi]
        frequency_hz, n_samples = float(hertz(midi)), int(0.7 * SAMPLE_RATE)
        period = SAMPLE_RATE / frequency_hz
        burst = np.zeros(n_samples)
        burst[: int(period)] = self._rng.uniform(-1, 1, int(period))
        n_fft = 1 << (n_samples - 1).bit_length()  # what rings on longer wraps around, 40 dB down
        spectrum = scipy.fft.rfft(band(burst, 0, self._brightness_hz), n_fft)
        angle = 2 * np.pi / n_fft * np.arange(len(spectrum))
        loop = 10 ** (-3 / (1.1 * frequency_hz)) * np.cos(angle / 2) * np.exp(-1j * period * angle)
        sound = scipy.fft.irfft(spectrum / (1 - loop), n_fft)[:n_samples]
        self._plucked[midi] = sound * np.minimum(1, np.arange(n_samples)[::-1] / (0.05 * SAMPLE_RATE))
        return self._plucked[midi]


def _strum(score: Score, rng: np.random.Generator) -> Signal:
    """Two guitars, one on each side, strum the same pattern."""
    pattern = _STRUMS[rng.integers(len(_STRUMS))]
    strings = Strings(rng, brightness_hz=rng.uniform(1_200, 3_500))
    guitars = np.zeros((2, score.n_samples))
    for side in range(2):
        for bar in range(score.n_bars):
            notes = _voicing(score, bar)
            for step, sign in enumerate(pattern):
                start = score.sample(bar, step) + round(rng.normal(0.008, 0.006) * SAMPLE_RATE)
                for i, midi in enumerate({"D": notes, "U": notes[:2:-1]}.get(sign, ())):
                    strength = rng.uniform(0.5, 1.0) * (0.7 if sign == "U" else 1.0)
                    start_sample = start + round(0.011 * i * SAMPLE_RATE)
                    add(guitars[side : side + 1], start_sample, strength * strings.pluck(midi))
    guitars = band(guitars, 90, 9_000)
    return pan(guitars[0], -0.7) + pan(guitars[1], 0.7)


def _arpeggio(score: Score, rng: np.random.Generator) -> Signal:
    """Pluck single notes in sixteenths or eighths, panned from side to side."""
    step_length = int(rng.choice((1, 2)))
    order = rng.permutation(8)
    strings = Strings(rng, brightness_hz=rng.uniform(1_500, 4_500))
    track = np.zeros((2, score.n_samples))
    for bar in range(score.n_bars):
        notes = [note + 12 for note in _voicing(score, bar)[1:]]
        for i, step in enumerate(range(0, 16, step_length)):
            sound = rng.uniform(0.6, 1.0) * strings.pluck(notes[order[i % 8] % len(notes)])
            add(track, score.sample(bar, step), pan(sound, 0.6 * np.sin(1.3 * i)))
    return echo(track, rng, decay_s=1.2, wet_db=-10)


def _pad(score: Score, rng: np.random.Generator) -> Signal:
    """Hold each chord with sawtooth voices, detuned between the two sides."""
    cutoff_hz = rng.uniform(900, 2_800)
    frequencies_hz = np.full((3, score.n_samples), 220.0)
    swell = np.zeros(score.n_samples)
    for bar in range(score.n_bars):
        span = slice(score.sample(bar), min(score.sample(bar + 1), score.n_samples))
        time_s = np.arange(max(span.stop - span.start, 0)) / SAMPLE_RATE
        frequencies_hz[:, span] = [[hertz(score.midi(degree) % 12 + 60)] for degree in score.chord(bar)]
        swell[span] = np.minimum(1, time_s / 0.12) * np.minimum(1, time_s[::-1] / 0.06)
    pad = np.zeros((2, score.n_samples))
    for frequency_hz in frequencies_hz:
        for side in range(2):
            detuned_hz = frequency_hz * 2 ** (rng.uniform(-8, 8) / 1_200)
            pad[side] += wave(detuned_hz, harmonics(600, 9_000, 1.0), rng.random())[0]
    return band(pad * swell, 0, cutoff_hz)
