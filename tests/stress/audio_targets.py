"""The edge to sound: wav headers for every reader of wavs, a decoder's stream, and what ffprobe says of a file."""

import dataclasses
import functools
import itertools
import shutil
import subprocess
import tempfile
import unittest.mock
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stress import inputs
from stress.inputs import Target, refusing


def _take_wav(data: bytes, folder: Path) -> None:
    """Every reader of wavs gets the same file."""
    from vocal_extraction.musdb_preparation.decoding import _check_wav
    from vocal_extraction.rendering.stems import duration_s_of, read_excerpt
    from vocal_extraction.tracks import _plain_track

    path = folder / "song.wav"
    path.write_bytes(data)
    with refusing():
        _check_wav(path)
    with refusing():
        track = _plain_track("song", {"vocals": path}, None)
        if track is not None and track.n_samples < 2**16:
            track.read(0, track.n_samples)
    with refusing():
        duration_s_of(path)
        read_excerpt(path, start_s=0.0, duration_s=0.001, sample_rate=44_100)


class _Decoder:
    """Gives what a decoder would have written, in pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    def __enter__(self) -> "_Decoder":
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, *, wait_forever: bool = False) -> bytes:
        return next((piece for piece in self._pieces if piece), b"")

    def close(self) -> str:
        return ""


def _streams() -> st.SearchStrategy[list[bytes]]:
    """A decoder's stream, cut anywhere."""

    def cut(data: bytes, at: list[int]) -> list[bytes]:
        places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
        return [data[start:stop] for start, stop in itertools.pairwise(places)]

    return st.builds(cut, inputs.wav_files(), st.lists(st.integers(0, 200), max_size=4))


def _take_stream(pieces: list[bytes], folder: Path) -> None:
    from vocal_extraction.audio_files import decoding, probing

    decoded = unittest.mock.patch.object(decoding, "Ffmpeg", lambda *_, **__: _Decoder(pieces))
    with decoded, refusing(), decoding.SongReader(probing.SongFacts()) as reader:
        assert reader.n_channels > 0
        assert reader.sample_rate > 0
        for block in reader.blocks():
            assert block.shape[1] == reader.n_channels


_PROBED: dict[str, Any] = {
    "streams": [
        {
            "index": 0,
            "codec_type": "audio",
            "codec_name": "mp3",
            "duration": "1.5",
            "sample_rate": "44100",
            "channels": 2,
            "channel_layout": "stereo",
            "tags": {"title": "Song", "encoder": "x"},
            "disposition": {"attached_pic": 0},
        },
        {
            "index": 1,
            "codec_type": "video",
            "codec_name": "png",
            "width": 3,
            "height": 3,
            "disposition": {"attached_pic": 1},
        },
    ],
    "format": {"format_name": "mp3", "duration": "1.5", "tags": {"artist": "a=b;c"}},
}


@st.composite
def _probed_files(draw: st.DrawFn) -> tuple[bytes, dict[str, Any], str]:
    """A file's bytes, and what ffprobe says of it, some of which may be missing: a dictionary, messages."""
    content = draw(st.one_of(st.binary(max_size=60), inputs.mutated(b"OggS\0\4" + bytes(20)), inputs.wav_files()))
    messages = draw(st.sampled_from(("", "Estimating duration from bitrate", "moov atom not found", "[x @ 1] odd\n")))
    document: Any = _PROBED
    kind = draw(st.sampled_from(("mp3", "wav", "ogg")))
    document = {**document, "format": {**document["format"], "format_name": kind}}
    streams = [
        {name: value for name, value in stream.items() if name == "index" or draw(st.booleans())}
        for stream in _PROBED["streams"]
    ]
    return content, {**document, "streams": streams}, messages


def _take_probed(drawn: tuple[bytes, dict[str, Any], str], folder: Path) -> None:
    from vocal_extraction.audio_files import probing
    from vocal_extraction.audio_files.tags import gather
    from vocal_extraction.output_formats import FORMATS

    content, answer, messages = drawn
    path = folder / "song.any"
    path.write_bytes(content)
    with unittest.mock.patch.object(probing, "_ask_ffprobe", lambda *_: (answer, messages)), refusing():
        facts = probing.examine(path)
        gather(dataclasses.replace(facts, cover=None), FORMATS["flac"], folder=folder)
        assert facts.duration_s is None or facts.duration_s >= 0
        assert all(0 <= number < 2**31 for number in (facts.sample_rate, facts.n_channels))


@functools.cache
def _songs() -> tuple[bytes, ...]:
    """A tenth of a second of noise in several formats, as ffmpeg writes it."""
    songs = []
    noise = ["-f", "lavfi", "-i", "anoisesrc=d=0.1:r=8000:seed=1"]
    with tempfile.TemporaryDirectory() as folder:  # an AVI that goes through a pipe has no index
        for kind in ("wav", "flac", "mp3", "ogg", "aiff", "au", "adts", "matroska", "caf", "avi", "w64"):
            song = Path(folder, kind)
            command = ["ffmpeg", "-nostdin", "-v", "error", *noise, "-fflags", "+bitexact", "-f", kind, str(song)]
            subprocess.run(command, check=True, timeout=60)
            songs.append(song.read_bytes())
    return tuple(songs)


@functools.cache
def _model() -> Any:
    """A tiny network of the kind that ships, whose layers a song goes through one by one."""
    import torch

    from vocal_extraction.checkpointing import CheckpointMetadata, LoadedModel, MaskNetwork
    from vocal_extraction.settings import SignalSettings

    signal = SignalSettings()
    arguments = {"num_audio_channels": 1, "hidden_size": 2, "num_layers": 2, "bidirectional": True, "dropout": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MaskNetwork("MaskInference", {"num_features": signal.n_bins, "num_sources": 1, **arguments}).eval()
    metadata = CheckpointMetadata(signal)
    return LoadedModel(network, signal, 1, ("vocals",), "mask", metadata, Path("tiny.pth"), "0" * 64)


def _take_song(data: bytes, folder: Path) -> None:
    """The whole way: ffprobe, ffmpeg, the network, and the files of the stems."""
    from vocal_extraction.extraction import extract_vocals

    (folder / "song").write_bytes(data)
    with refusing():
        outcome = extract_vocals(folder / "song", folder / "out", model=_model())
        assert outcome.outcome == "done"
    left = {path.name for path in folder.rglob("*") if path.is_file()} - {"song", "manifest.jsonl"}
    assert left in (set(), {"vocals.wav", "accompaniment.wav"}), left
    shutil.rmtree(folder / "out", ignore_errors=True)


AUDIO_TARGETS = (
    Target("wav files", inputs.wav_files, _take_wav, 14_000),
    Target("decoder's stream", _streams, _take_stream, 10_000),
    Target("ffprobe's answers", _probed_files, _take_probed, 14_000, n_guided=6_000),
    Target("whole songs", lambda: st.sampled_from(_songs()).flatmap(inputs.mutated), _take_song, 400),
)
