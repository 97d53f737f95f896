"""A band and a singer: drums of sines and noise, a sawtooth bass, plucked strings, and vowels."""

import functools
import itertools

import numpy as np
import scipy.fft
import scipy.signal

from vocal_extraction.demo_songs.sound import Score, Signal, add, band, echo, hertz, pan, wave
from vocal_extraction.musdb_preparation import SAMPLE_RATE

_GROOVES = (  # sixteen steps of a bar: X loud, x soft
    {"kick": "X.......x.X.....", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.x."},
    {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "..X...X...X...X."},
    {"kick": "X.........x.....", "snare": "........X.......", "hat": "X...x...X...x..."},
    {"kick": "X..x..X...x.....", "snare": "....X..x.x..X..x", "hat": "XxxxXxxxXxxxXxxx"},
)
_NOISES = {  # duration and half-life in seconds, band in Hz, level
    "snare": (0.3, 0.045, 500, 6_000, 0.9),
    "hat": (0.12, 0.014, 6_500, 16_000, 0.25),
    "crash": (1.8, 0.28, 2_500, 15_000, 0.2),
}
# Sixteen steps of a bar: X root, 5 fifth, 8 octave; D from the lowest string, U from the highest.
_BASS_LINES = ("X.X.X.X.X.X.X.X.", "X.....X.X.....5.", "X...8...X...8...", "X.........X.....", "X..X..X.5.5.8...")
_STRUMS = ("D...D.UU.UD.D.U.", "D...D...D...D.U.", "D.DUD.DUD.DUD.DU", "D.......D...U.U.")

_VOWELS_HZ = {  # first three formants of a man's vowels (Peterson and Barney 1952)
    "a": (730, 1_090, 2_440),
    "e": (530, 1_840, 2_480),
    "i": (270, 2_290, 3_010),
    "o": (570, 840, 2_410),
    "u": (300, 870, 2_240),
}
_HIGHER_FORMANTS_HZ = (3_300, 4_100, 5_100, 6_100, 7_200, 8_300, 9_600)
_BANDWIDTHS_HZ = np.array((80, 90, 120, 150, 180, 220, 250, 280, 320, 360))
_CONSONANTS = {"s": (5_000, 11_000, 0.09), "sh": (2_400, 7_000, 0.10), "t": (3_000, 9_000, 0.025), "": (0, 0, 0.0)}
"""Band in Hz and duration in seconds of the hiss before a vowel."""
_RHYTHMS = ((0.5, 0.5, 1, 1, 1), (1, 0.5, 0.5, 2), (0.5, 0.5, 0.5, 0.5, 1, 1), (1.5, 0.5, 1, 1), (0.75, 0.75, 0.5, 2))
"""Beats of a bar's notes."""


def _dying(duration_s: float, half_life_s: float) -> tuple[Signal, Signal]:
    """Return the time in seconds and an envelope that halves every `half_life_s`, with a soft end."""
    time_s = np.arange(int(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    return time_s, 0.5 ** (time_s / half_life_s) * np.minimum(1, (duration_s - time_s) / 0.02)


def _stroke(drum: str, rng: np.random.Generator) -> Signal:
    if drum == "kick":
        time_s, envelope = _dying(0.35, 0.06)
        return np.asarray(1.4 * np.sin(2 * np.pi * (48 * time_s - 2.4 * np.exp(-time_s / 0.022))) * envelope)
    duration_s, half_life_s, low_hz, high_hz, level = _NOISES[drum]
    time_s, envelope = _dying(duration_s, half_life_s)
    shell = 0.5 * np.sin(2 * np.pi * 188 * time_s) * np.exp(-time_s / 0.05) if drum == "snare" else 0.0
    return np.asarray(level * band(rng.standard_normal(len(time_s)), low_hz, high_hz) * envelope + shell)


def play_drums(score: Score, rng: np.random.Generator) -> Signal:
    """Play one groove with a crash and a fill in every fourth bar; return (2, n_samples)."""
    groove = _GROOVES[rng.integers(len(_GROOVES))]
    places = {"kick": 0.0, "snare": rng.uniform(-0.15, 0.15), "hat": rng.choice((-0.4, 0.4))}
    drums = np.zeros((2, score.n_samples))
    for bar in range(score.n_bars):
        for drum, pattern in groove.items():
            if drum == "snare" and bar % 4 == 3:
                pattern = pattern[:12] + "xXxX"
            for step, sign in enumerate(pattern):
                if sign != ".":
                    strength = (1.0 if sign == "X" else 0.5) * rng.uniform(0.85, 1.1)
                    add(drums, score.sample(bar, step), pan(strength * _stroke(drum, rng), places[drum]))
        if bar % 4 == 0:
            add(drums, score.sample(bar), pan(_stroke("crash", rng), -places["hat"]))
    return np.tanh(0.8 * echo(drums, rng, decay_s=rng.uniform(0.25, 0.6), wet_db=-12))


def play_bass(score: Score, rng: np.random.Generator) -> Signal:
    """Play one line on the chords' roots, fifths and octaves; return (2, n_samples)."""
    line = _BASS_LINES[rng.integers(len(_BASS_LINES))]
    steps = [step for step, sign in enumerate(line) if sign != "."] + [len(line)]
    frequency_hz, gate = np.full(score.n_samples, 40.0), np.zeros(score.n_samples)
    for bar in range(score.n_bars):
        root = score.midi(score.chord(bar)[0])
        for step, following in itertools.pairwise(steps):
            note = slice(score.sample(bar, step), score.sample(bar, following))
            time_s = np.arange(len(gate[note])) / SAMPLE_RATE
            frequency_hz[note] = hertz(root - 12 * (root > 43) + {"X": 0, "5": 7, "8": 12}[line[step]])
            fade = np.minimum(1, time_s[::-1] / 0.015) * np.minimum(1, time_s / 0.004)
            gate[note] = fade * (0.3 + 0.7 * np.exp(-time_s / 0.4))
    return pan(np.tanh(0.5 * gate * band(wave(frequency_hz, top_hz=6_000), 0, rng.uniform(220, 600))), 0.0)


def _voicing(score: Score, bar: int) -> list[int]:
    """MIDI notes of a six-string voicing between 40 and 76."""
    root, third, fifth = (score.midi(degree) % 12 for degree in score.chord(bar))
    notes = [40 + (root - 40) % 12]
    for pitch_class in (fifth, root, third, fifth, root):
        notes.append(notes[-1] + 1 + (pitch_class - notes[-1] - 1) % 12)
    return [note for note in notes if note <= 76]


def pluck(midi: int, rng: np.random.Generator, *, brightness_hz: float) -> Signal:
    """Return 0.7 s of a plucked string (Karplus and Strong 1983): ``y[t] = x[t] + g (y[t - d] + y[t - d - 1]) / 2``."""
    frequency_hz, n_samples = float(hertz(midi)), int(0.7 * SAMPLE_RATE)
    period = SAMPLE_RATE / frequency_hz
    burst = np.zeros(n_samples)
    burst[: int(period)] = rng.uniform(-1, 1, int(period))
    n_fft = 1 << (n_samples - 1).bit_length()  # what rings on longer wraps around, 40 dB down
    spectrum = scipy.fft.rfft(band(burst, 0, brightness_hz), n_fft)
    angle = 2 * np.pi / n_fft * np.arange(len(spectrum))
    loop = 10 ** (-3 / (1.1 * frequency_hz)) * np.cos(angle / 2) * np.exp(-1j * period * angle)
    sound = scipy.fft.irfft(spectrum / (1 - loop), n_fft)[:n_samples]
    return np.asarray(sound * np.minimum(1, np.arange(n_samples)[::-1] / (0.05 * SAMPLE_RATE)))


def play_chords(score: Score, rng: np.random.Generator) -> Signal:
    """Strum the chords on two guitars, one on each side, at times over a pad; return (2, n_samples)."""
    pattern = _STRUMS[rng.integers(len(_STRUMS))]
    string = functools.cache(functools.partial(pluck, rng=rng, brightness_hz=rng.uniform(1_200, 3_500)))
    guitars = np.zeros((2, score.n_samples))
    for side, bar in itertools.product(range(2), range(score.n_bars)):
        notes = _voicing(score, bar)
        for step, sign in enumerate(pattern):
            start = score.sample(bar, step) + round(rng.normal(0.008, 0.006) * SAMPLE_RATE)
            for i, midi in enumerate({"D": notes, "U": notes[:2:-1]}.get(sign, ())):
                sound = rng.uniform(0.5, 1.0) * string(midi)
                add(guitars[side : side + 1], start + round(0.011 * i * SAMPLE_RATE), sound)
    guitars = band(guitars, 90, 9_000)
    strummed = pan(guitars[0], -0.7) + pan(guitars[1], 0.7)
    return strummed + (_pad(score, rng) if rng.random() < 0.5 else 0.0)


def _pad(score: Score, rng: np.random.Generator) -> Signal:
    """Hold each chord with sawtooth voices, detuned between the two sides."""
    frequencies_hz, swell = np.full((3, score.n_samples), 220.0), np.zeros(score.n_samples)
    for bar in range(score.n_bars):
        span = slice(score.sample(bar), score.sample(bar + 1))
        time_s = np.arange(len(swell[span])) / SAMPLE_RATE
        frequencies_hz[:, span] = [[hertz(score.midi(degree) % 12 + 60)] for degree in score.chord(bar)]
        swell[span] = np.minimum(1, time_s / 0.12) * np.minimum(1, time_s[::-1] / 0.06)
    voices = [
        sum(wave(one * 2 ** (rng.uniform(-8, 8) / 1_200), top_hz=9_000) for one in frequencies_hz) for _ in range(2)
    ]
    return 0.3 * band(np.stack(voices) * swell, 0, rng.uniform(900, 2_800))


def sing(score: Score, rng: np.random.Generator) -> Signal:
    """Sing a melody over the chords in phrases of two bars, with time to breathe between; return (2, n_samples)."""
    is_high = rng.random() < 0.5
    centre, tract_scale = (rng.uniform(64, 69), 1.16) if is_high else (rng.uniform(53, 58), 1.0)
    vibrato_hz, vibrato = rng.uniform(5.0, 6.4), rng.uniform(0.25, 0.6)
    degrees = [degree for degree in range(-7, 35) if abs(score.midi(degree) - centre) <= 8]
    degree, track = degrees[len(degrees) // 2], np.zeros((1, score.n_samples))
    for bar in range(score.n_bars):
        rhythm = _RHYTHMS[rng.integers(len(_RHYTHMS))]
        for i, beats in enumerate(rhythm):
            degree = int(np.clip(degree + rng.choice((-2, -1, -1, 0, 1, 1, 2)), degrees[0], degrees[-1]))
            if beats >= 1:  # long notes are of the chord
                degree = min(degrees, key=lambda d: (min((d - c) % 7 for c in score.chord(bar)) > 0, abs(d - degree)))
            ends_phrase = bar % 2 == 1 and i == len(rhythm) - 1
            rest = min(0.9, 0.6 * beats) if ends_phrase else rng.uniform(0.03, 0.15)
            start = score.sample(bar, 4 * sum(rhythm[:i]))  # in sixteenths
            contour = pitch(score.midi(degree), (beats - rest) * score.beat_s, vibrato_hz=vibrato_hz, vibrato=vibrato)
            add(track, start, vowel(str(rng.choice([*_VOWELS_HZ])), contour, rng, tract_scale=tract_scale))
            hissed = hiss(str(rng.choice([*_CONSONANTS])), rng)
            add(track, start - len(hissed), hissed)
    voice = pan(track[0], rng.uniform(-0.1, 0.1))
    return echo(voice, rng, decay_s=rng.uniform(0.5, 1.4), wet_db=rng.uniform(-16, -9))


def pitch(midi: float, duration_s: float, *, vibrato_hz: float, vibrato: float) -> Signal:
    """Return a note's frequencies (n_samples,): a scoop from below, then a vibrato of so many semitones that swells."""
    time_s = np.arange(int(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    swell = np.clip((time_s - 0.18) / 0.25, 0, 1)
    return hertz(midi - np.exp(-time_s / 0.03) + vibrato * swell * np.sin(2 * np.pi * vibrato_hz * time_s))


def vowel(name: str, frequency_hz: Signal, rng: np.random.Generator, *, tract_scale: float = 1.0) -> Signal:
    """Sing a vowel along a pitch contour: a glottal wave with breath through resonators (Fant 1960, Klatt 1980)."""
    formants_hz = tract_scale * np.array((*_VOWELS_HZ[name], *_HIGHER_FORMANTS_HZ))
    formants_hz[0] = max(formants_hz[0], 1.05 * frequency_hz.max())
    radius = np.exp(-np.pi * _BANDWIDTHS_HZ / SAMPLE_RATE)
    b, c = 2 * radius * np.cos(2 * np.pi * formants_hz / SAMPLE_RATE), -(radius**2)
    zero, one = np.zeros_like(b), np.ones_like(b)
    source = wave(frequency_hz, top_hz=0.4 * SAMPLE_RATE) + 0.03 * rng.standard_normal(len(frequency_hz))
    voice = scipy.signal.sosfilt(np.stack([1 - b - c, zero, zero, one, -b, -c], axis=-1), source)
    voice += 2 * band(voice, 5_000, 16_000)  # more treble
    time_s = np.arange(len(voice)) / SAMPLE_RATE
    return np.asarray(voice / voice.std() * np.minimum(1, time_s / 0.03) * np.minimum(1, time_s[::-1] / 0.05))


def hiss(consonant: str, rng: np.random.Generator) -> Signal:
    """Return the noise of an unvoiced consonant, for a voice of unit level; nothing of ''."""
    low_hz, high_hz, duration_s = _CONSONANTS[consonant]
    n_samples = int(duration_s * SAMPLE_RATE)
    if not n_samples:
        return np.zeros(0)
    noise = band(rng.standard_normal(n_samples), low_hz, high_hz)
    return np.asarray(0.35 * noise / noise.std() * np.sin(np.pi * np.linspace(0, 1, n_samples)))
