"""Synthesised songs with known stems, for the demonstration and the tests where there is no MUSDB18.

A seed decides key, tempo, progression, singer and groove of a pop song, whose stems have usual levels and places.
"""

import os

import numpy as np

from vocal_extraction.atomic_files import remove_leftovers
from vocal_extraction.demo_songs.players import play_bass, play_chords, play_drums, sing
from vocal_extraction.demo_songs.sound import Signal, compose
from vocal_extraction.errors import SettingsError
from vocal_extraction.musdb_preparation import (
    SAMPLE_RATE,
    STREAMS,
    SUBSETS,
    make_folders,
    prepared_length,
    song_names,
    write_song,
)
from vocal_extraction.progress import counted

# Power of a stem relative to the mixture's, and a mixture's peak: medians over the MUSDB18 sample's 80 training songs.
STEM_LEVELS_DB = {"bass": -7.2, "drums": -7.1, "other": -6.2, "vocals": -5.3}
MIXTURE_PEAK = 0.85
_SHORTEST_S = 1.0
_SEEDS_PER_SUBSET = 10_000


def synthesize_song(seed: int, duration_s: float = 7.0) -> dict[str, Signal]:
    """Compose and play the song of `seed`, 0 or more, in `duration_s` seconds, 1 or more.

    Returns arrays (n_channels=2, n_samples) under bass, drums, other and vocals, which add up to the mixture. Raises
    SettingsError if an argument is out of its range.

    >>> stems = synthesize_song(7, 2.0)
    >>> sorted(stems), stems["vocals"].shape
    (['bass', 'drums', 'other', 'vocals'], (2, 88200))
    """
    _check(seed, duration_s)
    score = compose(_generator(seed, "score"), round(duration_s * SAMPLE_RATE))
    players = {"bass": play_bass, "drums": play_drums, "other": play_chords, "vocals": sing}
    stems = {stem: play(score, _generator(seed, stem)) for stem, play in players.items()}
    rng = _generator(seed, "levels")
    for stem, level_db in STEM_LEVELS_DB.items():
        gain_db = level_db + rng.normal(0, 1.5)
        stems[stem] *= 10 ** (gain_db / 20) / np.sqrt(np.mean(stems[stem] ** 2) + 1e-12)
    gain = MIXTURE_PEAK / np.abs(sum(stems.values())).max()
    return {stem: gain * signal for stem, signal in stems.items()}


def _check(seed: int, duration_s: float, *counts: int) -> None:
    if seed < 0 or not duration_s >= _SHORTEST_S or not all(0 <= count <= _SEEDS_PER_SUBSET for count in counts):
        raise SettingsError(
            f"Demo songs need a seed of 0 or more, {_SHORTEST_S:g} s or more, and 0 to {_SEEDS_PER_SUBSET} songs a "
            f"subset. Got seed {seed}, {duration_s} s and {counts}."
        )


def _generator(seed: int, part: str) -> np.random.Generator:
    return np.random.default_rng([seed, *part.encode()])


def write_demo_songs(
    dataset_folder: str | os.PathLike[str],
    *,
    n_train: int,
    n_valid: int,
    n_test: int,
    duration_s: float,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, int]:
    """Write synthesised songs into the layout of `musdb_preparation`, except those that are there already.

    No two songs are the same; another `seed`, 0 or more, makes other songs under other names. Returns how many complete
    songs each subset has. Raises SettingsError if a number is out of its range.
    """
    counts = dict(zip(SUBSETS, (n_train, n_valid, n_test), strict=True))
    _check(seed, duration_s, *counts.values())
    make_folders(dataset_folder)
    remove_leftovers(dataset_folder)
    songs = [(subset, number) for subset, count in counts.items() for number in range(count)]
    for subset, number in counted(songs, len(songs), "synthesising", show=progress):
        name = f"Demo {seed} - {subset} {number + 1:03d}"
        if prepared_length(dataset_folder, subset, name) != round(duration_s * SAMPLE_RATE):
            song_seed = (seed * len(SUBSETS) + SUBSETS.index(subset)) * _SEEDS_PER_SUBSET + number
            stems = synthesize_song(song_seed, duration_s)
            signals = [sum(stems.values()) if stream == "mixture" else stems[stream] for stream in STREAMS]
            write_song(dataset_folder, subset, name, [np.stack(signals).transpose(2, 0, 1)])
    return {subset: len(song_names(subset, dataset_folder)) for subset in SUBSETS}
