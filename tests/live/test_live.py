"""Live separation: what is played, PCM through pipes, recordings, and a device that a test stands in for."""

import dataclasses
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import types
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_models import music

from vocal_extraction.__main__ import main
from vocal_extraction.checkpointing import save_checkpoint
from vocal_extraction.errors import ExtractionError, SettingsError
from vocal_extraction.live import devices
from vocal_extraction.live.mixing import Mixer, parse_gains
from vocal_extraction.live.pcm import PcmInput, wav_header
from vocal_extraction.live.recording import Recorder
from vocal_extraction.live.worker import RING, Task
from vocal_extraction.networks import create_model
from vocal_extraction.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
STEMS = ("vocals", "accompaniment")
RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small untrained network that runs forwards only, with windows of 2,048 and two frames of lookahead."""
    torch.manual_seed(0)
    live = PRESETS["live"]
    preset = dataclasses.replace(
        live,
        name="small",
        signal=dataclasses.replace(live.signal, window_length=2_048, hop_length=512),
        network=dataclasses.replace(live.network, hidden_size=4, num_layers=1, lookahead=2),
    )
    return save_checkpoint(tmp_path_factory.mktemp("live") / "small.model.pth", create_model(preset), preset=preset)


DELAY = 2_048 + 2 * 512


@pytest.fixture
def live(monkeypatch, capsys):
    """A function that runs the command with standard input, and returns its status, what it gave and what it said."""

    def command(*arguments, data=b""):
        streams = io.TextIOWrapper(io.BytesIO(data)), io.TextIOWrapper(io.BytesIO())
        for name, stream in zip(("stdin", "stdout"), streams, strict=True):
            monkeypatch.setattr(sys, name, stream)
        status = main(["live", *map(str, arguments)])
        return status, streams[1].buffer.getvalue(), capsys.readouterr().err

    return command


# ------------------------------------------------------------------------------------------ what is played


@pytest.mark.parametrize(
    "text, gains", [("vocals=-inf,other=0", {"vocals": -np.inf, "other": 0.0}), (" drums = 3dB ", {"drums": 3.0})]
)
def test_gains_are_read(text, gains):
    assert parse_gains(text) == gains


@pytest.mark.parametrize("text", ["vocals", "vocals=loud", "vocals=nan", "vocals=99", ""])
def test_gains_that_are_none_are_refused(text):
    with pytest.raises(SettingsError):
        parse_gains(text)


def test_a_mix_is_the_sum_of_the_stems_with_their_gains():
    stems = noise(2, 1_000, 2)
    mixer = Mixer(STEMS, 44_100, gains_db={"vocals": -20.0, "other": 6.0})
    np.testing.assert_allclose(
        mixer.mix(stems, stems.sum(axis=0)), 0.1 * stems[0] + 10**0.3 * stems[1], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("key, gains", [("s", (1, 0)), ("k", (0, 1)), ("o", (1, 1)), ("?", (1, 0)), ("", (1, 0))])
def test_keys_choose_a_mix_that_is_faded_to(key, gains):
    stems = np.stack([np.full((2_000, 2), 0.5, np.float32), np.full((2_000, 2), 0.25, np.float32)])
    mixer = Mixer(STEMS, 44_100, gains_db={}, solo="vocals")
    mixer.choose(key)
    played = mixer.mix(stems, stems.sum(axis=0))
    assert np.abs(np.diff(np.concatenate([np.full((1, 2), 0.5), played]), axis=0)).max() < 0.01
    np.testing.assert_allclose(played[-1], 0.5 * gains[0] + 0.25 * gains[1])


def test_an_unknown_stem_is_named_with_those_that_are_there():
    with pytest.raises(SettingsError, match="'drums'; there are vocals, accompaniment"):
        Mixer(STEMS, 44_100, gains_db={}, solo="drums")


def test_late_blocks_are_the_mixture_and_the_way_back_is_faded():
    stems = np.stack([np.full((1_000, 1), 0.5, np.float32), np.full((1_000, 1), 0.25, np.float32)])
    mixture = stems.sum(axis=0)
    mixer = Mixer(STEMS, 44_100, gains_db={}, solo="vocals")
    mixer.mix(stems, mixture)
    first, second, back = (mixer.mix(each, mixture) for each in (None, None, stems))
    assert first[-1] == 0.75
    np.testing.assert_array_equal(second, mixture)
    assert back[-1] == 0.5
    assert np.abs(np.diff(np.concatenate([second, back]), axis=0)).max() < 0.01


# ------------------------------------------------------------------------------------------ PCM


def wav(samples, dtype, code=1, rate=44_100, extensible=False):
    """Return a wav file's bytes."""
    bits = 24 if dtype == "<i3" else 8 * np.dtype(dtype).itemsize
    data = (
        samples.astype("<i4").reshape(-1, 1).view(np.uint8).reshape(-1, 4)[:, :3]
        if dtype == "<i3"
        else samples.astype(dtype)
    ).tobytes()
    n_channels = samples.shape[1]
    form = struct.pack(
        "<HHIIHH",
        0xFFFE if extensible else code,
        n_channels,
        rate,
        rate * n_channels * bits // 8,
        n_channels * bits // 8,
        bits,
    )
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 3, code) + bytes(14)
    chunks = (
        b"fmt " + struct.pack("<I", len(form)) + form + b"LIST\x03\0\0\0abc\0data" + struct.pack("<I", len(data)) + data
    )
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks + b"LIST\x04\0\0\0abcd"


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("dtype, code, scale", [("<i2", 1, 2**15), ("<i3", 1, 2**23), ("<i4", 1, 2**31), ("<f4", 3, 1)])
def test_wavs_are_read_without_what_follows_the_samples(dtype, code, scale, extensible):
    samples = noise(5_000, 2)
    found = PcmInput(
        io.BytesIO(wav(samples * scale, dtype, code, rate=48_000, extensible=extensible)), sample_rate=1, n_channels=1
    )
    assert (found.sample_rate, found.n_channels) == (48_000, 2)
    np.testing.assert_allclose(np.concatenate(list(found.blocks())), samples, atol=1e-4)


@pytest.mark.parametrize("n_bytes", [1, 7, 8, 4_096, 10**6])
def test_raw_floats_are_read_however_they_arrive(n_bytes):
    class Slow(io.BytesIO):
        def read1(self, size=-1):
            return self.read(min(size, n_bytes))

    samples = noise(3_000, 2)
    found = PcmInput(Slow(samples.tobytes() + b"abc"), sample_rate=44_100, n_channels=2)
    np.testing.assert_array_equal(np.concatenate(list(found.blocks())), samples)


@pytest.mark.parametrize(
    "data",
    [
        b"RIFF",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"RIFF\0\0\0\0WAVEfmt \4\0\0\0\1\0\2\0data\4\0\0\0\0\0\0\0",
        b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\x7f",
        wav(noise(10, 2), "<f8", 3),
        wav(noise(10, 1), "<u1"),
    ],
)
def test_wavs_that_are_damaged_or_of_another_kind_are_refused(data):
    with pytest.raises(ExtractionError, match="wav"):
        PcmInput(io.BytesIO(data), sample_rate=44_100, n_channels=2)


def test_the_header_of_a_stream_is_read_by_ffmpeg(tmp_path):
    samples = noise(4_410, 2)
    (tmp_path / "stream.wav").write_bytes(wav_header(44_100, 2) + samples.tobytes())
    arguments = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "stream.wav"), "-f", "f32le", "-"]
    decoded = subprocess.run(arguments, capture_output=True, check=True, timeout=60).stdout
    np.testing.assert_array_equal(np.frombuffer(decoded, "<f4").reshape(-1, 2), samples)


def test_a_pipe_gets_the_mix_and_the_stems_are_recorded(checkpoint, tmp_path, live):
    song = music(1.5).T
    folder = tmp_path / "stems"
    options = ["--model", checkpoint, "--gain", "vocals=-inf,other=0", "--record", folder]
    status, given, said = live(*options, "-", data=song.tobytes())
    assert status == 0
    assert f"{1000 * DELAY / 44_100:.0f} ms behind" in said
    header = wav_header(44_100, 2)
    assert given.startswith(header)
    played = np.frombuffer(given[len(header) :], "<f4").reshape(-1, 2)
    vocals, rest = (recorded(folder / f"{name}.wav") for name in STEMS)
    assert len(played) == len(song) + DELAY
    assert not played[:DELAY].any()
    np.testing.assert_allclose(played[DELAY:], rest, atol=2**-22)
    np.testing.assert_allclose(vocals + rest, song, atol=2**-21)


def recorded(path):
    with wave.open(str(path)) as file:
        data = np.frombuffer(file.readframes(file.getnframes()), np.uint8).reshape(-1, 3)
    integers = np.concatenate([np.zeros((len(data), 1), np.uint8), data], axis=1).view("<i4")
    return (integers / 2.0**31).reshape(-1, 2)


@pytest.mark.parametrize(
    "arguments, data, sentence",
    [
        (["-"], b"RIFF1234WAVE", "ends within its header"),
        (["song.wav"], b"", "extract takes files"),
        (["--stem", "drums", "-"], b"", "no stem 'drums'"),
        (["-"], np.full(10, np.nan, np.float32).tobytes(), "a number near -1 to 1 is expected"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(checkpoint, live, arguments, data, sentence):
    status, _, said = live("--model", checkpoint, *arguments, data=data)
    assert status == 1
    assert sentence in said


def test_a_network_that_needs_the_whole_song_cannot_run_live(live):
    status, given, said = live("--preset", "classic", "-", data=bytes(80))
    assert (status, given) == (1, b"")
    assert "needs the whole song" in said


def test_a_reader_that_goes_ends_the_program(checkpoint):
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, "-m", "vocal_extraction", "live", "--model", checkpoint, "-"]
    with os.fdopen(write, "wb") as target:
        done = subprocess.run(
            program,
            input=noise(44_100, 2).tobytes(),
            stdout=target,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------ recordings


def test_a_recording_is_whole_after_every_block_and_replaces_nothing(tmp_path):
    folders, stems = [], {name: noise(3_000, 2) for name in STEMS}
    for _ in range(2):
        recorder = Recorder(tmp_path / "live", sample_rate=44_100, n_channels=2, delay=1_000)
        recorder.write(stems)
        recorder.write(stems)
        folders.append(recorder.folder)  # not closed: as after a kill
        np.testing.assert_allclose(
            recorded(recorder.folder / "vocals.wav"),
            np.concatenate([stems["vocals"][1_000:], stems["vocals"]]),
            atol=2**-22,
        )
    assert [folder.name for folder in folders] == ["live", "live-2"]


# ------------------------------------------------------------------------------------------ devices


class Device(types.ModuleType):
    """Stands in for sounddevice: a test calls the callback."""

    class PortAudioError(Exception):
        pass

    def _exit_handler(self):
        raise AssertionError

    def __init__(self):
        super().__init__("sounddevice")
        self.broken, self.latency = False, (0.01, 0.02)

    def Stream(self, *, callback, blocksize, channels, **settings):  # noqa: N802 - sounddevice's name
        if self.broken:
            raise self.PortAudioError("Invalid device")
        self.callback, self.shape = callback, (blocksize, channels)
        return types.SimpleNamespace(start=lambda: None, close=lambda: None, active=True, latency=self.latency)

    def play(self, block):
        played = np.empty(self.shape, np.float32)
        self.callback(block, played, len(block), None, None)
        return played


@pytest.fixture
def device(monkeypatch):
    found = Device()
    monkeypatch.setitem(sys.modules, "sounddevice", found)
    return found


def wait_for(session, n_done):
    until = time.monotonic() + 60
    while session._ring.counts[1] < n_done:
        assert time.monotonic() < until
        time.sleep(0.001)


def _may_hurry():
    """Tell whether a process of this user gets real-time priority."""
    ask = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return subprocess.run([sys.executable, "-S", "-c", ask], check=False, capture_output=True).returncode == 0


def test_a_device_gets_the_song_behind_by_the_stated_delay_and_late_blocks_are_counted(checkpoint, device, tmp_path):
    song = np.pad(music(0.5).T, ((0, 512 * 20), (0, 0)))
    blocks = [song[start : start + 512] for start in range(0, len(song) - 511, 512)]
    task = Task(str(checkpoint), None, 2, None, tmp_path / "stems")
    with devices.LiveSession(task, (None, None), n_ahead=2, gains_db={}) as session:
        if hasattr(os, "sched_getscheduler"):
            assert os.sched_getscheduler(session._worker.pid) == (os.SCHED_FIFO if _may_hurry() else os.SCHED_OTHER)
        played = []
        for number, block in enumerate(blocks):
            played.append(device.play(block))
            session.check()
            if number != 30:
                wait_for(session, number + 1)
        os.kill(session._worker.pid, signal.SIGSTOP)
        for _ in range(3):  # two may be under way
            device.play(blocks[0])
        assert session.n_late == 1
        os.kill(session._worker.pid, signal.SIGCONT)
    played, n_behind = np.concatenate(played), DELAY + 2 * 512
    assert session.delays_s == pytest.approx((n_behind / 44_100, 0.03))
    np.testing.assert_allclose(played[n_behind:], song[: len(played) - n_behind], atol=1e-6)
    vocals, rest = (recorded(tmp_path / f"stems/{name}.wav") for name in STEMS)
    np.testing.assert_allclose(vocals[:20_000] + rest[:20_000], song[:20_000], atol=2**-21)


def test_a_worker_that_is_far_behind_goes_on_with_the_newest_blocks_and_what_is_gone_is_named(
    checkpoint, device, monkeypatch
):
    device.latency = (2**32 / 44_100,) * 2  # PipeWire's JACK
    task = Task(str(checkpoint), None, 2, None, None)
    with devices.LiveSession(task, (None, None), n_ahead=2, gains_db={}) as session:
        assert session.delays_s[1] == 512 / 44_100
        session.check()
        block = noise(512, 2)
        os.kill(session._worker.pid, signal.SIGSTOP)
        for _ in range(RING):
            device.play(block)
        os.kill(session._worker.pid, signal.SIGCONT)
        wait_for(session, RING)
        assert session.n_late > 0
        n_late = session.n_late
        session._stream.active = False
        session.check()  # which opens another stream
        assert session._stream.active
        assert session.n_late > n_late
        with monkeypatch.context() as changed:
            changed.setattr(devices, "_STANDSTILL_S", -1.0)
            with pytest.raises(ExtractionError, match="unplugged"):
                session.check()
        device.play(block)
        session._stream.active, session._stream.close = False, threading.Event().wait  # a JACK server that has ended
        with monkeypatch.context() as changed:
            changed.setattr(devices, "_STANDSTILL_S", 0.1)
            with pytest.raises(ExtractionError, match="unplugged"):
                session.check()
        session._stream.close, device.broken = lambda: None, True
        with pytest.raises(ExtractionError, match="Invalid device"):
            session.check()
        session._worker.kill()
        session._worker.join()
        with pytest.raises(ExtractionError, match="ended by itself"):
            session.check()


@pytest.mark.parametrize(
    "options, sentence", [([], "Invalid device"), (["--preset", "classic"], "needs the whole song")]
)
def test_what_cannot_begin_is_a_sentence(checkpoint, device, capsys, options, sentence):
    device.broken = True
    assert main(["live", *(options or ["--model", str(checkpoint)])]) == 1
    assert sentence in capsys.readouterr().err
