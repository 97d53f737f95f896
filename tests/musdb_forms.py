"""MUSDB18's two forms, made from synthesised songs, and what the tests of the preparation look at."""

import subprocess

import numpy as np
import soundfile

from vocal_extraction.demo_songs import synthesize_song
from vocal_extraction.musdb_preparation import STREAMS, SUBSETS, prepared_length, song_names, song_paths

SAMPLE_RATE = 44_100
VALID_SONG = "Actions - One Minute Smile"  # one of those that musdb validates on
SONGS = {
    "train": [VALID_SONG, "Ärger & Söhne - 100% 'Live' [x] {y} #1; $HOME", "-i - a:b?*"],
    "test": ["A.B. - C.D."],
}
COUNTS = {"train": 2, "valid": 1, "test": 1}


def make_hq_folder(folder):
    """Make songs as in MUSDB18-HQ: a folder of 16-bit wavs each."""
    for seed, (part, name) in enumerate((part, name) for part, names in SONGS.items() for name in names):
        stems = synthesize_song(seed, 1.7)
        (folder / part / name).mkdir(parents=True)
        for stream in STREAMS:
            samples = np.sum(list(stems.values()), axis=0) if stream == "mixture" else stems[stream]
            soundfile.write(folder / part / name / f"{stream}.wav", samples.T, SAMPLE_RATE, subtype="PCM_16")
    return folder


def encode(wavs, stem_file):
    """Make a stem file: one AAC stream for each wav."""
    stem_file.parent.mkdir(parents=True, exist_ok=True)
    inputs = [argument for wav in wavs for argument in ("-i", f"file:{wav}")]
    maps = [argument for i in range(len(wavs)) for argument in ("-map", str(i))]
    command = ["ffmpeg", "-v", "error", *inputs, *maps, "-c:a", "aac", "-b:a", "256k", "-f", "mp4", f"file:{stem_file}"]
    subprocess.run(command, check=True, timeout=60)


def make_coded_folder(hq_folder, folder):
    """Make stem files of the songs in `hq_folder`."""
    for part, names in SONGS.items():
        for name in names:
            wavs = [hq_folder / part / name / f"{stream}.wav" for stream in STREAMS]
            encode(wavs, folder / part / f"{name}.stem.mp4")
    return folder


def one_song(hq_folder, folder, **changed_wavs):
    """Make a source of the one song `Song` in train, whose wavs are links except those given as (samples, rate)."""
    song = folder / "train" / "Song"
    song.mkdir(parents=True)
    for stream in STREAMS:
        if stream in changed_wavs:
            soundfile.write(song / f"{stream}.wav", *changed_wavs[stream], subtype="FLOAT")
        else:
            (song / f"{stream}.wav").symlink_to(hq_folder / "train" / VALID_SONG / f"{stream}.wav")
    return folder


def read_song(dataset_folder, subset, name):
    return {stream: soundfile.read(path)[0] for stream, path in song_paths(dataset_folder, subset, name).items()}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_nothing_half_done(dataset_folder):
    """Every file under a final name belongs to a song of which all files are there, and none has another name."""
    expected = {
        path
        for subset in SUBSETS
        for name in song_names(subset, dataset_folder)
        for path in song_paths(dataset_folder, subset, name).values()
    }
    found = {path for path in dataset_folder.rglob("*") if path.is_file() and path.name != "sources.json"}
    assert found == expected
    assert all(
        prepared_length(dataset_folder, subset, name) > 0
        for subset in SUBSETS
        for name in song_names(subset, dataset_folder)
    )
